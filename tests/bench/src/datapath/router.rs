//! A router in a namespace, in one of the modes that are compared.
//!
//! ```text
//! frames -> lan (veth) | router | wan -> sink
//! ```
//!
//! The WAN is a veth device whose other end has an XDP program that counts frames and drops them, or
//! a tap that nobody reads. Both cost the same for all modes.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use portcullis_bus::network::InterfaceStatus;
use portcullis_netns::{Namespace, execute};

use super::{
    bpf::{Words, XdpProgram, instruction, load_value},
    clock::Meter,
    conntrack,
    frame::{Content, FIRST_PORT, PORTS, Template},
    generator::{Generator, Numbered, Order, Then},
    mode::Mode,
    ours::{Ours, Settings},
    witness::transmitted,
};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER_PORT: u16 = 9;
/// The host and the provider's router do not exist as machines; only their addresses matter.
const NEIGHBOUR: &str = "02:00:00:00:00:99";

/// Frames that XDP hands to a device at once (DEV_MAP_BULK_SIZE in Linux).
const XDP_BULK: u32 = 16;

/// Frames that a tap keeps for its reader, rounded up to whole bulks.
const TAP_QUEUE: u32 = 1024;

/// What the WAN is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Uplink {
    /// A tap that nobody reads: it takes every frame and drops it at once.
    Tap,
    /// The same, and like a NIC it takes aggregated TCP segments and writes checksums by itself.
    Offload,
    /// A veth device, which sends frames that XDP redirects to it.
    Veth,
}

/// How frames come in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Downlink {
    /// They begin at the LAN device.
    Direct,
    /// They come out of the device at the other end of the LAN, so that the LAN's NAPI receives
    /// them: with XDP, or with GRO and the stack.
    Wire,
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What forwards.
    pub mode: Mode,
    /// What the WAN is.
    pub uplink: Uplink,
    /// How frames come in.
    pub downlink: Downlink,
    /// Flows that our table holds.
    pub capacity: u32,
    /// Rules of our policy.
    pub rules: u32,
}

/// The router.
pub struct Router {
    plan: Plan,
    router: Namespace,
    host: Namespace,
    lan: Device,
    wan: Device,
    /// The LAN's other end.
    wire: Device,
    program: Option<XdpProgram>,
    ours: Option<Ours>,
    sink: Option<Sink>,
    // Kept for what they hold open.
    _attached: Vec<OwnedFd>,
    _tap: Option<File>,
    _provider: Namespace,
}

/// A network device.
pub struct Device {
    index: u32,
    mac: [u8; 6],
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// From the LAN to the WAN.
    Out,
    /// Back.
    Back,
}

