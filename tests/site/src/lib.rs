//! A site for tests of the datapath, in network namespaces of its own: two hosts inside, a router
//! with our programs, the provider's router, and a server. Needs root, iproute2 and procps.
//!
//! ```text
//! host  ─┐                                   198.51.100.0/24          203.0.113.0/24
//!        ├─ lan (bridge) router (datapath) eth0 ─── access provider core ─── eth0 server
//! other ─┘  192.168.77.0/24                 2001:db8:1::/64            2001:db8:2::/64
//!           2001:db8:77::/64
//! ```
//!
//! The firewall service is not in it, but what it does with a configuration is: [`Site::reconcile`].

pub mod addresses;
mod pins;
pub mod sockets;

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use portcullis_bus::{firewall::FlowRecord, network::InterfaceStatus};
use portcullis_datapath_abi::Counter;
use portcullis_firewall::{
    ageing::Pressure,
    compile::{Desired, Standing, compile},
    datapath::Datapath,
    install::{InForce, install},
    listing,
    sweep::{Sweeper, Swept, Terms, now_ticks},
};
use portcullis_model::{Document, Timeouts, firewall::Hook, part::FirewallPart};
use portcullis_netns::Namespace;

pub use addresses::*;
use pins::Pins;

/// For what must come, on a machine that may be busy.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// For what must not come.
pub const MOMENT: Duration = Duration::from_millis(500);

/// What a site is built with.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Configuration beside the defaults.
    pub document: &'a str,
    /// Hook for an interface, by its name.
    pub hooks: &'a [(&'a str, Hook)],
    /// Whether the LAN is a bridge, as in the appliance, with both hosts; else it is a veth device,
    /// which has XDP, and the other host has no cable.
    pub bridge: bool,
    /// Places in the flow table.
    pub max_flows: u32,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { document: "", hooks: &[], bridge: true, max_flows: 4096 }
    }
}

/// The namespaces, and the datapath on the router.
pub struct Site {
    /// [`HOST`].
    pub host: Namespace,
    /// [`OTHER`].
    pub other: Namespace,
    /// [`ROUTER`] and [`WAN`].
    pub router: Namespace,
    /// [`PROVIDER`].
    pub provider: Namespace,
    /// [`SERVER`].
    pub server: Namespace,
    /// What is loaded.
    pub datapath: Datapath,
    /// What is configured.
    pub part: FirewallPart,
    /// Addresses of the WAN interface, as the network service would report them.
    pub wan: Vec<Ipv4Addr>,
    sweeper: Sweeper,
    desired: Desired,
    in_force: InForce,
    pins: Pins,
}

impl Site {
    /// Everything connected, with this configuration beside the defaults.
    ///
    /// # Errors
    /// Not root, a program is missing, or a wrong document.
    pub fn new(document: &str) -> Result<Self> {
        Self::build(&Plan { document, ..Plan::default() })
    }

    /// Everything connected as planned.
    ///
    /// # Errors
    /// Not root, a program is missing, or a wrong document.
    pub fn build(plan: &Plan<'_>) -> Result<Self> {
        let [host, other, router, provider, server] =
            ["host", "othr", "rtr", "isp", "srv"].map(Namespace::new);
        let (host, other, router, provider, server) = (host?, other?, router?, provider?, server?);
        if plan.bridge {
            router.run("ip link add lan type bridge")?;
            for (port, namespace) in [("eth1", &host), ("eth2", &other)] {
                router.join(port, namespace, "eth0")?;
                router.run(&format!("ip link set {port} master lan"))?;
            }
            router.run("ip link set lan up")?;
        } else {
            router.join("lan", &host, "eth0")?;
            other.run("ip link add eth0 type veth peer name unplugged")?;
        }
        router.join("eth0", &provider, "access")?;
        provider.join("core", &server, "eth0")?;
        if !plan.hooks.is_empty() {
            // veth hands frames between two stacks of one machine as they are: assembled, and with
            // checksums that nobody made, which XDP cannot translate. A network card does not. And
            // it takes frames from XDP only if its peer polls for them, which with GRO it does.
            for (namespace, device) in [(&host, "eth0"), (&provider, "access")] {
                namespace.run(&format!("ethtool -K {device} tx off gro on"))?;
            }
        }
        let mut part = FirewallPart::of(&Document::parse(plan.document)?);
        for (name, hook) in plan.hooks {
            part.firewall.hooks.insert((*name).to_owned().try_into()?, *hook);
        }
        let pins = Pins::new()?;
        let datapath = router.enter(|| Ok(Datapath::open(&pins.0, plan.max_flows)?))?;
        let mut site = Self {
            host,
            other,
            router,
            provider,
            server,
            datapath,
            part,
            wan: vec![WAN, SECOND],
            sweeper: Sweeper::default(),
            desired: Desired::default(),
            in_force: InForce::default(),
            pins,
        };
        site.number()?;
        site.reconcile()?;
        Ok(site)
    }

