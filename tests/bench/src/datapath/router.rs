//! A router in a namespace, in one of the modes that are compared.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use portcullis_bus::network::InterfaceStatus;
use portcullis_datapath_abi::Counter;
use portcullis_firewall::{
    compile::{Standing, compile},
    datapath::Datapath,
    install::{InForce, install},
};
use portcullis_model::{Document, part::FirewallPart};
use portcullis_netns::{Namespace, execute};

use super::live_frames::{FIRST_PORT, FRAME, Generator, Vary};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER_PORT: u16 = 9;
/// The tap and the host do not exist as machines; only their addresses matter.
const NEIGHBOUR: &str = "02:00:00:00:00:99";

/// What forwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Our datapath on tcx.
    Ours,
    /// nftables: stateful filter and masquerade.
    Masquerade,
    /// The same with a software flowtable.
    Flowtable,
    /// The kernel, without filter and NAT.
    Plain,
}

impl Mode {
    /// All, in the order in which they take turns.
    pub const ALL: [Self; 4] = [Self::Ours, Self::Masquerade, Self::Flowtable, Self::Plain];

    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "Portcullis tcx",
            Self::Masquerade => "nftables masquerade",
            Self::Flowtable => "nftables flowtable",
            Self::Plain => "plain kernel forwarding",
        }
    }

    fn ruleset(self) -> Option<String> {
        let (flowtable, offload) = match self {
            Self::Masquerade => ("", ""),
            Self::Flowtable => (
                "flowtable ft { hook ingress priority 0; devices = { lan, wan }; }",
                "ip protocol udp flow add @ft",
            ),
            Self::Ours | Self::Plain => return None,
        };
        Some(format!(
            "table ip router {{
                {flowtable}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    {offload}
                    ct state established,related accept
                    iifname lan oifname wan accept
                }}
                chain postrouting {{
                    type nat hook postrouting priority 100;
                    oifname wan masquerade
                }}
            }}"
        ))
    }
}

/// The router.
pub struct Router {
    mode: Mode,
    namespace: Namespace,
    lan: u32,
    requests: Generator,
    answers: Generator,
    flows: u32,
    // Kept for what it holds open or removes when it goes.
    _occupied: OwnedFd,
    _tap: File,
    _peer: Namespace,
    datapath: Option<(Datapath, Pins)>,
}