impl Router {
    /// Builds one.
    pub fn new(plan: Plan) -> Result<Self> {
        let router = Namespace::new("bench")?;
        let host = Namespace::new("benchh")?;
        let provider = Namespace::new("benchp")?;
        // Neighbour discovery would be counted among the packets.
        for namespace in [&router, &host, &provider] {
            namespace.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")?;
        }
        router.join("lan", &host, "eth0")?;
        let tap = match plan.uplink {
            Uplink::Tap => Some(router.tap("wan", false)?),
            Uplink::Offload => {
                let tap = router.tap("wan", true)?;
                offload(&tap)?;
                Some(tap)
            }
            Uplink::Veth => {
                router.join("wan", &provider, "eth0")?;
                None
            }
        };
        for line in [
            "tc qdisc replace dev wan root noqueue",
            "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan.rp_filter=0 \
             net.ipv4.conf.wan.rp_filter=0 net.ipv4.ip_forward=1",
            &format!("ip address add {WAN}/24 dev wan"),
            "ip address add 192.168.0.1/16 dev lan",
            &format!("ip neigh add 198.51.100.1 lladdr {NEIGHBOUR} dev wan nud permanent"),
            &format!("ip neigh add {HOST} lladdr {NEIGHBOUR} dev lan nud permanent"),
            "ip route add default via 198.51.100.1",
        ] {
            router.run(line)?;
        }
        if let Some(ruleset) = plan.mode.ruleset() {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("rules.nft");
            fs::write(&path, ruleset)?;
            execute(router.command("nft").arg("-f").arg(&path))?;
            // Live frames lack the mark that a card has found their checksum right, without which
            // connection tracking would sum each packet up.
            router.run("sysctl -qw net.netfilter.nf_conntrack_checksum=0")?;
        }
        let lan = Device::of(&router, "lan")?;
        let wan = Device::of(&router, "wan")?;
        let wire = Device::of(&host, "eth0")?;
        let interfaces = [
            status("lan", &lan, "192.168.0.1/16".to_owned()),
            status("wan", &wan, format!("{WAN}/24")),
        ];
        let mut attached = Vec::new();
        let sink = match plan.uplink {
            Uplink::Tap | Uplink::Offload => None,
            Uplink::Veth => {
                let sink = Sink::new()?;
                let device = Device::of(&provider, "eth0")?;
                attached.push(provider.enter(|| sink.program.attach(device.index))?);
                Some(sink)
            }
        };
        // Frames begin on it, or XDP sends to it.
        attached.push(occupy(&host, &wire)?);
        let mut ours = None;
        if plan.mode.is_ours() {
            let xdp = plan.mode == Mode::Xdp;
            let settings = Settings { xdp, capacity: plan.capacity, rules: plan.rules };
            ours = Some(Ours::attach(&router, &interfaces, settings)?);
        }
        let program = match (plan.mode, &ours) {
            (Mode::Xdp, Some(ours)) => Some(ours.xdp()?),
            (Mode::Redirect, _) => Some(redirect(wan.index)?),
            _ => None,
        };
        if plan.mode != Mode::Xdp {
            if plan.uplink == Uplink::Veth {
                attached.push(occupy(&router, &wan)?);
            }
            match (plan.downlink, &program) {
                (Downlink::Wire, Some(program)) => {
                    attached.push(router.enter(|| program.attach(lan.index))?);
                }
                (Downlink::Wire, None) => router.run("ethtool -K lan gro on").map(drop)?,
                (Downlink::Direct, _) => attached.push(occupy(&router, &lan)?),
            }
        }
        Ok(Self {
            plan,
            router,
            host,
            lan,
            wan,
            wire,
            program,
            ours,
            sink,
            _attached: attached,
            _tap: tap,
            _provider: provider,
        })
    }

    /// What it was built as.
    pub fn mode(&self) -> Mode {
        self.plan.mode
    }

    /// Frames of a number of flows (a power of two) in this direction.
    pub fn frames(
        &self,
        content: Content,
        way: Way,
        order: Order,
        flows: u32,
    ) -> Result<Generator> {
        let then = match (self.plan.downlink, way, &self.program) {
            (Downlink::Wire, Way::Out, _) => Then::Redirect(self.wire.index),
            (_, _, Some(program)) => Then::Call(program),
            _ => Then::Pass,
        };
        let own_mac = match way {
            Way::Out => self.lan.mac,
            Way::Back => self.wan.mac,
        };
        // Flows that the ports cannot number go to other servers. One of them is the first of its
        // block, so that its number can be added to its address.
        let server = if flows > PORTS { Ipv4Addr::new(203, 0, 112, 0) } else { SERVER };
        let [_, _, high, low] = server.octets();
        let low = u16::from_be_bytes([high, low]);
        let (from, to, numbered) = match way {
            Way::Out => ((HOST, FIRST_PORT), (server, SERVER_PORT), Numbered::Source),
            Way::Back => ((server, SERVER_PORT), (WAN, FIRST_PORT), Numbered::Destination),
        };
        let template = Template::new(content, own_mac, from, to, low);
        Generator::new(template, low, numbered, order, flows, &then)
    }

    /// Opens UDP flows and has them answered, as connection tracking calls a flow established only
    /// then.
    pub fn establish(&self, flows: u32) -> Result<()> {
        // A tap counts nothing until its queue is full.
        let requests = self.frames(Content::Udp, Way::Out, Order::InTurn, flows)?;
        self.send(&requests, Way::Out, flows.max(TAP_QUEUE))?;
        if self.plan.mode.translates() {
            let answers = self.frames(Content::Udp, Way::Back, Order::InTurn, flows)?;
            self.send(&answers, Way::Back, flows)?;
        }
        Ok(())
    }

