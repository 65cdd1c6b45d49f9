//! The policy on nftables between real hosts: namespaces, veth pairs, real clients. Needs root, and
//! ping, traceroute, nmap, iperf3.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "they fail the test")]

mod site;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use portcullis_nftables::{compile::TABLE, conntrack::State, kernel::Netfilter};
use site::{
    Greeter, HOST, HOST6, MOMENT, OTHER, PATIENCE, PROVIDER, ROUTER, SERVER, SERVER6, Site, WAN,
    pings, seen_as, udp,
};

#[test]
fn the_lan_reaches_the_internet_by_the_wan_address() -> Result<()> {
    let site = Site::new("")?;
    ensure!(pings(&site.host, &SERVER.to_string())?, "the first packet passes");
    let greeter = Greeter::start(&site.server, (SERVER, 7))?;
    let seen = seen_as(&site.host, greeter.address)?;
    ensure!(seen.ip() == WAN, "{seen}");
    for size in [1473, 8000, 65_507] {
        let output = site.host.run(&format!("ping -c 1 -W 2 -s {size} {SERVER}"))?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
    }
    let mut iperf = site.server.start("iperf3 -s -1")?;
    std::thread::sleep(MOMENT);
    let output = site.host.run(&format!("iperf3 -c {SERVER} -n 50M --bidir --json"))?;
    ensure!(!output.contains("\"error\""), "{output}");
    iperf.wait(PATIENCE)?;
    for method in ["", "-I ", "-T -p 80 "] {
        let output = site.host.run(&format!("traceroute -n -w 2 -q 1 {method}{SERVER}"))?;
        for address in [ROUTER, PROVIDER, SERVER] {
            ensure!(output.contains(&address.to_string()), "{method}{output}");
        }
    }
    Ok(())
}

#[test]
fn nothing_from_the_wan_gets_in_or_an_answer() -> Result<()> {
    let site = Site::new("")?;
    let _services = [
        Greeter::start(&site.router, (Ipv4Addr::UNSPECIFIED, 443))?,
        Greeter::start(&site.router, (Ipv4Addr::UNSPECIFIED, 53))?,
        Greeter::start(&site.router, (Ipv4Addr::UNSPECIFIED, 22))?,
        Greeter::start(&site.host, (HOST, 80))?,
    ];
    site.provider.run(&format!("ip route add 192.168.77.0/24 via {WAN}"))?;
    let scan = site.provider.run(&format!(
        "nmap -n -Pn -sS -p 22,53,80,443 --max-retries 0 --host-timeout 20s {WAN}"
    ))?;
    ensure!(scan.matches("filtered").count() >= 4 && !scan.contains("open "), "{scan}");
    ensure!(!pings(&site.provider, &WAN.to_string())?, "the WAN address answers pings");
    ensure!(seen_as(&site.provider, (HOST, 80)).is_err(), "a host inside was reached");
    ensure!(site.count("drop.policy")? >= 6, "{}", site.count("drop.policy")?);

    // Inside, exactly the services.
    let scan = site.host.run(&format!(
        "nmap -n -Pn -sS -p 22,53,80,443 --max-retries 0 --host-timeout 20s {ROUTER}"
    ))?;
    let open: Vec<_> = scan.lines().filter(|line| line.contains("open ")).collect();
    ensure!(open.len() == 2 && open[0].starts_with("53/") && open[1].starts_with("443/"), "{scan}");
    ensure!(pings(&site.host, &ROUTER.to_string())?);
    // The router itself reaches out.
    ensure!(pings(&site.router, &SERVER.to_string())? && pings(&site.router, &HOST.to_string())?);
    Ok(())
}

const FORWARDS: &str = r#"
[[firewall.port_forwards]]
name = "web"
zone = "wan"
protocol = "tcp"
ports = [80]
to = "192.168.77.100"
to_port = 8080

[[firewall.port_forwards]]
name = "range"
zone = "wan"
protocol = "both"
ports = ["9000-9009"]
to = "192.168.77.100"
to_port = 7000

[[firewall.port_forwards]]
name = "friends"
zone = "wan"
protocol = "tcp"
ports = [81]
to = "192.168.77.100"
to_port = 8080
sources = ["203.0.113.0/24"]
hairpin = false
"#;