/// A folder in the BPF file system that goes away with this value.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Router {
    /// Builds one for a number of flows.
    pub fn new(mode: Mode, flows: u32) -> Result<Self> {
        let namespace = Namespace::new("bench")?;
        let peer = Namespace::new("benchp")?;
        // Its neighbour discovery would be counted among the packets.
        namespace.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")?;
        namespace.join("lan", &peer, "eth0")?;
        let tap = namespace.tap("wan", false)?;
        for line in [
            "tc qdisc replace dev wan root noqueue",
            "sysctl -qw net.ipv4.conf.all.rp_filter=0",
            "sysctl -qw net.ipv4.conf.default.rp_filter=0",
            "sysctl -qw net.ipv4.conf.lan.rp_filter=0",
            "sysctl -qw net.ipv4.ip_forward=1",
            &format!("ip address add {WAN}/24 dev wan"),
            "ip address add 192.168.77.1/24 dev lan",
            &format!("ip neigh add 198.51.100.1 lladdr {NEIGHBOUR} dev wan nud permanent"),
            &format!("ip neigh add {HOST} lladdr {NEIGHBOUR} dev lan nud permanent"),
            "ip route add default via 198.51.100.1",
        ] {
            namespace.run(line)?;
        }
        if let Some(ruleset) = mode.ruleset() {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("rules.nft");
            std::fs::write(&path, ruleset)?;
            execute(namespace.command("nft").arg("-f").arg(&path))?;
        }
        let status = |name: &str, device: &str, address: String| -> Result<InterfaceStatus> {
            let read = |file: &str| {
                let path = format!("/sys/class/net/{device}/{file}");
                namespace.run(&format!("cat {path}")).map(|text| text.trim().to_owned())
            };
            Ok(InterfaceStatus {
                name: name.to_owned(),
                device: device.to_owned(),
                index: read("ifindex")?.parse()?,
                mac: read("address")?,
                zone: name.to_owned(),
                addresses: vec![address],
                ..InterfaceStatus::default()
            })
        };
        let interfaces = [
            status("lan", "lan", "192.168.77.1/24".to_owned())?,
            status("wan", "wan", format!("{WAN}/24"))?,
        ];
        let [lan, _] = &interfaces;
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(lan.mac.split(':')) {
            *to = u8::from_str_radix(from, 16)?;
        }
        let lan = lan.index;
        let datapath = match mode {
            Mode::Ours => Some(attach(&namespace, &interfaces)?),
            Mode::Masquerade | Mode::Flowtable | Mode::Plain => None,
        };
        let request = frame(mac, (HOST, FIRST_PORT), (SERVER, SERVER_PORT));
        let answer = frame(mac, (SERVER, SERVER_PORT), (WAN, FIRST_PORT));
        let requests = Generator::new(request, Vary::Source, flows)?;
        let occupied = namespace.enter(|| requests.occupy(lan))?;
        Ok(Self {
            mode,
            namespace,
            lan,
            requests,
            answers: Generator::new(answer, Vary::Destination, flows)?,
            flows,
            _occupied: occupied,
            _tap: tap,
            _peer: peer,
            datapath,
        })
    }

    /// Opens the flows, and has them answered where that makes a difference: connection tracking
    /// calls a flow established after its first answer only. (Ours is the same before and after,
    /// and takes no answer that comes in by the wrong interface, as these do.)
    pub fn establish(&self) -> Result<()> {
        let packets = self.flows * 20;
        self.forward(packets)?;
        if matches!(self.mode, Mode::Masquerade | Mode::Flowtable) {
            self.namespace.enter(|| self.answers.send(self.lan, packets))?;
        }
        Ok(())
    }

    /// Has packets of the flows forwarded; CPU time of each in nanoseconds, and how many came out.
    pub fn forward(&self, packets: u32) -> Result<(f64, u64)> {
        let before = self.sent()?;
        let nanoseconds = self.namespace.enter(|| self.requests.send(self.lan, packets))?;
        Ok((nanoseconds, self.sent()? - before))
    }

    /// What became of packets, as far as this mode can tell.
    pub fn explain(&mut self) -> String {
        let Some((datapath, _)) = &mut self.datapath else {
            return String::new();
        };
        let counters = Counter::ALL.iter().filter_map(|counter| {
            let count = datapath.maps().counter(*counter).ok()?;
            (count.packets > 0).then(|| format!("{} {}", counter.name(), count.packets))
        });
        counters.collect::<Vec<_>>().join(", ")
    }

    /// Packets that reached the tap, whether it had room for them or not.
    fn sent(&self) -> Result<u64> {
        let folder = "/sys/class/net/wan/statistics";
        let text = self.namespace.run(&format!("cat {folder}/tx_packets {folder}/tx_dropped"))?;
        let mut sum = 0;
        for line in text.lines() {
            sum += line.parse::<u64>().with_context(|| text.clone())?;
        }
        Ok(sum)
    }
}

fn attach(namespace: &Namespace, interfaces: &[InterfaceStatus]) -> Result<(Datapath, Pins)> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        execute(
            Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).stdin(Stdio::null()),
        )?;
    }
    let pins = Pins(PathBuf::from(format!("/sys/fs/bpf/{}", namespace.name())));
    let part = FirewallPart::of(&Document::parse("")?);
    let datapath = namespace.enter(|| {
        let mut datapath = Datapath::open(&pins.0, part.firewall.max_flows)?;
        let zones = datapath.maps().zones()?;
        let desired =
            compile(&part, interfaces, &Standing { zones: &zones, ..Standing::default() });
        install(datapath.maps(), &desired, &mut InForce::default())?;
        datapath.maps().next_generation()?;
        let failures = datapath.attach(&desired.devices);
        ensure!(failures.is_empty(), "{failures:?}");
        Ok(datapath)
    })?;
    Ok((datapath, pins))
}

/// A UDP frame with correct checksums.
fn frame(mac: [u8; 6], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> [u8; FRAME] {
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend(mac);
    frame.extend([2, 0, 0, 0, 0, 0x99, 8, 0]);
    let length = (FRAME - 14) as u16;
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from.0.octets());
    frame.extend(to.0.octets());
    let checksum = sum(frame.get(14..).unwrap_or_default(), 0);
    if let Some(field) = frame.get_mut(24..26) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
    let udp_length = length - 20;
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    frame.extend([0, 0]);
    // The generator writes the varying port, and its complement here.
    frame.extend((!FIRST_PORT).to_be_bytes());
    frame.resize(FRAME, 0);
    let pseudo = sum(&[from.0.octets(), to.0.octets()].concat(), 17 + u32::from(udp_length));
    let checksum = sum(frame.get(34..).unwrap_or_default(), u32::from(!pseudo));
    if let Some(field) = frame.get_mut(40..42) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
    frame.try_into().unwrap_or([0; FRAME])
}

/// Internet checksum (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = start;
    for pair in bytes.chunks(2) {
        let [high, low] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or(0));
        total += u32::from(u16::from_be_bytes([high, low]));
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}