    /// Opens TCP connections: both SYNs and the first acknowledgement.
    pub fn connect(&self, flows: u32) -> Result<()> {
        for (content, way, count) in [
            (Content::Syn, Way::Out, flows),
            (Content::SynAck, Way::Back, flows),
            // A tap counts nothing until its queue is full.
            (Content::Segment(4), Way::Out, flows.max(TAP_QUEUE)),
        ] {
            if way == Way::Out || self.plan.mode.translates() {
                self.send(&self.frames(content, way, Order::InTurn, flows)?, way, count)?;
            }
        }
        Ok(())
    }

    /// Has frames of these forwarded to the WAN; cost of each.
    ///
    /// # Errors
    /// If not all of them came out as they should.
    pub fn forward(&mut self, frames: &Generator, packets: u32, meter: Meter) -> Result<f64> {
        let before = self.arrived()?;
        let cost = match self.plan.downlink {
            Downlink::Direct => self.router.enter(|| cost(frames, self.lan.index, packets, meter)),
            Downlink::Wire => self.host.enter(|| cost(frames, self.wire.index, packets, meter)),
        }?;
        let passed = self.arrived()? - before;
        // A tap counts what the stack aggregated as one, and one of each bulk that XDP sends.
        let together = match self.plan.uplink {
            Uplink::Offload => XDP_BULK.min(frames.in_a_row()),
            Uplink::Tap | Uplink::Veth => 1,
        };
        ensure!(
            passed == u64::from(packets / together),
            "{}: {passed} of {packets} packets were forwarded and translated ({})",
            self.plan.mode.name(),
            self.explain()
        );
        Ok(cost)
    }

    /// Ends all flows.
    pub fn forget(&mut self) -> Result<()> {
        match &mut self.ours {
            Some(ours) => ours.forget(),
            None => self.router.enter(conntrack::flush),
        }
    }