#[test]
fn forwarded_ports_lead_to_hosts_inside_also_from_inside() -> Result<()> {
    let site = Site::new(FORWARDS)?;
    let _greeters =
        [Greeter::start(&site.host, (HOST, 8080))?, Greeter::start(&site.host, (HOST, 7004))?];
    let seen = seen_as(&site.server, (WAN, 80))?;
    ensure!(seen.ip() == SERVER, "the source stays: {seen}");
    ensure!(seen_as(&site.server, (WAN, 9004))?.ip() == SERVER, "the fifth port of the range");
    ensure!(seen_as(&site.server, (WAN, 9005)).is_err(), "nobody listens there");
    ensure!(seen_as(&site.server, (WAN, 82)).is_err(), "not forwarded");

    // Hairpin: from another host, and from the host itself, by the WAN address.
    let seen = seen_as(&site.other, (WAN, 80))?;
    ensure!(seen.ip() == WAN, "by the external address (RFC 4787 REQ-9): {seen}");
    ensure!(seen_as(&site.host, (WAN, 80))?.ip() == WAN);
    // Not where it is switched off, and only for the sources.
    ensure!(seen_as(&site.other, (WAN, 81)).is_err());
    ensure!(seen_as(&site.server, (WAN, 81))?.ip() == SERVER);
    ensure!(seen_as(&site.provider, (WAN, 81)).is_err(), "198.51.100.1 is not of the sources");

    let inside = udp(&site.host, (HOST, 7001))?;
    let outside = udp(&site.server, (SERVER, 5000))?;
    outside.send_to(b"in", (WAN, 9001))?;
    let mut buffer = [0; 16];
    let (_, peer) = inside.recv_from(&mut buffer).context("inside")?;
    ensure!(peer == SocketAddr::from((SERVER, 5000)), "{peer}");
    inside.send_to(b"out", peer)?;
    let (_, peer) = outside.recv_from(&mut buffer).context("the answer")?;
    ensure!(peer == SocketAddr::from((WAN, 9001)), "{peer}");
    Ok(())
}

const RULES: &str = r#"
[firewall.addresses.friends]
members = ["203.0.113.0/28", "2001:db8:2::/64"]
[firewall.ports.closed]
members = [7, "90-99"]

[[firewall.rules]]
name = "reset"
from = "lan"
to = "wan"
destinations = ["@friends"]
protocols = ["tcp", "udp"]
destination_ports = ["@closed"]
action = "reject"

[[firewall.rules]]
name = "silent"
from = "lan"
to = "wan"
destinations = ["203.0.113.10"]
protocols = ["tcp"]
destination_ports = [100]
action = "deny"
log = true

[[firewall.rules]]
name = "no-ping-of-large"
from = "lan"
to = "wan"
protocols = ["icmp"]
icmp_types = ["echo-request"]
sources = ["192.168.77.101"]
action = "deny"

[[firewall.rules]]
name = "ssh-of-the-router"
from = "wan"
to = "router"
sources = ["203.0.113.10"]
protocols = ["tcp"]
destination_ports = [22]
action = "allow"
"#;

