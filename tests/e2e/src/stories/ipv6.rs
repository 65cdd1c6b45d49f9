//! IPv6 passes statefully, without translation: out at will, in by rule, and its errors with it.
//! Addresses are fixed on both sides; the appliance announces none yet.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use portcullis_netns::Namespace;
use portcullis_qemu::SOON;

use super::ZONES;
use crate::scene::Scene;

const ROUTER: &str = "2001:db8:77::1";
const HOST: &str = "2001:db8:77::100";
const PROVIDER: &str = "2001:db8:1::1";
const SITE: &str = "2001:db8:2::10";

/// A web server inside that everybody may reach.
const DOCUMENT: &str = r#"[interfaces.wan]
zone = "wan"
ports = ["first"]
ipv4 = { method = "dhcp" }
ipv6 = { method = "static", addresses = ["2001:db8:1::2/64"], gateway = "2001:db8:1::1" }
[interfaces.lan]
kind = "bridge"
zone = "lan"
ports = ["others"]
ipv4 = { method = "static", addresses = ["192.168.77.1/24"] }
ipv6 = { method = "static", addresses = ["2001:db8:77::1/64"] }
[[firewall.rules]]
name = "web-inside"
from = "wan"
to = "lan"
destinations = ["2001:db8:77::100"]
protocols = ["tcp"]
destination_ports = ["8080"]
action = "allow"
"#;

pub fn passes_statefully(scene: &mut Scene) -> Result<()> {
    number(scene)?;
    let outcome = scene.under(&format!("{DOCUMENT}{ZONES}"), check);
    let cleared = clear(scene);
    outcome?;
    cleared
}

/// Addresses and routes around the appliance.
fn number(scene: &Scene) -> Result<()> {
    let (host, internet) = (scene.host(), &scene.lab.internet);
    internet.provider.address("wan0", &format!("{PROVIDER}/64"))?;
    internet.provider.address("core0", "2001:db8:c::1/64")?;
    internet.site.address("core0", "2001:db8:c::2/64")?;
    internet.site.address("lo", &format!("{SITE}/128"))?;
    internet.provider.run(&format!("ip -6 route add {SITE}/128 via 2001:db8:c::2"))?;
    internet.provider.run("ip -6 route add 2001:db8:77::/64 via 2001:db8:1::2")?;
    internet.provider.run("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.icmp.ratelimit=0")?;
    internet.site.run(&format!("ip -6 route add default via 2001:db8:c::1 src {SITE}"))?;
    host.namespace().address("eth0", &format!("{HOST}/64"))?;
    host.run(&format!("ip -6 route add default via {ROUTER}"))?;
    Ok(())
}

fn clear(scene: &Scene) -> Result<()> {
    let internet = &scene.lab.internet;
    for (namespace, device) in [
        (scene.host().namespace(), "eth0"),
        (&internet.provider, "wan0"),
        (&internet.provider, "core0"),
        (&internet.site, "core0"),
    ] {
        namespace.run(&format!("ip -6 address flush dev {device} scope global"))?;
    }
    internet.site.run(&format!("ip -6 address del {SITE}/128 dev lo"))?;
    internet.provider.run("ip link set core0 mtu 1500")?;
    internet.site.run("ip link set core0 mtu 1500")?;
    Ok(())
}

fn check(scene: &Scene) -> Result<()> {
    let (host, site) = (scene.host(), &scene.lab.internet.site);
    let end = Instant::now() + SOON;
    while let Err(error) = host.run(&format!("ping -6 -c 1 -W 2 {SITE}")) {
        ensure!(Instant::now() < end, "nothing gets out: {error:#}");
        thread::sleep(Duration::from_millis(300));
    }
    // Out, and its answers; the far end sees the host's own address.
    let listener = site.enter(|| Ok(TcpListener::bind((SITE, 8081))?))?;
    connects(host.namespace(), SITE, 8081)?;
    let (_, peer) = listener.accept()?;
    ensure!(peer.ip().to_string() == HOST, "seen as {peer}");
    for method in ["-I", "-U"] {
        let hops = host.run(&format!("traceroute -6 -n {method} -q 1 -w 3 -m 5 {SITE}"))?;
        let shown: Vec<_> =
            hops.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        ensure!(shown == [ROUTER, PROVIDER, SITE], "traceroute {method}:\n{hops}");
    }
    // A narrow link further on: the error about it comes through to the sender.
    for namespace in [&scene.lab.internet.provider, site] {
        namespace.run("ip link set core0 mtu 1400")?;
    }
    let large = format!("ping -6 -M do -c 3 -i 0.3 -W 2 -s 1440 {SITE}");
    let text = host.namespace().told(&large)?;
    ensure!(text.contains("1400"), "nobody told of the narrow link: {text}");

    // In: what no rule allows is silence, what one does works.
    let listeners = host
        .namespace()
        .enter(|| Ok([TcpListener::bind((HOST, 8080))?, TcpListener::bind((HOST, 8082))?]))?;
    connects(site, HOST, 8080)?;
    let (_, peer) = listeners[0].accept()?;
    ensure!(peer.ip().to_string() == SITE, "seen as {peer}");
    ensure!(connects(site, HOST, 8082).is_err(), "a port that no rule allows");
    ensure!(site.run(&format!("ping -6 -c 1 -W 1 {HOST}")).is_err(), "a ping that no rule allows");
    ensure!(connects(site, "2001:db8:1::2", 443).is_err(), "the router's page from outside");
    Ok(())
}

/// Connects over TCP and sends nothing.
fn connects(from: &Namespace, to: &str, port: u16) -> Result<()> {
    from.run(&format!("socat -u -T 3 /dev/null TCP6:[{to}]:{port},connect-timeout=3")).map(drop)
}