    /// Replaces our policy by one of this many rules; peers have none.
    pub fn set_rules(&mut self, rules: u32) -> Result<()> {
        match &mut self.ours {
            Some(ours) => {
                self.router.enter(|| ours.set_rules(rules))?;
                // A policy that needs larger tables has other programs.
                if self.plan.mode == Mode::Xdp {
                    self.program = Some(ours.xdp()?);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Our firewall, if that is what forwards.
    pub fn ours(&self) -> Option<&Ours> {
        self.ours.as_ref()
    }

    /// Our firewall, to be looked after by the caller, who keeps it for as long as packets flow.
    pub fn take_ours(&mut self) -> Option<Ours> {
        self.ours.take()
    }

    /// Runs `body` in the router's namespace.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.router.enter(body)
    }

    /// Has frames of these sent, whatever becomes of them.
    pub fn send(&self, frames: &Generator, way: Way, packets: u32) -> Result<()> {
        match (self.plan.downlink, way) {
            (Downlink::Wire, Way::Out) => self.host.enter(|| frames.send(self.wire.index, packets)),
            (Downlink::Direct, Way::Out) => {
                self.router.enter(|| frames.send(self.lan.index, packets))
            }
            (_, Way::Back) => self.router.enter(|| frames.send(self.wan.index, packets)),
        }
    }

    /// What became of packets, as far as this mode can tell.
    fn explain(&mut self) -> String {
        self.ours.as_mut().map(Ours::explain).unwrap_or_default()
    }

    /// Packets that came out as they should.
    pub fn arrived(&self) -> Result<u64> {
        if let Some(sink) = &self.sink {
            let [all, translated] = sink.counts.get()?;
            return Ok(if self.plan.mode.translates() { translated } else { all });
        }
        // A tap counts what it had room for and what it dropped.
        let table = self.router.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let fields = transmitted(&table, "wan")?;
        fields.get(1).zip(fields.get(3)).map(|(sent, dropped)| sent + dropped).context("fields")
    }
}

fn cost(frames: &Generator, device: u32, packets: u32, meter: Meter) -> Result<f64> {
    let before = meter.read()?;
    frames.send(device, packets)?;
    let spent = meter.read()?.checked_sub(before).context("the clock ran backwards")?;
    Ok(spent as f64 / f64::from(packets))
}

impl Device {
    /// The one of this name.
    pub fn of(namespace: &Namespace, name: &str) -> Result<Self> {
        let line = namespace.run(&format!("ip -o link show dev {name}"))?;
        let index = line.split(':').next().context("index")?.trim().parse()?;
        let text = line.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(text.context("hardware address")?.split(':')) {
            *to = u8::from_str_radix(from, 16)?;
        }
        Ok(Self { index, mac })
    }
}

/// Gives a device on which frames begin the receive queue that they need: a veth device has one only
/// with a program. It sees no packet of these.
fn occupy(namespace: &Namespace, device: &Device) -> Result<OwnedFd> {
    let pass = [instruction(0xb7, 0, 0, 0, 2), instruction(0x95, 0, 0, 0, 0)];
    let program = XdpProgram::load("idle", &pass)?;
    namespace.enter(|| program.attach(device.index))
}

fn offload(tap: &File) -> Result<()> {
    const CHECKSUM_AND_TSO4: libc::c_ulong = 3;
    // SAFETY: TUNSETOFFLOAD takes a number.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, CHECKSUM_AND_TSO4) };
    ensure!(result == 0, "TUNSETOFFLOAD: {}", std::io::Error::last_os_error());
    Ok(())
}

/// What the network service would say of it.
pub fn status(name: &str, device: &Device, address: String) -> InterfaceStatus {
    InterfaceStatus {
        name: name.to_owned(),
        device: name.to_owned(),
        index: device.index,
        mac: device.mac.map(|byte| format!("{byte:02x}")).join(":"),
        zone: name.to_owned(),
        addresses: vec![address],
        ..InterfaceStatus::default()
    }
}

/// Drops frames; counts them, and those from the WAN's address.
struct Sink {
    program: XdpProgram,
    counts: Words<2>,
}

impl Sink {
    fn new() -> Result<Self> {
        let counts = Words::new()?;
        let [load, load_more] = load_value(1, &counts);
        let program = XdpProgram::load(
            "sink",
            &[
                instruction(0x61, 2, 1, 0, 0), // r2 = data
                instruction(0x61, 3, 1, 4, 0), // r3 = data_end
                instruction(0xbf, 4, 2, 0, 0),
                instruction(0x07, 4, 0, 0, 34),
                instruction(0x2d, 4, 3, 10, 0), // if too short, out
                instruction(0x61, 5, 2, 26, 0), // r5 = source address
                load,
                load_more,
                instruction(0x79, 0, 1, 0, 0),
                instruction(0x07, 0, 0, 0, 1),
                instruction(0x7b, 1, 0, 0, 0),
                instruction(0x56, 5, 0, 3, u32::from_ne_bytes(WAN.octets())), // if w5 != WAN, out
                instruction(0x79, 0, 1, 8, 0),
                instruction(0x07, 0, 0, 0, 1),
                instruction(0x7b, 1, 0, 8, 0),
                instruction(0xb7, 0, 0, 0, 1), // out: XDP_DROP
                instruction(0x95, 0, 0, 0, 0),
            ],
        )?;
        Ok(Self { program, counts })
    }
}

/// A program that writes the Ethernet addresses and redirects: what any router must do.
fn redirect(device: u32) -> Result<XdpProgram> {
    XdpProgram::load(
        "redirect",
        &[
            instruction(0x61, 2, 1, 0, 0), // r2 = data
            instruction(0x61, 3, 1, 4, 0), // r3 = data_end
            instruction(0xbf, 4, 2, 0, 0),
            instruction(0x07, 4, 0, 0, 14),
            instruction(0x2d, 4, 3, 7, 0), // if too short, out
            instruction(0x62, 2, 0, 0, 0x2),
            instruction(0x62, 2, 0, 4, 0x2_9900),
            instruction(0x62, 2, 0, 8, 0x9900_0000),
            instruction(0xb7, 1, 0, 0, device),
            instruction(0xb7, 2, 0, 0, 0),
            instruction(0x85, 0, 0, 0, 23), // bpf_redirect
            instruction(0x95, 0, 0, 0, 0),
            instruction(0xb7, 0, 0, 0, 0), // out: XDP_ABORTED
            instruction(0x95, 0, 0, 0, 0),
        ],
    )
}