    /// Addresses and routes.
    fn number(&self) -> Result<()> {
        for (namespace, device, v4, v6) in [
            (&self.host, "eth0", &[HOST][..], HOST6),
            (&self.other, "eth0", &[OTHER], OTHER6),
            (&self.router, "lan", &[ROUTER], ROUTER6),
            (&self.router, "eth0", &[WAN, SECOND], WAN6),
            (&self.provider, "access", &[PROVIDER], PROVIDER6),
            (&self.provider, "core", &[CORE], CORE6),
            (&self.server, "eth0", &[SERVER, SERVER_TOO], SERVER6),
        ] {
            namespace.run(&format!("ip link set {device} up"))?;
            for address in v4 {
                namespace.address(device, &format!("{address}/24"))?;
            }
            namespace.address(device, &format!("{v6}/64"))?;
        }
        for (namespace, v4, v6) in [
            (&self.host, ROUTER, ROUTER6),
            (&self.other, ROUTER, ROUTER6),
            (&self.router, PROVIDER, PROVIDER6),
            (&self.server, CORE, CORE6),
        ] {
            namespace.run(&format!("ip route add default via {v4}"))?;
            namespace.run(&format!("ip -6 route add default via {v6}"))?;
        }
        self.provider.run(&format!("ip route add {POOL}/30 via {WAN}"))?;
        self.provider.run(&format!("ip -6 route add 2001:db8:77::/64 via {WAN6}"))?;
        for namespace in [&self.router, &self.provider] {
            namespace.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        }
        // The kernels around ours would tell one sender about one packet a second.
        for namespace in [&self.provider, &self.server] {
            namespace.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")?;
        }
        Ok(())
    }

    /// What the network service would report.
    ///
    /// # Errors
    /// If a device is gone.
    pub fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        let mut all = Vec::new();
        for (name, device, v4, v6) in
            [("lan", "lan", &[ROUTER][..], ROUTER6), ("wan", "eth0", &self.wan, WAN6)]
        {
            let read = |file: &str| {
                self.router
                    .run(&format!("cat /sys/class/net/{device}/{file}"))
                    .map(|text| text.trim().to_owned())
            };
            let mut addresses: Vec<_> = v4.iter().map(|address| format!("{address}/24")).collect();
            addresses.push(format!("{v6}/64"));
            all.push(InterfaceStatus {
                name: name.to_owned(),
                device: device.to_owned(),
                index: read("ifindex")?.parse()?,
                zone: name.to_owned(),
                mac: read("address")?,
                mtu: read("mtu")?.parse()?,
                addresses,
                ..InterfaceStatus::default()
            });
        }
        Ok(all)
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    /// A wrong document; what [`Self::reconcile`] says.
    pub fn configure(&mut self, document: &str) -> Result<()> {
        self.part = FirewallPart::of(&Document::parse(document)?);
        self.reconcile().map(drop)
    }

    /// What the service does when something changed. Returns how many flows were purged.
    ///
    /// # Errors
    /// Problems of the configuration, maps that cannot be written, programs that are not attached.
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
    ///
    /// # Errors
    /// If it does not load.
    pub fn reopen(&mut self, max_flows: u32) -> Result<()> {
        let Self { router, pins, .. } = self;
        self.datapath = router.enter(|| Ok(Datapath::open(&pins.0, max_flows)?))?;
        self.in_force = InForce::default();
        self.sweeper = Sweeper::default();
        Ok(())
    }

    /// The same MTU at both ends of the link to the provider.
    ///
    /// # Errors
    /// What `ip` and [`Self::reconcile`] say.
    pub fn narrow_wan(&mut self, mtu: u32) -> Result<()> {
        self.router.run(&format!("ip link set eth0 mtu {mtu}"))?;
        self.provider.run(&format!("ip link set access mtu {mtu}"))?;
        self.reconcile().map(drop)
    }

    /// The same MTU at both ends of the link to the host.
    ///
    /// # Errors
    /// What `ip` and [`Self::reconcile`] say.
    pub fn narrow_lan(&mut self, mtu: u32) -> Result<()> {
        self.router.run(&format!("ip link set eth1 mtu {mtu}"))?;
        self.router.run(&format!("ip link set lan mtu {mtu}"))?;
        self.host.run(&format!("ip link set eth0 mtu {mtu}"))?;
        self.reconcile().map(drop)
    }

    /// Flows in all, and the most recently active of them.
    ///
    /// # Errors
    /// If the names of the zones cannot be read.
    pub fn flows(&mut self, limit: usize) -> Result<(u64, Vec<FlowRecord>)> {
        let maps = self.datapath.maps();
        let zones = maps.zones()?;
        let timeouts = self.part.firewall.timeouts;
        let filter = listing::Filter::default();
        Ok(listing::newest(maps.flows(), &zones, &timeouts, &filter, limit, now_ticks()))
    }

    /// A whole pass over the flow table.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn sweep(&mut self, timeouts: &Timeouts) -> Result<Swept> {
        let terms = Terms { now: now_ticks(), timeouts, pressure: Pressure::NONE };
        self.sweep_on(&terms)
    }

    /// A whole pass at a time and on terms of the caller's.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn sweep_on(&mut self, terms: &Terms<'_>) -> Result<Swept> {
        let flows = self.datapath.maps().flows();
        loop {
            if let Some(swept) = self.sweeper.step(flows, terms, &mut |_| {})? {
                return Ok(swept);
            }
        }
    }

    /// Packets counted so far.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn count(&mut self, counter: Counter) -> Result<u64> {
        Ok(self.datapath.maps().counter(counter)?.packets)
    }

    /// All counters that are not zero, for messages.
    ///
    /// # Errors
    /// If the map cannot be read.
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

    /// Where the datapath's maps and links are pinned.
    pub fn pins(&self) -> &Path {
        &self.pins.0
    }
}

/// Waits until something listens on a TCP or UDP port in a namespace.
///
/// # Errors
/// If nothing does for ten seconds.
pub fn wait_listening(namespace: &Namespace, port: u16) -> Result<()> {
    let hexadecimal = format!(":{port:04X} ");
    for _ in 0..200 {
        let sockets =
            namespace.run("cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6")?;
        let local = sockets.lines().filter_map(|line| line.split_whitespace().nth(1));
        if local.into_iter().any(|address| format!("{address} ").ends_with(&hexadecimal)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None.with_context(|| format!("nothing listens on port {port}"))
}
