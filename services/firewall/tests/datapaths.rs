//! From one datapath to the other and back, under traffic. Needs root, ping and nft.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "they fail the test")]

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use portcullis_bus::{
    firewall::{CaptureRequest, FlowQuery},
    network::InterfaceStatus,
};
use portcullis_firewall::engine::Engine;
use portcullis_model::{Document, firewall::Datapath, part::FirewallPart};
use portcullis_netns::Namespace;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// A folder in the BPF file system that goes away with this value.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Result<Self> {
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
        let path = format!("/sys/fs/bpf/pc-switch-{}-{number}", std::process::id());
        std::fs::create_dir(&path)?;
        Ok(Self(path.into()))
    }

    fn content(&self) -> Result<usize> {
        Ok(std::fs::read_dir(&self.0)?.count())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Site {
    host: Namespace,
    router: Namespace,
    server: Namespace,
    pins: Pins,
    engine: Engine,
}

impl Site {
    /// With the datapath in force.
    fn new(datapath: Datapath) -> Result<Self> {
        let mut site = Self::begin(datapath)?;
        let interfaces = site.interfaces()?;
        site.act(|engine| {
            engine.set_interfaces(interfaces)?;
            Ok(())
        })?;
        Ok(site)
    }

    /// Before anything is known of the interfaces; forwarding is on already.
    fn begin(datapath: Datapath) -> Result<Self> {
        let (host, router, server) =
            (Namespace::new("swhost")?, Namespace::new("swrtr")?, Namespace::new("swsrv")?);
        router.join("lan", &host, "eth0")?;
        router.join("eth0", &server, "eth0")?;
        host.address("eth0", &format!("{HOST}/24"))?;
        host.run(&format!("ip route add default via {ROUTER}"))?;
        router.address("lan", &format!("{ROUTER}/24"))?;
        router.address("eth0", &format!("{WAN}/24"))?;
        server.address("eth0", &format!("{SERVER}/24"))?;
        server.run(&format!("ip route add 192.168.77.0/24 via {WAN}"))?;
        let pins = Pins::new()?;
        let engine = router.enter(|| Ok(Engine::open(pins.0.clone(), part(datapath)?)?))?;
        router.run("sysctl -qw net.ipv4.ip_forward=1")?;
        Ok(Self { host, router, server, pins, engine })
    }

    fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        [("lan", "lan", ROUTER, None), ("wan", "eth0", WAN, Some(SERVER))]
            .into_iter()
            .map(|(name, device, address, gateway)| {
                let read = |file: &str| {
                    let path = format!("cat /sys/class/net/{device}/{file}");
                    self.router.run(&path).map(|text| text.trim().to_owned())
                };
                Ok(InterfaceStatus {
                    name: name.to_owned(),
                    device: device.to_owned(),
                    index: read("ifindex")?.parse()?,
                    zone: name.to_owned(),
                    mac: read("address")?,
                    mtu: 1500,
                    addresses: vec![format!("{address}/24")],
                    gateway: gateway.map(|gateway| gateway.to_string()),
                    ..InterfaceStatus::default()
                })
            })
            .collect()
    }

    fn act<T: Send>(&mut self, act: impl FnOnce(&mut Engine) -> Result<T> + Send) -> Result<T> {
        let Self { router, engine, .. } = self;
        router.enter(|| act(engine))
    }

    fn switch(&mut self, datapath: Datapath) -> Result<()> {
        let part = part(datapath)?;
        self.act(|engine| {
            ensure!(engine.apply(part)?, "it is another one");
            Ok(())
        })
    }

    fn passes(&self) -> Result<bool> {
        Ok(self.host.run(&format!("ping -c 3 -i 0.2 -W 1 {SERVER}")).is_ok())
    }

    /// Exactly one datapath is there.
    fn is_only(&mut self, datapath: Datapath) -> Result<()> {
        let kind = self.act(|engine| Ok(engine.status()?.kind))?;
        let tables = self.router.run("nft list tables")?;
        let pinned = self.pins.content()?;
        match datapath {
            Datapath::Ebpf => {
                ensure!(kind == "ebpf" && tables.is_empty() && pinned > 0, "{kind} {tables}");
            }
            Datapath::Nftables => {
                ensure!(kind == "nftables" && pinned == 0, "{kind} {pinned}");
                ensure!(tables.trim() == "table inet portcullis", "{tables}");
            }
        }
        Ok(())
    }
}

