//! A site in network namespaces: a LAN host, the router with our datapath, a provider's router and
//! a server behind it.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use portcullis_bus::firewall::FlowRecord as Shown;
use portcullis_bus::network::InterfaceStatus;
use portcullis_datapath_abi::Counter;
use portcullis_firewall::{
    ageing::Pressure,
    compile::{Desired, Standing, compile},
    datapath::Datapath,
    install::{InForce, install},
    listing,
    sweep::{Sweeper, Swept, Terms, now_ticks},
};
use portcullis_model::{Document, Timeouts, firewall::Hook as Wish, part::FirewallPart};
use portcullis_netns::Namespace;

pub const LAN_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const PROVIDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// A folder in the BPF file system that goes away with this value.
pub struct Pins(pub PathBuf);

impl Pins {
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
            portcullis_netns::execute(std::process::Command::new("mount").args([
                "-t",
                "bpf",
                "bpf",
                "/sys/fs/bpf",
            ]))?;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(PathBuf::from(format!("/sys/fs/bpf/pc-test-{}-{number}", std::process::id()))))
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
    pub part: FirewallPart,
    pub pins: Pins,
    pub datapath: Datapath,
    pub wan: Option<Ipv4Addr>,
    pub sweeper: Sweeper,
    desired: Desired,
    in_force: InForce,
}

impl Site {
    /// Everything connected, the LAN as a bridge like in the appliance, the datapath attached with
    /// the default policy.
    pub fn new() -> Result<Self> {
        Self::with_lan(true)
    }

    /// The same, but the LAN may be a plain veth device, which has XDP.
    pub fn with_lan(bridge: bool) -> Result<Self> {
        Self::with_hooks(bridge, &[])
    }

    /// The same with a hook for each interface.
    pub fn with_hooks(bridge: bool, hooks: &[(&str, Wish)]) -> Result<Self> {
        let host = Namespace::new("host")?;
        let router = Namespace::new("rtr")?;
        let provider = Namespace::new("isp")?;
        let server = Namespace::new("srv")?;
        if bridge {
            router.join("eth1", &host, "eth0")?;
            router.run("ip link add lan type bridge")?;
            router.run("ip link set eth1 master lan")?;
            router.run("ip link set lan up")?;
        } else {
            router.join("lan", &host, "eth0")?;
        }
        router.join("eth0", &provider, "access")?;
        provider.join("core", &server, "eth0")?;

        if !hooks.is_empty() {
            // veth hands frames between two stacks of one machine as they are: assembled, and with
            // checksums that nobody made, which XDP cannot translate. A network card does not. And
            // it takes frames from XDP only if its peer polls for them, which with GRO it does.
            for (namespace, device) in [(&host, "eth0"), (&provider, "access")] {
                namespace.run(&format!("ethtool -K {device} tx off gro on"))?;
            }
        }
        host.address("eth0", &format!("{LAN_HOST}/24"))?;
        host.run(&format!("ip route add default via {ROUTER}"))?;
        router.address("lan", &format!("{ROUTER}/24"))?;
        router.address("eth0", &format!("{WAN}/24"))?;
        router.run(&format!("ip route add default via {PROVIDER}"))?;
        router.run("sysctl -qw net.ipv4.ip_forward=1")?;
        provider.address("access", &format!("{PROVIDER}/24"))?;
        provider.address("core", "203.0.113.1/24")?;
        provider.run("sysctl -qw net.ipv4.ip_forward=1")?;
        server.address("eth0", &format!("{SERVER}/24"))?;
        server.run("ip route add default via 203.0.113.1")?;

        let mut part = FirewallPart::of(&Document::parse("")?);
        for (name, hook) in hooks {
            part.firewall.hooks.insert((*name).to_owned().try_into()?, *hook);
        }
        let pins = Pins::new()?;
        let datapath = router.enter(|| Ok(Datapath::open(&pins.0, 4096)?))?;
        let mut site = Self {
            host,
            router,
            provider,
            server,
            part,
            pins,
            datapath,
            wan: Some(WAN),
            sweeper: Sweeper::default(),
            desired: Desired::default(),
            in_force: InForce::default(),
        };
        site.reconcile()?;
        Ok(site)
    }

    /// What the network service would report.
    pub fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        let mut all = Vec::new();
        for (name, device, address) in [("lan", "lan", Some(ROUTER)), ("wan", "eth0", self.wan)] {
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
                addresses: address.map(|address| format!("{address}/24")).into_iter().collect(),
                ..InterfaceStatus::default()
            });
        }
        Ok(all)
    }

    /// What the service does when something changed. Returns how many flows were purged.
    pub fn reconcile(&mut self) -> Result<u64> {
        let interfaces = self.interfaces()?;
        let Self { datapath, part, router, desired, in_force, sweeper, .. } = self;
        router.enter(|| {
            let zones = datapath.maps().zones()?;
            let standing = Standing { zones: &zones, before: Some(desired), unix_s: 0 };
            let wanted = compile(part, &interfaces, &standing);
            *desired = wanted;
            ensure!(desired.problems.is_empty(), "{:?}", desired.problems);
            let (_, gone) = install(datapath.maps(), desired, in_force)?;
            let flows = datapath.maps().flows();
            let purged = sweeper.end_where(flows, |record| gone.concerns(record), &mut |_| {});
            datapath.maps().next_generation()?;
            let failures = datapath.attach(&desired.devices);
            ensure!(failures.is_empty(), "{failures:?}");
            Ok(purged)
        })
    }

    /// Loads the datapath again, as a service that was killed does when it starts.
    pub fn reopen(&mut self, max_flows: u32) -> Result<()> {
        let Self { router, pins, .. } = self;
        self.datapath = router.enter(|| Ok(Datapath::open(&pins.0, max_flows)?))?;
        self.in_force = InForce::default();
        self.sweeper = Sweeper::default();
        Ok(())
    }

    /// Flows in all, and the most recently active of them.
    pub fn flows(&mut self, limit: usize) -> Result<(u64, Vec<Shown>)> {
        let maps = self.datapath.maps();
        let zones = maps.zones()?;
        let timeouts = self.part.firewall.timeouts;
        let filter = listing::Filter::default();
        Ok(listing::newest(maps.flows(), &zones, &timeouts, &filter, limit, now_ticks()))
    }

    /// A whole pass over the flow table.
    pub fn sweep(&mut self, timeouts: &Timeouts) -> Result<Swept> {
        let terms = Terms { now: now_ticks(), timeouts, pressure: Pressure::NONE };
        let flows = self.datapath.maps().flows();
        loop {
            if let Some(swept) = self.sweeper.step(flows, &terms, &mut |_| {})? {
                return Ok(swept);
            }
        }
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

    /// Waits until something listens on a TCP port in a namespace.
    pub fn wait_listening(namespace: &Namespace, port: u16) -> Result<()> {
        let hexadecimal = format!(":{port:04X} ");
        for _ in 0..100 {
            let sockets = namespace.run("cat /proc/net/tcp /proc/net/tcp6")?;
            if sockets.contains(&hexadecimal) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        None.context(format!("nothing listens on port {port}"))
    }
}
