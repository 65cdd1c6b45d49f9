//! A site with both families: a host inside, the router with our datapath, a provider's router, a
//! server.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use portcullis_bus::network::InterfaceStatus;
use portcullis_datapath_abi::Counter;
use portcullis_firewall::{
    compile::{Desired, Standing, compile},
    datapath::Datapath,
    install::{InForce, install},
};
use portcullis_model::{Document, part::FirewallPart};
use portcullis_netns::Namespace;

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const PROVIDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x100);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);
pub const WAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
pub const PROVIDER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10);

pub const PATIENCE: Duration = Duration::from_secs(3);
/// For what must not come.
pub const MOMENT: Duration = Duration::from_millis(400);

/// The host and the server, in both families.
pub const PAIRS: [(IpAddr, IpAddr); 2] =
    [(IpAddr::V4(HOST), IpAddr::V4(SERVER)), (IpAddr::V6(HOST6), IpAddr::V6(SERVER6))];

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
        Ok(Self(PathBuf::from(format!("/sys/fs/bpf/pc-path-{}-{number}", std::process::id()))))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Site {
    pub host: Namespace,
    pub router: Namespace,
    pub provider: Namespace,
    pub server: Namespace,
    datapath: Datapath,
    part: FirewallPart,
    desired: Desired,
    in_force: InForce,
    _pins: Pins,
}

impl Site {
    /// Everything connected, with this configuration beside the defaults.
    pub fn new(document: &str) -> Result<Self> {
        let [host, router, provider, server] = ["host", "rtr", "isp", "srv"].map(Namespace::new);
        let (host, router, provider, server) = (host?, router?, provider?, server?);
        router.join("eth1", &host, "eth0")?;
        router.run("ip link add lan type bridge")?;
        router.run("ip link set eth1 master lan")?;
        router.run("ip link set lan up")?;
        router.join("eth0", &provider, "access")?;
        provider.join("core", &server, "eth0")?;
        for (namespace, device, v4, v6) in [
            (&host, "eth0", HOST, HOST6),
            (&router, "lan", ROUTER, ROUTER6),
            (&router, "eth0", WAN, WAN6),
            (&provider, "access", PROVIDER, PROVIDER6),
            (&provider, "core", Ipv4Addr::new(203, 0, 113, 1), "2001:db8:2::1".parse()?),
            (&server, "eth0", SERVER, SERVER6),
        ] {
            namespace.address(device, &format!("{v4}/24"))?;
            namespace.address(device, &format!("{v6}/64"))?;
        }
        for (namespace, v4, v6) in [
            (&host, ROUTER, ROUTER6),
            (&router, PROVIDER, PROVIDER6),
            (&server, Ipv4Addr::new(203, 0, 113, 1), "2001:db8:2::1".parse()?),
        ] {
            namespace.run(&format!("ip route add default via {v4}"))?;
            namespace.run(&format!("ip -6 route add default via {v6}"))?;
        }
        provider.run(&format!("ip -6 route add 2001:db8:77::/64 via {WAN6}"))?;
        for namespace in [&router, &provider] {
            namespace.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        }
        // The kernels around ours would tell one sender about one packet a second.
        for namespace in [&provider, &server] {
            namespace.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")?;
        }

        let part = FirewallPart::of(&Document::parse(document)?);
        let pins = Pins::new()?;
        let datapath = router.enter(|| Ok(Datapath::open(&pins.0, 4096)?))?;
        let mut site = Self {
            host,
            router,
            provider,
            server,
            datapath,
            part,
            desired: Desired::default(),
            in_force: InForce::default(),
            _pins: pins,
        };
        site.reconcile()?;
        Ok(site)
    }

    fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        let mut all = Vec::new();
        for (name, device, v4, v6) in [("lan", "lan", ROUTER, ROUTER6), ("wan", "eth0", WAN, WAN6)]
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
                mtu: read("mtu")?.parse()?,
                addresses: vec![format!("{v4}/24"), format!("{v6}/64")],
                ..InterfaceStatus::default()
            });
        }
        Ok(all)
    }

    /// What the service does when something changed.
    pub fn reconcile(&mut self) -> Result<()> {
        let interfaces = self.interfaces()?;
        let Self { datapath, part, router, desired, in_force, .. } = self;
        router.enter(|| {
            let zones = datapath.maps().zones()?;
            let standing = Standing { zones: &zones, before: Some(desired), unix_s: 0 };
            let wanted = compile(part, &interfaces, &standing);
            *desired = wanted;
            ensure!(desired.problems.is_empty(), "{:?}", desired.problems);
            install(datapath.maps(), desired, in_force)?;
            datapath.maps().next_generation()?;
            let failures = datapath.attach(&desired.devices);
            ensure!(failures.is_empty(), "{failures:?}");
            Ok(())
        })
    }

    /// The same MTU at both ends of the link to the provider.
    pub fn narrow_wan(&mut self, mtu: u32) -> Result<()> {
        self.router.run(&format!("ip link set eth0 mtu {mtu}"))?;
        self.provider.run(&format!("ip link set access mtu {mtu}"))?;
        self.reconcile()
    }

    /// The same MTU at both ends of the link to the host.
    pub fn narrow_lan(&mut self, mtu: u32) -> Result<()> {
        self.router.run(&format!("ip link set eth1 mtu {mtu}"))?;
        self.router.run(&format!("ip link set lan mtu {mtu}"))?;
        self.host.run(&format!("ip link set eth0 mtu {mtu}"))?;
        self.reconcile()
    }

    /// Packets counted so far.
    pub fn count(&mut self, counter: Counter) -> Result<u64> {
        Ok(self.datapath.maps().counter(counter)?.packets)
    }

    /// All counters that are not zero, for messages.
    pub fn counters(&mut self) -> Result<String> {
        let mut text = String::new();
        for counter in Counter::ALL {
            let packets = self.count(*counter)?;
            if packets != 0 {
                text.push_str(&format!("{} {packets}, ", counter.name()));
            }
        }
        Ok(text)
    }
}
