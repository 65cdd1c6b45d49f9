//! Translation between real hosts: namespaces, veth pairs, real sockets. Needs root, tcpdump and
//! coturn.
#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

mod discovery;

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use portcullis_site::{
    HOST, OTHER, PATIENCE, POOL, SECOND, SERVER, SERVER_TOO, Site, WAN,
    sockets::{connects, listen, reaches, udp},
};

const FORWARDS: &str = r#"
[[firewall.port_forwards]]
name = "web"
zone = "wan"
protocol = "both"
ports = ["8080-8090"]
to = "192.168.77.100"
to_port = 80

[[firewall.port_forwards]]
name = "office-ssh"
zone = "wan"
addresses = ["198.51.100.3"]
protocol = "tcp"
ports = [22]
to = "192.168.77.101"
sources = ["203.0.113.11"]
"#;

#[test]
fn a_port_forward_is_reached_from_outside() -> Result<()> {
    let mut site = Site::new(FORWARDS)?;
    let web = listen(&site.host, (HOST, 80))?;
    let peer = connects(&site.server, (WAN, 8080), &web)?;
    ensure!(peer.ip() == SERVER, "the server inside sees who asks: {peer}");
    // Ports of the range keep their offset; by any address of the zone.
    let other = listen(&site.host, (HOST, 85))?;
    connects(&site.server, (SECOND, 8085), &other)?;
    let inside = udp(&site.host, (HOST, 80))?;
    let client = udp(&site.server, (SERVER, 5000))?;
    let peer = reaches(&client, (WAN, 8080), &inside)?.context("UDP")?;
    ensure!(peer == SocketAddr::from((SERVER, 5000)));
    let peer = reaches(&inside, (SERVER, 5000), &client)?.context("the answer")?;
    ensure!(peer == SocketAddr::from((WAN, 8080)), "{peer}");
    // Not beyond the range, and not for other sources than it names.
    let start = Instant::now();
    let beyond = listen(&site.host, (HOST, 91))?;
    ensure!(connects(&site.server, (WAN, 8091), &beyond).is_err());
    ensure!(start.elapsed() >= PATIENCE, "refused by an answer, not silently");
    let ssh = listen(&site.other, (OTHER, 22))?;
    ensure!(connects(&site.server, (SECOND, 22), &ssh).is_err(), "from {SERVER}");
    site.server.run(&format!("ip route replace default via 203.0.113.1 src {SERVER_TOO}"))?;
    let peer = connects(&site.server, (SECOND, 22), &ssh)
        .with_context(|| site.counters().unwrap_or_default())?;
    ensure!(peer.ip() == SERVER_TOO, "{peer}");
    Ok(())
}

#[test]
fn a_port_forward_is_reached_from_inside_by_the_external_address() -> Result<()> {
    let mut site = Site::new(FORWARDS)?;
    let web = listen(&site.host, (HOST, 80))?;
    for namespace in [&site.other, &site.host] {
        let peer = connects(namespace, (WAN, 8080), &web)
            .with_context(|| format!("from {}", namespace.name()))?;
        ensure!(peer.ip() == WAN, "it comes from the external address: {peer}");
    }
    // And without hairpin it is not.
    site.configure(&FORWARDS.replace("to_port = 80", "to_port = 80\nhairpin = false"))?;
    ensure!(connects(&site.other, (WAN, 8080), &web).is_err());
    connects(&site.server, (WAN, 8080), &web)?;
    Ok(())
}