#[test]
fn rules_decide_and_refusals_are_told() -> Result<()> {
    let site = Site::new(RULES)?;
    let _greeters = [
        Greeter::start(&site.server, (SERVER, 7))?,
        Greeter::start(&site.server, (SERVER, 100))?,
        Greeter::start(&site.server, (SERVER, 101))?,
        Greeter::start(&site.router, (Ipv4Addr::UNSPECIFIED, 22))?,
    ];
    let connect = |port: u16| -> Result<Option<ErrorKind>> {
        site.host.enter(|| {
            Ok(TcpStream::connect_timeout(&(SERVER, port).into(), MOMENT)
                .err()
                .map(|error| error.kind()))
        })
    };
    // A reset comes at once: silence is what a moment is waited for.
    ensure!(connect(7)? == Some(ErrorKind::ConnectionRefused), "{:?}", connect(7)?);
    ensure!(connect(100)? == Some(ErrorKind::TimedOut), "{:?}", connect(100)?);
    ensure!(connect(101)?.is_none());
    let socket = udp(&site.host, (Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((SERVER, 95))?;
    socket.send(b"anyone?")?;
    let error = socket.recv(&mut [0; 16]).err().context("an answer")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "port unreachable: {error}");
    ensure!(pings(&site.host, &SERVER.to_string())?);
    ensure!(!pings(&site.other, &SERVER.to_string())?);
    ensure!(seen_as(&site.server, (WAN, 22)).is_ok(), "a rule opens a port of the router");
    ensure!(seen_as(&site.provider, (WAN, 22)).is_err());
    let reset6 = site.host.enter(|| {
        Ok(TcpStream::connect_timeout(&(SERVER6, 7).into(), MOMENT).err().map(|e| e.kind()))
    })?;
    ensure!(reset6 == Some(ErrorKind::ConnectionRefused), "{reset6:?}");
    Ok(())
}

const LIMITS: &str = r#"
[[firewall.rules]]
name = "few"
from = "lan"
to = "wan"
protocols = ["udp"]
destination_ports = [5000]
action = "allow"
rate_limit = { per_second = 1, burst = 3, per_source = true }

[[firewall.rules]]
name = "two-at-a-time"
from = "lan"
to = "wan"
protocols = ["tcp"]
destination_ports = [6000]
action = "allow"
connections_per_source = 2
"#;

#[test]
fn limits_hold_for_each_source() -> Result<()> {
    let site = Site::new(LIMITS)?;
    let server = udp(&site.server, (SERVER, 5000))?;
    let started = Instant::now();
    let mut arrived = 0;
    for host in [&site.host, &site.other] {
        for _ in 0..10 {
            udp(host, (Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"one", (SERVER, 5000))?;
        }
    }
    let seconds = started.elapsed().as_secs() + 1;
    while server.recv(&mut [0; 16]).is_ok() {
        arrived += 1;
    }
    let most = 2 * (3 + seconds);
    ensure!((6..=most).contains(&arrived), "three of each, and one a second: {arrived} of {most}");
    ensure!(site.count("drop.rate-limit")? == 20 - arrived);

    let listener = site.server.enter(|| Ok(TcpListener::bind((SERVER, 6000))?))?;
    let connect = |namespace: &portcullis_netns::Namespace| {
        namespace.enter(|| Ok(TcpStream::connect_timeout(&(SERVER, 6000).into(), MOMENT)?))
    };
    let held: Vec<_> = (0..2).map(|_| connect(&site.host)).collect::<Result<_>>()?;
    ensure!(connect(&site.host).is_err(), "a third");
    ensure!(connect(&site.other).is_ok(), "another source");
    ensure!(site.count("drop.connections")? >= 1);
    drop((held, listener));
    Ok(())
}

const TRANSLATIONS: &str = r#"
[[firewall.static_nat]]
zone = "wan"
external = "198.51.100.50"
internal = "192.168.77.101"

[[firewall.source_nat]]
zone = "wan"
sources = ["192.168.77.100"]
addresses = ["198.51.100.60", "198.51.100.62"]

[[firewall.rules]]
name = "to-the-other"
from = "wan"
to = "lan"
destinations = ["192.168.77.101"]
protocols = ["tcp"]
destination_ports = [80]
action = "allow"
"#;

#[test]
fn addresses_are_translated_one_to_one_and_from_pools() -> Result<()> {
    let site = Site::new(TRANSLATIONS)?;
    site.provider.run(&format!("ip route add 198.51.100.48/28 via {WAN}"))?;
    let _greeters = [
        Greeter::start(&site.server, (SERVER, 7))?,
        Greeter::start(&site.other, (OTHER, 80))?,
        Greeter::start(&site.other, (OTHER, 81))?,
    ];
    let external = Ipv4Addr::new(198, 51, 100, 50);
    ensure!(seen_as(&site.other, (SERVER, 7))?.ip() == external);
    ensure!(seen_as(&site.server, (external, 80))?.ip() == SERVER);
    ensure!(seen_as(&site.server, (external, 81)).is_err(), "it opens nothing by itself");
    ensure!(seen_as(&site.host, (external, 81))?.ip() == external, "hairpin");
    let pooled: Vec<_> = (0..3).map(|_| seen_as(&site.host, (SERVER, 7))).collect::<Result<_>>()?;
    ensure!(pooled[0].ip().to_string().starts_with("198.51.100.6"), "{pooled:?}");
    ensure!(pooled.iter().all(|one| one.ip() == pooled[0].ip()), "always the same: {pooled:?}");
    Ok(())
}

const PINHOLE: &str = r#"
[[firewall.rules]]
name = "pinhole"
from = "wan"
to = "lan"
destination_hosts = [{ interface = "lan", suffix = "::100" }]
protocols = ["tcp"]
destination_ports = [80]
action = "allow"
"#;

#[test]
fn ipv6_is_filtered_with_state_and_what_it_needs_passes() -> Result<()> {
    let site = Site::new(PINHOLE)?;
    let _greeters = [
        Greeter::start(&site.server, (SERVER6, 7))?,
        Greeter::start(&site.host, (Ipv6Addr::UNSPECIFIED, 80))?,
        Greeter::start(&site.host, (Ipv6Addr::UNSPECIFIED, 81))?,
        Greeter::start(&site.router, (Ipv6Addr::UNSPECIFIED, 443))?,
    ];
    let router6: Ipv6Addr = "2001:db8:77::1".parse()?;
    ensure!(pings(&site.host, &SERVER6.to_string())?);
    ensure!(seen_as(&site.host, (SERVER6, 7))?.ip() == HOST6, "not translated");
    ensure!(!pings(&site.server, &HOST6.to_string())?);
    ensure!(seen_as(&site.server, (HOST6, 80))?.ip() == SERVER6, "the pinhole");
    ensure!(seen_as(&site.server, (HOST6, 81)).is_err());
    ensure!(seen_as(&site.host, (router6, 443)).is_ok());
    ensure!(seen_as(&site.server, ("2001:db8:1::2".parse::<Ipv6Addr>()?, 443)).is_err());
    ensure!(pings(&site.host, "2001:db8:77::1")?);

    // Neighbour discovery from both sides, when nothing is known any more.
    for _ in 0..2 {
        site.router.run("ip -6 neigh flush all")?;
        site.host.run("ip -6 neigh flush all")?;
        site.provider.run("ip -6 neigh flush all")?;
        ensure!(pings(&site.host, &SERVER6.to_string())?);
    }

    // Packet too big, from a router behind the provider, and by ourselves.
    site.provider.run("ip link set core mtu 1300")?;
    site.server.run("ip link set eth0 mtu 1300")?;
    let text = site.host.told(&format!("ping -c 2 -i 0.3 -W 1 -M do -s 1400 {SERVER6}"))?;
    ensure!(text.contains("mtu") && text.contains("1300"), "{text}");
    Ok(())
}

/// An IPv6 packet of an experimental protocol (RFC 3692), with a routing header of type 0.
fn detour(segments_left: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 32, 43, 64];
    packet.extend(HOST6.octets());
    packet.extend(SERVER6.octets());
    packet.extend([253, 2, 0, segments_left, 0, 0, 0, 0]);
    packet.extend(HOST6.octets());
    packet.extend([0; 8]);
    packet
}

/// RFC 5095, RFC 6092 section 3.1 REC-4.
#[test]
fn no_sender_chooses_the_way_of_its_packets() -> Result<()> {
    let site = Site::new("")?;
    ensure!(pings(&site.host, &SERVER6.to_string())?, "its way is known");
    let send = |packet: &[u8]| -> Result<()> {
        use nix::sys::socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
        };
        site.host.enter(|| {
            let socket =
                socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
            let to = SockaddrIn6::from(std::net::SocketAddrV6::new(SERVER6, 0, 0, 0));
            sendto(std::os::fd::AsRawFd::as_raw_fd(&socket), packet, &to, MsgFlags::empty())?;
            Ok(())
        })
    };
    let passed = site.count("forwarded")?;
    send(&detour(0))?;
    wait(|| Ok(site.count("forwarded")? > passed), "one that has been everywhere")?;
    ensure!(site.count("drop.ipv6-extension")? == 0);
    let passed = site.count("forwarded")?;
    send(&detour(1))?;
    wait(|| Ok(site.count("drop.ipv6-extension")? == 1), "one that has not")?;
    ensure!(site.count("forwarded")? == passed);
    Ok(())
}

