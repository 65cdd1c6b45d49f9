//! Namespaces, cables, addresses and routes.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use portcullis_bus::network::InterfaceStatus;
use portcullis_netns::Namespace;

use crate::addresses::*;

/// Who is there, connected and with addresses; the router forwards, and filters nothing.
#[derive(Debug)]
pub struct Topology {
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
    /// Addresses of the WAN interface, as the network service would report them.
    pub wan: Vec<Ipv4Addr>,
}

impl Topology {
    /// With the LAN as a bridge for both hosts, as in the appliance; or as a veth device, which has
    /// XDP, and then the other host has no cable.
    ///
    /// # Errors
    /// Not root, or a program is missing.
    pub fn new(bridge: bool) -> Result<Self> {
        let [host, other, router, provider, server] =
            ["host", "othr", "rtr", "isp", "srv"].map(Namespace::new);
        let (host, other, router, provider, server) = (host?, other?, router?, provider?, server?);
        if bridge {
            router.run("ip link add lan type bridge")?;
            for (port, namespace) in [("eth1", &host), ("eth2", &other)] {
                router.join(port, namespace, "eth0")?;
                router.run(&format!("ip link set {port} master lan"))?;
            }
        } else {
            router.join("lan", &host, "eth0")?;
            other.run("ip link add eth0 type veth peer name unplugged")?;
        }
        router.join("eth0", &provider, "access")?;
        provider.join("core", &server, "eth0")?;
        let topology = Self { host, other, router, provider, server, wan: vec![WAN, SECOND] };
        topology.number()?;
        Ok(topology)
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
}

/// Waits until something is so: a busy kernel takes frames over late, and a program starts late.
///
/// # Errors
/// If it is not after ten seconds; what `so` says.
pub fn wait_until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..500 {
        if so()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None.with_context(|| format!("not after ten seconds: {what}"))
}

/// Waits until something listens on a TCP or UDP port in a namespace.
///
/// # Errors
/// If nothing does for ten seconds.
pub fn wait_listening(namespace: &Namespace, port: u16) -> Result<()> {
    // As the kernel writes it; 0A is a TCP listener, 07 a UDP socket without a peer.
    let wanted = format!(":{port:04X}");
    wait_until(&format!("something listens on port {port}"), || {
        let sockets =
            namespace.run("cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6")?;
        let listens = |line: &str| {
            let mut columns = line.split_whitespace().skip(1);
            let (local, state) = (columns.next(), columns.nth(1));
            local.is_some_and(|local| local.ends_with(&wanted))
                && matches!(state, Some("0A" | "07"))
        };
        Ok(sockets.lines().any(listens))
    })
}
