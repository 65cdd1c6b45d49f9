//! A site with two hosts inside, a router with several addresses outside, a provider and a server
//! with two addresses.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use portcullis_bus::network::InterfaceStatus;
use portcullis_datapath_abi::Counter;
use portcullis_firewall::{
    compile::{Desired, Standing, compile},
    datapath::Datapath,
    install::{InForce, install},
    sweep::Sweeper,
};
use portcullis_model::{Document, part::FirewallPart};
use portcullis_netns::Namespace;

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 101);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// Four addresses that the provider routes to the router.
pub const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 64);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const SERVER_TOO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

pub const PATIENCE: Duration = Duration::from_secs(3);
/// For what must not come.
pub const MOMENT: Duration = Duration::from_millis(500);

/// A folder in the BPF file system that goes away with this value.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
            let mut mount = std::process::Command::new("mount");
            portcullis_netns::execute(mount.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(PathBuf::from(format!("/sys/fs/bpf/pc-nat-{}-{number}", std::process::id()))))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Site {
    pub host: Namespace,
    pub other: Namespace,
    pub router: Namespace,
    pub server: Namespace,
    pub provider: Namespace,
    pub datapath: Datapath,
    part: FirewallPart,
    desired: Desired,
    in_force: InForce,
    sweeper: Sweeper,
    _pins: Pins,
}

impl Site {
    /// Everything connected, with this `[firewall]` in the document beside the default zones.
    pub fn new(firewall: &str) -> Result<Self> {
        let [host, other, router, provider, server] =
            ["host", "othr", "rtr", "isp", "srv"].map(Namespace::new);
        let (host, other, router, provider, server) = (host?, other?, router?, provider?, server?);
        router.run("ip link add lan type bridge")?;
        for (port, namespace, address) in [("eth1", &host, HOST), ("eth2", &other, OTHER)] {
            router.join(port, namespace, "eth0")?;
            router.run(&format!("ip link set {port} master lan"))?;
            namespace.address("eth0", &format!("{address}/24"))?;
            namespace.run(&format!("ip route add default via {ROUTER}"))?;
        }
        router.run("ip link set lan up")?;
        router.join("eth0", &provider, "access")?;
        provider.join("core", &server, "eth0")?;
        router.address("lan", &format!("{ROUTER}/24"))?;
        router.address("eth0", &format!("{WAN}/24"))?;
        router.address("eth0", &format!("{SECOND}/24"))?;
        router.run("ip route add default via 198.51.100.1")?;
        provider.address("access", "198.51.100.1/24")?;
        provider.address("core", "203.0.113.1/24")?;
        provider.run(&format!("ip route add {POOL}/30 via {WAN}"))?;
        for namespace in [&router, &provider] {
            namespace.run("sysctl -qw net.ipv4.ip_forward=1")?;
        }
        server.address("eth0", &format!("{SERVER}/24"))?;
        server.address("eth0", &format!("{SERVER_TOO}/24"))?;
        server.run("ip route add default via 203.0.113.1")?;

        let part = FirewallPart::of(&Document::parse(firewall)?);
        let pins = Pins::new()?;
        let datapath = router.enter(|| Ok(Datapath::open(&pins.0, 4096)?))?;
        let mut site = Self {
            host,
            other,
            router,
            server,
            provider,
            datapath,
            part,
            desired: Desired::default(),
            in_force: InForce::default(),
            sweeper: Sweeper::default(),
            _pins: pins,
        };
        site.reconcile()?;
        Ok(site)
    }

    /// Puts another `[firewall]` in force.
    pub fn configure(&mut self, firewall: &str) -> Result<()> {
        self.part = FirewallPart::of(&Document::parse(firewall)?);
        self.reconcile()
    }

    fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        let mut all = Vec::new();
        for (name, device, addresses) in
            [("lan", "lan", &[ROUTER][..]), ("wan", "eth0", &[WAN, SECOND])]
        {
            let read = |file: &str| {
                self.router
                    .run(&format!("cat /sys/class/net/{device}/{file}"))
                    .map(|text| text.trim().to_owned())
            };
            all.push(InterfaceStatus {
                name: name.to_owned(),
                device: device.to_owned(),
                index: read("ifindex")?.parse()?,
                zone: name.to_owned(),
                mac: read("address")?,
                mtu: 1500,
                addresses: addresses.iter().map(|address| format!("{address}/24")).collect(),
                ..InterfaceStatus::default()
            });
        }
        Ok(all)
    }

    fn reconcile(&mut self) -> Result<()> {
        let interfaces = self.interfaces()?;
        let Self { datapath, part, router, desired, in_force, sweeper, .. } = self;
        router.enter(|| {
            let zones = datapath.maps().zones()?;
            let standing = Standing { zones: &zones, before: Some(desired), unix_s: 0 };
            let wanted = compile(part, &interfaces, &standing);
            *desired = wanted;
            ensure!(desired.problems.is_empty(), "{:?}", desired.problems);
            let (_, gone) = install(datapath.maps(), desired, in_force)?;
            sweeper.end_where(datapath.maps().flows(), |record| gone.concerns(record), &mut |_| {});
            datapath.maps().next_generation()?;
            let failures = datapath.attach(&desired.devices);
            ensure!(failures.is_empty(), "{failures:?}");
            Ok(())
        })
    }

    /// All counters that are not zero, for messages.
    pub fn counters(&mut self) -> Result<String> {
        let mut text = String::new();
        for counter in Counter::ALL {
            let packets = self.datapath.maps().counter(*counter)?.packets;
            if packets != 0 {
                text.push_str(&format!("{} {packets}, ", counter.name()));
            }
        }
        Ok(text)
    }
}

/// A UDP socket of a namespace.
pub fn udp(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    namespace.enter(|| {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
}

/// Sends from one socket to an address, and returns from where it came at the other socket; `None`
/// if it did not.
pub fn reaches(
    from: &UdpSocket,
    to: (Ipv4Addr, u16),
    at: &UdpSocket,
) -> Result<Option<SocketAddrV4>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let text = format!("datagram {}", COUNT.fetch_add(1, Ordering::Relaxed));
    from.send_to(text.as_bytes(), to)?;
    let mut buffer = [0; 64];
    at.set_read_timeout(Some(MOMENT))?;
    while let Ok((length, peer)) = at.recv_from(&mut buffer) {
        if buffer.get(..length) == Some(text.as_bytes()) {
            let std::net::SocketAddr::V4(peer) = peer else {
                return Err(anyhow::anyhow!("IPv6 peer"));
            };
            return Ok(Some(peer));
        }
    }
    Ok(None)
}

/// Connects over TCP, sends a byte each way; returns whom the listener saw.
pub fn connects(
    from: &Namespace,
    to: (Ipv4Addr, u16),
    listener: &TcpListener,
) -> Result<SocketAddrV4> {
    use std::io::{Read, Write};
    let mut client = from
        .enter(|| Ok(TcpStream::connect_timeout(&to.into(), PATIENCE)?))
        .with_context(|| format!("to {to:?}"))?;
    let (mut accepted, peer) = listener.accept()?;
    for stream in [&client, &accepted] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let mut byte = [0];
    client.write_all(b"q")?;
    accepted.read_exact(&mut byte)?;
    accepted.write_all(b"a")?;
    client.read_exact(&mut byte)?;
    ensure!(&byte == b"a");
    match peer {
        std::net::SocketAddr::V4(peer) => Ok(peer),
        std::net::SocketAddr::V6(peer) => Err(anyhow::anyhow!("{peer}")),
    }
}

/// A TCP listener of a namespace.
pub fn listen(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    namespace.enter(|| Ok(TcpListener::bind((address, port))?))
}