/// Waits until something is so.
fn wait(so: impl Fn() -> Result<bool>, what: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !so()? {
        ensure!(Instant::now() < end, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn segments_are_clamped_to_the_narrowest_link() -> Result<()> {
    let site = Site::new("")?;
    site.router.run("ip link set eth0 mtu 1400")?;
    site.provider.run("ip link set access mtu 1400")?;
    let segment = |address: SocketAddr| -> Result<u32> {
        let listener = site.server.enter(|| Ok(TcpListener::bind(address)?))?;
        let _client =
            site.host.enter(|| Ok(TcpStream::connect_timeout(&listener.local_addr()?, MOMENT)?))?;
        let (accepted, _) = listener.accept()?;
        Ok(nix::sys::socket::getsockopt(&accepted, nix::sys::socket::sockopt::TcpMaxSeg)?)
    };
    // 12 bytes of each segment are time stamps.
    let size = segment((SERVER, 7).into())?;
    ensure!(size <= 1400 - 40, "{size}");
    let size = segment((SERVER6, 7).into())?;
    ensure!(size <= 1400 - 60, "{size}");
    Ok(())
}

#[test]
fn a_new_policy_is_for_new_connections() -> Result<()> {
    let site = Site::new("")?;
    let listener = site.server.enter(|| Ok(TcpListener::bind((SERVER, 7))?))?;
    let mut client =
        site.host.enter(|| Ok(TcpStream::connect_timeout(&(SERVER, 7).into(), PATIENCE)?))?;
    let (mut server, _) = listener.accept()?;
    site.configure("[firewall]\npolicies = []\n")?;
    client.write_all(b"still here")?;
    server.set_read_timeout(Some(PATIENCE))?;
    server.read_exact(&mut [0; 10]).context("the connection goes on")?;
    ensure!(!pings(&site.host, &SERVER.to_string())?, "no policy allows it any more");
    let before = site.count("drop.policy")?;
    ensure!(before >= 1);
    site.configure("")?;
    ensure!(pings(&site.host, &SERVER.to_string())?);
    ensure!(site.count("drop.policy")? == before, "counters go on");
    // Without the table nothing is filtered; the service never leaves it at that.
    site.router.enter(|| Ok(Netfilter::open()?.delete(TABLE)?))
}

const PROTECTION: &str = r#"
[firewall.protection]
blocklist = ["203.0.113.66", "2001:db8:2::66"]
icmp = { per_source = 3, total = 0 }
exempt = ["203.0.113.77"]

[[firewall.rules]]
name = "ping"
from = "wan"
to = "router"
protocols = ["icmp"]
action = "allow"
"#;

#[test]
fn unwanted_sources_are_dropped_early() -> Result<()> {
    let site = Site::new(PROTECTION)?;
    // The last as if it were a host of the LAN; the kernel's own check of sources is off, so that
    // it is ours that refuses.
    for address in ["203.0.113.66/24", "203.0.113.77/24", "10.9.9.9/24", "192.168.77.55/32"] {
        site.server.address("eth0", address)?;
    }
    for path in ["all", "default", "eth0", "lan"] {
        site.router.run(&format!("sysctl -qw net.ipv4.conf.{path}.rp_filter=0"))?;
    }
    site.provider.run("ip route add 10.9.9.0/24 dev core")?;
    let ping = |source: &str, count: &str| -> Result<usize> {
        let line = format!("ping -I {source} -c {count} -i 0.01 -W 1 {WAN}");
        Ok(site.server.told(&line)?.matches("bytes from").count())
    };
    ensure!(ping("203.0.113.66", "1")? == 0);
    ensure!(site.count("drop.blocklist")? == 1);
    ensure!(!pings(&site.host, "203.0.113.66")?, "nor is it reached from inside");
    ensure!(ping("10.9.9.9", "1")? == 0);
    ensure!(site.count("drop.bogon")? == 1);
    ensure!(ping("192.168.77.55", "1")? == 0);
    ensure!(site.count("drop.bogon")? == 2, "networks of other zones are bogons too");
    // Each ping of its own begins a connection.
    let answered = |source: &str| -> Result<usize> { (0..12).map(|_| ping(source, "1")).sum() };
    ensure!(answered("203.0.113.77")? == 12, "exempt");
    ensure!(site.count("drop.flood-source")? == 0);
    let many: Vec<_> = (0..12)
        .map(|_| site.server.start(&format!("ping -I 203.0.113.10 -c 1 -W 1 {WAN}")))
        .collect::<Result<_>>()?;
    std::thread::sleep(2 * MOMENT);
    drop(many);
    ensure!(site.count("drop.flood-source")? >= 1);
    Ok(())
}

/// What is on the list is cut off at once, as it is by the eBPF datapath.
#[test]
fn connections_of_an_address_that_comes_onto_the_blocklist_end() -> Result<()> {
    let site = Site::new("")?;
    let listener = site.server.enter(|| Ok(TcpListener::bind((SERVER, 7))?))?;
    let mut client =
        site.host.enter(|| Ok(TcpStream::connect_timeout(&(SERVER, 7).into(), PATIENCE)?))?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"one")?;
    server.set_read_timeout(Some(PATIENCE))?;
    server.read_exact(&mut [0; 3]).context("it is established")?;
    site.configure(&format!("[firewall.protection]\nblocklist = [\"{SERVER}\"]\n"))?;
    client.write_all(b"two")?;
    wait(|| Ok(site.count("drop.blocklist")? >= 1), "from inside")?;
    server.write_all(b"three")?;
    for (end, stream) in [("inside", &mut client), ("outside", &mut server)] {
        stream.set_read_timeout(Some(MOMENT))?;
        ensure!(stream.read_exact(&mut [0; 3]).is_err(), "it arrives {end}");
    }
    Ok(())
}

#[test]
fn an_interface_of_no_zone_is_closed() -> Result<()> {
    let site = Site::new("")?;
    let stranger = portcullis_netns::Namespace::new("nftstr")?;
    site.router.join("eth9", &stranger, "eth0")?;
    site.router.address("eth9", "192.168.99.1/24")?;
    stranger.address("eth0", "192.168.99.2/24")?;
    stranger.run("ip route add default via 192.168.99.1")?;
    ensure!(!pings(&stranger, "192.168.99.1")?);
    ensure!(!pings(&stranger, &HOST.to_string())?);
    ensure!(!pings(&site.host, "192.168.99.2")?);
    ensure!(site.count("drop.interface")? >= 3);
    Ok(())
}

#[test]
fn flows_are_listed_with_their_translation() -> Result<()> {
    let site = Site::new("")?;
    ensure!(pings(&site.host, &SERVER6.to_string())?);
    let listener = site.server.enter(|| Ok(TcpListener::bind((SERVER, 7))?))?;
    let mut client =
        site.host.enter(|| Ok(TcpStream::connect_timeout(&(SERVER, 7).into(), PATIENCE)?))?;
    let (_server, _) = listener.accept()?;
    client.write_all(&[7; 1000])?;
    std::thread::sleep(MOMENT);
    let flows = site.flows()?;
    let tcp = flows.iter().find(|flow| flow.protocol == 6).context("the connection")?;
    ensure!(tcp.source == SocketAddr::from((HOST, client.local_addr()?.port())), "{tcp:?}");
    ensure!(tcp.destination == SocketAddr::from((SERVER, 7)), "{tcp:?}");
    ensure!(tcp.translated_source.ip() == WAN, "{tcp:?}");
    ensure!(tcp.state == State::Established, "{tcp:?}");
    ensure!(tcp.out.packets >= 3 && tcp.out.bytes > 1000 && tcp.back.packets >= 2, "{tcp:?}");
    ensure!((7_400..=7_440).contains(&tcp.expires_s), "{tcp:?}");
    let ping = flows.iter().find(|flow| flow.protocol == 58).context("the ping")?;
    ensure!(ping.source.ip() == HOST6 && ping.destination.ip() == SERVER6, "{ping:?}");
    ensure!(ping.expires_s <= 60, "{ping:?}");
    // Forgotten on demand, when the address goes away.
    let removed = site
        .router
        .enter(|| Ok(Netfilter::open()?.forget(|flow| flow.translated_source.ip() == WAN)?))?;
    ensure!(removed == 1, "{removed}");
    ensure!(site.flows()?.iter().all(|flow| flow.protocol != 6));
    Ok(())
}
