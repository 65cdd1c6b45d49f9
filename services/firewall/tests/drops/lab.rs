//! A router in network namespaces with the firewall on it, and hosts that send what they are told.
//!
//! ```text
//! host ── lan ┐        ┌ wan ── outside      zone wan masquerades
//!             ├ router ┤ dmz ── dmz
//!    ghost ── ┘        ├ bare ── bare        its zone masquerades, the router has no address there
//!  in no zone          └ stray ── stray      not the firewall's
//! ```

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use portcullis_bus::{firewall::DropCount, network::InterfaceStatus};
use portcullis_datapath_abi::Counter;
use portcullis_firewall::service::Firewall;
use portcullis_model::{Document, part::FirewallPart};
use portcullis_netns::{Namespace, execute};
use portcullis_site::wait_until;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    frames::{Link, Mac},
    table::Line,
};

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const DMZ: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);

/// Most flows of the table: the fewest there may be.
pub const FLOWS: u32 = 1024;

/// Device on the router's side, address of the router, address of the host at the other end.
const NETWORKS: [(&str, Option<&str>, &str); 6] = [
    ("lan", Some("192.168.77.1/24"), "192.168.77.100/24"),
    ("wan", Some("198.51.100.2/24"), "198.51.100.10/24"),
    ("dmz", Some("10.20.0.1/24"), "10.20.0.10/24"),
    ("bare", None, "10.98.0.10/24"),
    ("ghost", Some("10.30.0.1/24"), "10.30.0.10/24"),
    ("stray", Some("10.40.0.1/24"), "10.40.0.10/24"),
];

/// What the firewall is configured to.
const DOCUMENT: &str = r#"
[firewall]
max_flows = 1024
# The others are taken at tcx.
hooks = { dmz = "xdp" }

[firewall.zones.lan]
services = ["dns", "ping"]
[firewall.zones.wan]
masquerade = true
bogons = false
[firewall.zones.dmz]
[firewall.zones.bare]
masquerade = true

[[firewall.policies]]
from = "lan"
to = "wan"
action = "allow"
[[firewall.policies]]
from = "lan"
to = "dmz"
action = "allow"
[[firewall.policies]]
from = "lan"
to = "bare"
action = "allow"

[[firewall.rules]]
name = "slow"
from = "lan"
to = "wan"
protocols = ["udp"]
destination_ports = ["7001"]
action = "allow"
rate_limit = { per_second = 1, burst = 1 }

[[firewall.rules]]
name = "one"
from = "lan"
to = "wan"
protocols = ["udp"]
destination_ports = ["7002"]
action = "allow"
connections_per_source = 1

[[firewall.port_forwards]]
name = "shell"
zone = "wan"
protocol = "tcp" # forward
ports = ["2222"]
to = "192.168.77.100"

[firewall.protection]
blocklist = ["192.0.2.66"]
zones = ["dmz", "wan"]
udp = { per_source = 20, total = 60 }
syn_cookies = "off"
"#;

/// A folder in the BPF file system that goes away with this value.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One end of a cable.
struct Station {
    space: Namespace,
    socket: Socket,
    index: i32,
    link: Link,
}

pub struct Lab {
    pub router: Namespace,
    stations: BTreeMap<&'static str, Station>,
    interfaces: Vec<InterfaceStatus>,
    document: String,
    pub firewall: Firewall,
    pins: Pins,
}

impl Lab {
    pub fn new() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
            let mut mount = std::process::Command::new("mount");
            execute(mount.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("/sys/fs/bpf/pc-drops-{}-{number}", std::process::id());
        let pins = Pins(PathBuf::from(folder));
        let router = Namespace::new("drtr")?;
        let mut stations = BTreeMap::new();
        for (device, own, other) in NETWORKS {
            let space = Namespace::new("dst")?;
            router.join(device, &space, "eth0")?;
            if let Some(own) = own {
                router.address(device, own)?;
            }
            space.address("eth0", other)?;
            let gateway = own.and_then(|own| own.split('/').next()).unwrap_or_default();
            if !gateway.is_empty() {
                space.run(&format!("ip route add default via {gateway}"))?;
            }
            stations.insert(device, station(&router, device, space)?);
        }
        router.address("lan", "2001:db8:77::1/64")?;
        for line in [
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0",
            "ip route add default via 198.51.100.10",
            "ip route add 10.98.0.0/16 dev bare",
            "ip route add unreachable 10.99.0.0/16",
            "ip route add 10.97.0.0/16 via 198.51.100.10",
        ] {
            router.run(line)?;
        }
        let interfaces = interfaces(&router)?;
        let firewall = router.enter(|| {
            let part = part(DOCUMENT)?;
            let mut firewall = Firewall::open(pins.0.clone(), part)?;
            firewall.set_interfaces(interfaces.clone())?;
            Ok(firewall)
        })?;
        let xdp = firewall.attachments().into_iter().filter(|at| at.hook == "xdp");
        let xdp: Vec<String> = xdp.map(|attachment| attachment.device).collect();
        anyhow::ensure!(xdp == ["dmz"], "XDP on {xdp:?}");
        let document = DOCUMENT.to_owned();
        Ok(Self { router, stations, interfaces, document, firewall, pins })
    }

    /// Applies the document with a table changed: `(old text, new text)`.
    pub fn configure(&mut self, changes: &[(&str, &str)]) -> Result<()> {
        let mut document = self.document.clone();
        for (old, new) in changes {
            anyhow::ensure!(document.contains(old), "{old}");
            document = document.replace(old, new);
        }
        let Self { router, firewall, .. } = self;
        router.enter(|| Ok(firewall.apply(part(&document)?).map(drop)?))
    }