/// The server plays a provider with an address of documentation; that is no bogon here.
fn part(datapath: Datapath) -> Result<FirewallPart> {
    let name = match datapath {
        Datapath::Ebpf => "ebpf",
        Datapath::Nftables => "nftables",
    };
    let text = format!(
        "[interfaces.lan]\nzone = \"lan\"\nports = [\"eth1\"]\n\
         [interfaces.wan]\nzone = \"wan\"\nports = [\"eth0\"]\n\
         [firewall]\ndatapath = \"{name}\"\nmax_flows = 4096\n\
         [firewall.zones.lan]\nservices = [\"ping\"]\n\
         [firewall.zones.wan]\nmasquerade = true\nbogons = false\n"
    );
    Ok(FirewallPart::of(&Document::parse(&text)?))
}

fn udp(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<UdpSocket> {
    let address = address.into();
    namespace.enter(|| {
        let socket = UdpSocket::bind(address).with_context(|| address.to_string())?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket)
    })
}

#[test]
fn a_change_that_is_taken_back_leaves_no_maps() -> Result<()> {
    let mut site = Site::new(Datapath::Nftables)?;
    let interfaces = site.interfaces()?;
    let pins = site.pins.0.clone();
    site.engine = site.router.enter(|| {
        let part = part(Datapath::Nftables)?;
        let mut engine = Engine::begin(pins, part, None, Arc::default())?;
        engine.set_interfaces(interfaces)?;
        // Its programs are loaded behind it.
        engine.apply(self::part(Datapath::Ebpf)?)?;
        ensure!(engine.is_changing());
        Ok(engine)
    })?;
    ensure!(site.pins.content()? > 0);
    site.act(|engine| {
        engine.apply(part(Datapath::Nftables)?)?;
        ensure!(!engine.is_changing());
        Ok(())
    })?;
    site.is_only(Datapath::Nftables)
}