#[test]
fn hosts_inside_reach_each_other_by_their_mappings() -> Result<()> {
    let site = Site::new("")?;
    let server = udp(&site.server, (SERVER, 3478))?;
    let [host, other] = [udp(&site.host, (HOST, 4000))?, udp(&site.other, (OTHER, 4000))?];
    let mine = reaches(&host, (SERVER, 3478), &server)?.context("out")?;
    let theirs = reaches(&other, (SERVER, 3478), &server)?.context("out")?;
    ensure!(mine == SocketAddr::from((WAN, 4000)) && mine != theirs, "{mine} {theirs}");
    let seen = reaches(&host, theirs, &other)?.context("hairpin")?;
    ensure!(seen == mine, "RFC 4787 REQ-9: {seen}");
    let seen = reaches(&other, mine, &host)?.context("and back")?;
    ensure!(seen == theirs, "{seen}");
    let itself = reaches(&host, mine, &host)?.context("to itself")?;
    ensure!(itself == mine, "{itself}");
    Ok(())
}

#[test]
fn a_host_has_an_address_of_its_own() -> Result<()> {
    let text = r#"
[[firewall.static_nat]]
zone = "wan"
external = "198.51.100.3"
internal = "192.168.77.101"
"#;
    let mut site = Site::new(text)?;
    let server = udp(&site.server, (SERVER, 5000))?;
    let other = udp(&site.other, (OTHER, 123))?;
    let host = udp(&site.host, (HOST, 4000))?;
    let seen = reaches(&other, (SERVER, 5000), &server)?.context("out")?;
    ensure!(seen == SocketAddr::from((SECOND, 123)), "{seen}");
    let seen = reaches(&host, (SERVER, 5000), &server)?.context("out")?;
    ensure!(seen.ip() == WAN, "others are masqueraded: {seen}");
    let stranger = udp(&site.server, (SERVER_TOO, 6000))?;
    ensure!(reaches(&stranger, (SECOND, 123), &other)?.is_none(), "it opens nothing");
    site.configure(&format!(
        "{text}
[[firewall.rules]]
name = \"in\"
from = \"wan\"
to = \"lan\"
destinations = [\"192.168.77.101\"]
action = \"allow\"
"
    ))?;
    let seen = reaches(&stranger, (SECOND, 123), &other)?.context("allowed by a rule")?;
    ensure!(seen == SocketAddr::from((SERVER_TOO, 6000)), "{seen}");
    let output = site.server.run(&format!("ping -c 2 -i 0.2 -W 2 {SECOND}"))?;
    ensure!(output.contains(" 0% packet loss"), "{output}");
    // From inside by the external address.
    let seen = reaches(&host, (SECOND, 123), &other)?.context("hairpin")?;
    ensure!(seen.ip() == WAN, "{seen}");
    Ok(())
}

#[test]
fn a_pool_gives_each_host_one_address() -> Result<()> {
    let site = Site::new(
        r#"
[[firewall.source_nat]]
zone = "wan"
sources = ["192.168.77.0/24"]
addresses = ["192.0.2.64/30"]
"#,
    )?;
    let server = udp(&site.server, (SERVER, 5000))?;
    // Both may get the same address, so each has ports of its own.
    for (namespace, address, ports) in
        [(&site.host, HOST, [4000, 4001]), (&site.other, OTHER, [4100, 4101])]
    {
        let mut seen = Vec::new();
        for port in ports {
            let client = udp(namespace, (address, port))?;
            let peer = reaches(&client, (SERVER, 5000), &server)?.context("out")?;
            ensure!(peer.port() == port, "{peer}");
            let back = reaches(&server, (peer.ip(), port), &client)?.context("back")?;
            ensure!(back == SocketAddr::from((SERVER, 5000)));
            let IpAddr::V4(address) = peer.ip() else { anyhow::bail!("{peer}") };
            seen.push(u32::from(address));
        }
        ensure!(seen[0] == seen[1] && seen[0] & !3 == u32::from(POOL), "{seen:x?}");
    }
    let output = site.host.run(&format!("ping -c 2 -i 0.2 -W 2 {SERVER}"))?;
    ensure!(output.contains(" 0% packet loss"), "{output}");
    Ok(())
}

#[test]
fn filtering_is_strict_unless_a_rule_says_full_cone() -> Result<()> {
    for full_cone in [false, true] {
        let site = Site::new(&format!(
            r#"
[[firewall.rules]]
name = "games"
from = "lan"
to = "wan"
protocols = ["udp"]
action = "allow"
full_cone = {full_cone}
"#
        ))?;
        let server = udp(&site.server, (SERVER, 5000))?;
        let same_address = udp(&site.server, (SERVER, 5001))?;
        let stranger = udp(&site.server, (SERVER_TOO, 5000))?;
        let host = udp(&site.host, (HOST, 4000))?;
        let seen = reaches(&host, (SERVER, 5000), &server)?.context("out")?;
        let mapped = seen;
        ensure!(reaches(&server, mapped, &host)?.is_some(), "the answer");
        for who in [&same_address, &stranger] {
            ensure!(reaches(who, mapped, &host)?.is_some() == full_cone, "{full_cone} {who:?}");
        }
        // Whom it writes to is let in, and it is seen with the same port by all.
        let seen = reaches(&host, (SERVER_TOO, 5000), &stranger)?.context("out")?;
        ensure!(seen == mapped, "endpoint-independent mapping: {seen}");
        ensure!(reaches(&stranger, mapped, &host)?.is_some());
    }
    Ok(())
}

#[test]
fn the_mss_is_lowered_to_what_fits_both_ways() -> Result<()> {
    // The uplink of a PPPoE line.
    for (setting, at_most) in [("true", 1452), ("1300", 1300), ("false", 1460)] {
        let site = Site::new(&format!(
            "[firewall.zones.wan]\nmasquerade = true\nmss_clamp = {setting}\n[firewall.zones.lan]\n{}",
            FORWARDS,
        ))?;
        site.router.run("ip link set eth0 mtu 1492")?;
        site.provider.run("ip link set access mtu 1492")?;
        let listener = listen(&site.server, (SERVER, 80))?;
        let web = listen(&site.host, (HOST, 80))?;
        for (client, capture, to, listener) in [
            (&site.host, &site.server, (SERVER, 80), &listener),
            (&site.server, &site.host, (WAN, 8080), &web),
        ] {
            // The SYN at its destination, and the answer at its.
            let syn = sniff(capture, "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn")?;
            let answer = sniff(client, "tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)")?;
            connects(client, to, listener)?;
            for (which, sniffer) in [("SYN", syn), ("answer", answer)] {
                let line = sniffer.line()?;
                let mss = line
                    .split_once("mss ")
                    .and_then(|(_, rest)| rest.split([',', ']']).next()?.parse().ok());
                ensure!(mss == Some(at_most), "{setting}, {which} to {to:?}: {line}");
            }
        }
    }
    Ok(())
}

/// One packet on its way into or out of a namespace.
struct Sniffer(portcullis_netns::Running, tempfile::TempDir);

fn sniff(namespace: &portcullis_netns::Namespace, filter: &str) -> Result<Sniffer> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("packet");
    // It drops its rights before it writes.
    std::fs::write(&file, [])?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777))?;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666))?;
    let running = namespace.start(&format!(
        "tcpdump -i eth0 -n -c 1 -U --immediate-mode -w {} {filter}",
        file.display()
    ))?;
    let sniffer = Sniffer(running, folder);
    for _ in 0..100 {
        // The header of the file comes when it listens.
        if std::fs::metadata(&file)?.len() >= 24 {
            return Ok(sniffer);
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    Err(anyhow::anyhow!("tcpdump does not listen"))
}

impl Sniffer {
    fn line(mut self) -> Result<String> {
        self.0.wait(PATIENCE)?;
        let mut tcpdump = std::process::Command::new("tcpdump");
        tcpdump.arg("-nr").arg(self.1.path().join("packet"));
        let output = portcullis_netns::execute(&mut tcpdump)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains("Flags ["), "no packet: {text}");
        Ok(text)
    }
}