    /// Runs `change` on the firewall where it lives.
    pub fn firewall<T: Send>(
        &mut self,
        change: impl FnOnce(&mut Firewall) -> Result<T> + Send,
    ) -> Result<T> {
        let Self { router, firewall, .. } = self;
        router.enter(|| change(firewall))
    }

    /// Folder of the pins.
    pub fn pins(&self) -> &std::path::Path {
        &self.pins.0
    }

    /// Reports other interfaces.
    pub fn report(&mut self, change: impl FnOnce(&mut Vec<InterfaceStatus>)) -> Result<()> {
        let mut interfaces = self.interfaces.clone();
        change(&mut interfaces);
        self.firewall(|firewall| Ok(firewall.set_interfaces(interfaces).map(drop)?))
    }

    /// Hardware addresses from the host at `device` to the router.
    pub fn link(&self, device: &str) -> Link {
        self.station(device).link
    }

    /// The namespace of the host at `device`.
    pub fn space(&self, device: &str) -> &Namespace {
        &self.station(device).space
    }

    fn station(&self, device: &str) -> &Station {
        self.stations.get(device).expect("one of NETWORKS")
    }

    /// Sends a frame from the host at `device` to the router.
    pub fn send(&self, device: &str, frame: &[u8]) -> Result<()> {
        let station = self.station(device);
        // SAFETY: a link-layer address is set below, of which this is the type and the length.
        let ((), address) = unsafe {
            SockAddr::try_init(|storage, length| {
                let address = storage.cast::<libc::sockaddr_ll>();
                (*address).sll_family = libc::AF_PACKET as u16;
                (*address).sll_ifindex = station.index;
                *length = size_of::<libc::sockaddr_ll>() as u32;
                Ok(())
            })
        }?;
        station
            .socket
            .send_to(frame, &address)
            .with_context(|| format!("{} bytes", frame.len()))?;
        Ok(())
    }

    /// Sends a frame and waits until it was dropped for this reason: a busy kernel takes it over late.
    pub fn send_to_be_dropped(
        &mut self,
        device: &str,
        frame: &[u8],
        reason: Counter,
    ) -> Result<()> {
        let dropped = |lab: &mut Self| -> Result<u64> {
            let drops = lab.firewall.drops()?;
            let of_reason = drops.iter().filter(|drop| drop.reason == reason.name());
            Ok(of_reason.map(|drop| drop.packets).sum())
        };
        let before = dropped(self)?;
        self.send(device, frame)?;
        wait_until(reason.name(), || Ok(dropped(self)? > before))
    }

    /// Packets dropped so far for what a line names.
    pub fn dropped(&mut self, line: &Line) -> Result<u64> {
        let fits = |drop: &&DropCount| {
            drop.reason == line.reason.name()
                && drop.from_zone == line.from
                && drop.to_zone == line.to
        };
        Ok(self.firewall.drops()?.iter().filter(fits).map(|drop| drop.packets).sum())
    }

    /// All drops so far, in one line.
    pub fn summary(&mut self) -> Result<String> {
        let text = |drop: &DropCount| {
            format!("{} {}>{} {}", drop.reason, drop.from_zone, drop.to_zone, drop.packets)
        };
        Ok(self.firewall.drops()?.iter().map(text).collect::<Vec<_>>().join(", "))
    }
}

fn part(document: &str) -> Result<FirewallPart> {
    let mut part = FirewallPart::of(&Document::parse(document)?);
    part.interfaces = ["lan", "wan", "dmz", "bare"]
        .into_iter()
        .map(|name| Ok((name.to_owned().try_into()?, name.to_owned().try_into()?)))
        .collect::<Result<_>>()?;
    Ok(part)
}

fn interfaces(router: &Namespace) -> Result<Vec<InterfaceStatus>> {
    NETWORKS
        .iter()
        .filter(|(device, ..)| *device != "stray")
        .map(|(device, address, _)| {
            let read = |file: &str| {
                let text = router.run(&format!("cat /sys/class/net/{device}/{file}"))?;
                anyhow::Ok(text.trim().to_owned())
            };
            Ok(InterfaceStatus {
                name: (*device).to_owned(),
                device: (*device).to_owned(),
                index: read("ifindex")?.parse()?,
                zone: (*device).to_owned(),
                mac: read("address")?,
                mtu: 1500,
                addresses: address.iter().map(|address| (*address).to_owned()).collect(),
                ..InterfaceStatus::default()
            })
        })
        .collect()
}

fn station(router: &Namespace, device: &str, space: Namespace) -> Result<Station> {
    let mac = |space: &Namespace, device: &str| -> Result<Mac> {
        let text = space.run(&format!("cat /sys/class/net/{device}/address"))?;
        let bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16));
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
        bytes.try_into().map_err(|_| anyhow::anyhow!("{text}"))
    };
    let link = Link { from: mac(&space, "eth0")?, to: mac(router, device)? };
    let index = space.run("cat /sys/class/net/eth0/ifindex")?.trim().parse()?;
    let socket = space.enter(|| Ok(Socket::new(Domain::PACKET, Type::RAW, None)?))?;
    anyhow::ensure!(socket.as_raw_fd() >= 0);
    Ok(Station { space, socket, index, link })
}