#[test]
fn a_change_of_the_datapath_never_opens_the_router() -> Result<()> {
    let mut site = Site::new(Datapath::Ebpf)?;
    ensure!(site.passes()?);
    site.is_only(Datapath::Ebpf)?;
    // From outside to a host inside and to the router itself, all the time.
    let intruder = udp(&site.server, (SERVER, 4000))?;
    let inside = udp(&site.host, (HOST, 5000))?;
    let own = udp(&site.router, (Ipv4Addr::UNSPECIFIED, 5000))?;
    let over = AtomicBool::new(false);
    let sent = AtomicU32::new(0);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for target in [HOST, WAN] {
                    let _ = intruder.send_to(b"knock", (target, 5000));
                }
                sent.fetch_add(2, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let result = (|| {
            for _ in 0..3 {
                for datapath in [Datapath::Nftables, Datapath::Ebpf] {
                    site.switch(datapath)?;
                    site.is_only(datapath)?;
                    ensure!(site.passes()?, "{datapath:?}");
                }
            }
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        result
    })?;
    let sent = sent.load(Ordering::Relaxed);
    ensure!(sent > 1000, "only {sent} sent");
    for (socket, what) in [(&inside, "host"), (&own, "router")] {
        let received = socket.recv_from(&mut [0; 16]);
        ensure!(received.is_err(), "the {what} was reached: {received:?}");
    }
    Ok(())
}

#[test]
fn if_the_other_datapath_cannot_come_the_old_one_stays() -> Result<()> {
    let mut site = Site::new(Datapath::Ebpf)?;
    // Two devices that are the same to the kernel's sets, which take 15 bytes of a name.
    let mut interfaces = site.interfaces()?;
    let mut impossible = interfaces[0].clone();
    impossible.index = 99_990;
    impossible.device = "a-name-that-is-too-long-1".to_owned();
    let mut other = interfaces[1].clone();
    other.index = 99_991;
    other.device = "a-name-that-is-too-long-2".to_owned();
    interfaces.extend([impossible, other]);
    site.act(|engine| {
        engine.set_interfaces(interfaces)?;
        Ok(())
    })?;
    let part = part(Datapath::Nftables)?;
    let error = site.act(|engine| Ok(engine.apply(part).expect_err("it is refused")))?;
    ensure!(error.to_string().contains("the ruleset stays as it was"), "{error}");
    ensure!(site.passes()?);
    site.is_only(Datapath::Ebpf)
}

#[test]
fn nftables_is_closed_until_the_interfaces_are_known_and_stays_over_a_restart() -> Result<()> {
    let mut site = Site::begin(Datapath::Nftables)?;
    let reaches_router = |site: &Site| -> Result<bool> {
        Ok(site.host.run(&format!("ping -c 1 -W 1 {ROUTER}")).is_ok())
    };
    ensure!(!site.passes()? && !reaches_router(&site)?);
    let interfaces = site.interfaces()?;
    site.act(|engine| {
        engine.set_interfaces(interfaces)?;
        Ok(())
    })?;
    ensure!(site.passes()? && reaches_router(&site)?);
    // The service starts again: what was in force stays until it knows more.
    let Site { router, pins, .. } = &site;
    let again = router.enter(|| Ok(Engine::open(pins.0.clone(), part(Datapath::Nftables)?)?))?;
    site.engine = again;
    ensure!(site.passes()? && reaches_router(&site)?);
    Ok(())
}

#[test]
fn the_service_on_nftables_shows_flows_counters_and_drops() -> Result<()> {
    let mut site = Site::new(Datapath::Nftables)?;
    site.is_only(Datapath::Nftables)?;
    ensure!(site.passes()?);
    let refused =
        site.server.command("ping").args(["-c", "1", "-W", "1", &WAN.to_string()]).status()?;
    ensure!(!refused.success());
    let query = FlowQuery { limit: 10, zone: "wan".to_owned(), ..FlowQuery::default() };
    let page = site.act(|engine| engine.find_flows(&query).map_err(anyhow::Error::msg))?;
    let ping = page.flows.iter().find(|flow| flow.protocol == "icmp").context("the ping")?;
    ensure!(ping.from_zone == "lan" && ping.to_zone == "wan", "{ping:?}");
    ensure!(ping.translated_source.starts_with(&format!("{WAN}:")), "{ping:?}");
    ensure!(ping.packets_out == 3 && ping.packets_in == 3 && page.capacity == 4096, "{page:?}");
    let (counters, drops) = site.act(|engine| Ok((engine.counters()?, engine.drops()?)))?;
    let count = |name: &str| counters.iter().find(|one| one.name == name).map(|one| one.packets);
    ensure!(count("forwarded") == Some(6) && count("drop.policy") == Some(1), "{counters:?}");
    ensure!(
        drops.len() == 1 && drops[0].from_zone == "wan" && drops[0].to_zone == "router",
        "{drops:?}"
    );
    let capture = site.act(|engine| Ok(engine.begin_capture(&CaptureRequest::default()).err()))?;
    ensure!(
        capture.as_deref() == Some("packets are copied by eBPF, and firewall.datapath is nftables"),
        "{capture:?}"
    );
    // The policy changes: the flow stays until it is asked again.
    let mut closed = part(Datapath::Nftables)?;
    closed.firewall.policies.clear();
    let ended = site.act(|engine| {
        engine.apply(closed)?;
        Ok(engine.reevaluate()?)
    })?;
    ensure!(ended == 1, "{ended} flows ended");
    ensure!(!site.passes()?);
    // The address goes, and its flows with it.
    site.act(|engine| {
        engine.apply(part(Datapath::Nftables)?)?;
        Ok(())
    })?;
    ensure!(site.passes()?);
    let mut interfaces = site.interfaces()?;
    interfaces[1].addresses = vec!["198.51.100.3/24".to_owned()];
    let left = site.act(|engine| {
        engine.set_interfaces(interfaces)?;
        engine
            .find_flows(&FlowQuery { limit: 10, ..FlowQuery::default() })
            .map_err(anyhow::Error::msg)
    })?;
    ensure!(left.total == 0, "{left:?}");
    let text = site.act(|engine| Ok(engine.nftables()))?;
    ensure!(text.contains("table inet portcullis {") && text.contains("masquerade"), "{text}");
    Ok(())
}
