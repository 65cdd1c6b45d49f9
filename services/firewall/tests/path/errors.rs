//! What the router tells senders: TTLs that end, packets that are too large, flows that are refused.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use portcullis_datapath_abi::Counter;
use portcullis_site::{
    HOST6, PAIRS, PATIENCE, PROVIDER, PROVIDER6, ROUTER, ROUTER6, Site, WAN, WAN6, sockets::udp,
};

/// Addresses of the hops that traceroute saw, by their number.
fn hops(output: &str) -> Vec<(u32, String)> {
    output
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
        })
        .collect()
}

#[test]
fn traceroute_sees_the_router_and_what_is_behind_it() -> Result<()> {
    let mut site = Site::new("")?;
    for method in ["", "-I", "-T -p 80"] {
        for (family, path) in [
            ("", [IpAddr::V4(ROUTER), IpAddr::V4(PROVIDER), PAIRS[0].1]),
            ("-6", [IpAddr::V6(ROUTER6), IpAddr::V6(PROVIDER6), PAIRS[1].1]),
        ] {
            let target = path[2];
            // All probes at once, as it does by itself.
            let line = format!("traceroute {family} -n -w 2 -q 3 -m 5 {method} {target}");
            let output = site.host.run(&line)?;
            let seen = hops(&output);
            for (number, address) in (1..).zip(path) {
                ensure!(
                    seen.contains(&(number, address.to_string())),
                    "{line}\n{output} {}",
                    site.counters()?
                );
            }
        }
    }
    ensure!(site.count(Counter::RouterAnswers)? >= 6, "{}", site.counters()?);
    Ok(())
}

#[test]
fn traceroute_from_outside_sees_the_router_before_what_it_forwards_to() -> Result<()> {
    let mut site = Site::new(
        r#"
[[firewall.port_forwards]]
name = "dns"
zone = "wan"
protocol = "udp"
ports = [5353]
to = "192.168.77.100"

[[firewall.port_forwards]]
name = "web"
zone = "wan"
protocol = "tcp"
ports = [8080]
to = "192.168.77.100"

[[firewall.rules]]
name = "inside"
from = "wan"
to = "lan"
destinations = ["2001:db8:77::100"]
protocols = ["tcp", "udp", "icmpv6"]
action = "allow"
"#,
    )?;
    // The packet that ends at the router was sent to the WAN address; so is the one that does not.
    for method in ["-U -p 5353", "-T -p 8080"] {
        let line = format!("traceroute -n -w 1 -q 2 -m 4 {method} {WAN}");
        let output = site.server.run(&line)?;
        let seen = hops(&output);
        ensure!(
            seen.contains(&(2, WAN.to_string())) && seen.contains(&(3, WAN.to_string())),
            "{line}\n{output} {}",
            site.counters()?
        );
    }
    for method in ["", "-I", "-T -p 80"] {
        let line = format!("traceroute -6 -n -w 2 -q 2 -m 5 {method} {HOST6}");
        let output = site.server.run(&line)?;
        let seen = hops(&output);
        ensure!(
            seen.contains(&(2, WAN6.to_string())) && seen.contains(&(3, HOST6.to_string())),
            "{line}\n{output} {}",
            site.counters()?
        );
    }
    Ok(())
}

/// The provider sends to all hosts of the LAN at once, in frames to the router alone.
#[test]
fn a_broadcast_into_a_subnet_is_not_answered() -> Result<()> {
    let mut site = Site::new("")?;
    site.provider.run(&format!("ip route add 192.168.77.0/24 via {WAN}"))?;
    let socket = udp(&site.provider, (PROVIDER, 4000))?;
    socket.connect((Ipv4Addr::new(192, 168, 77, 255), 7))?;
    socket.send(b"echo")?;
    let end = Instant::now() + PATIENCE;
    while site.count(Counter::DropMulticast)? == 0 {
        ensure!(Instant::now() < end, "{}", site.counters()?);
        thread::yield_now();
    }
    ensure!(site.count(Counter::RouterAnswers)? == 0, "{}", site.counters()?);
    ensure!(socket.take_error()?.is_none(), "the sender was told something");
    Ok(())
}

/// Forbids the kernel to cut this socket's datagrams, so that it learns the path's MTU.
fn discover(socket: &UdpSocket) -> Result<()> {
    let (level, option, value) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    // SAFETY: the option takes an int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    ensure!(result == 0, std::io::Error::last_os_error());
    Ok(())
}

/// The MTU that the kernel has learned of the path of a connected socket.
fn path_mtu(socket: &UdpSocket) -> Result<u32> {
    let (level, option) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mut mtu: libc::c_int = 0;
    let mut length = size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: the option writes an int, which lives through the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut length)
    };
    ensure!(result == 0, std::io::Error::last_os_error());
    Ok(u32::try_from(mtu)?)
}

/// Sends a datagram of 1450 bytes until the path's MTU is known.
fn learn(socket: &UdpSocket) -> Result<u32> {
    let end = Instant::now() + PATIENCE;
    loop {
        match socket.send(&[7; 1450]) {
            Ok(_) => thread::sleep(Duration::from_millis(20)),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return path_mtu(socket),
            Err(error) => return Err(error.into()),
        }
        ensure!(Instant::now() < end, "nobody tells the sender");
    }
}

#[test]
fn path_mtu_discovery_works_in_both_directions_at_the_router() -> Result<()> {
    for (pair, (host, server)) in PAIRS.into_iter().enumerate() {
        // Out: the WAN is the narrow link.
        let mut site = Site::new("")?;
        site.narrow_wan(1400)?;
        let inside = udp(&site.host, SocketAddr::new(host, 4000))?;
        inside.connect(SocketAddr::new(server, 5000))?;
        discover(&inside)?;
        let mtu = learn(&inside).with_context(|| site.counters().unwrap_or_default())?;
        ensure!(mtu == 1400, "out, pair {pair}: {mtu}");

        // In: the LAN is; the sender outside knows the host by the WAN address only.
        let mut site = Site::new("")?;
        site.narrow_lan(1300)?;
        let inside = udp(&site.host, SocketAddr::new(host, 4000))?;
        let outside = udp(&site.server, SocketAddr::new(server, 5000))?;
        inside.send_to(b"hello", SocketAddr::new(server, 5000))?;
        let (_, peer) = outside.recv_from(&mut [0; 16])?;
        outside.connect(peer)?;
        discover(&outside)?;
        let mtu = learn(&outside).with_context(|| site.counters().unwrap_or_default())?;
        ensure!(mtu == 1300, "in, pair {pair}: {mtu}");
        // What fits arrives. The socket may have the errors about what did not still before it.
        while let Err(error) = outside.send(&[9; 1200]) {
            ensure!(error.raw_os_error() == Some(libc::EMSGSIZE), error);
        }
        let mut buffer = [0; 2000];
        let (length, _) = inside.recv_from(&mut buffer)?;
        ensure!(length == 1200);
    }
    Ok(())
}

#[test]
fn path_mtu_discovery_works_through_the_router() -> Result<()> {
    let mut site = Site::new("")?;
    // Behind the router, the link to the server is narrow; before it, the host's stays wide.
    site.provider.run("ip link set core mtu 1350")?;
    site.server.run("ip link set eth0 mtu 1350")?;
    for (host, server) in PAIRS {
        let inside = udp(&site.host, SocketAddr::new(host, 4000))?;
        inside.connect(SocketAddr::new(server, 5000))?;
        discover(&inside)?;
        let mtu = learn(&inside).with_context(|| site.counters().unwrap_or_default())?;
        ensure!(mtu == 1350, "{server}: {mtu}");
    }
    Ok(())
}

#[test]
fn tcp_goes_on_when_the_path_becomes_narrow() -> Result<()> {
    // Without clamping, so that segments are really too large.
    let document = r#"
[firewall.zones.lan]
services = ["dhcp", "dns", "ping", "web"]
mss_clamp = false
[firewall.zones.wan]
masquerade = true
mss_clamp = false
"#;
    for (host, server) in PAIRS {
        for upload in [true, false] {
            let mut site = Site::new(document)?;
            let listener =
                site.server.enter(|| Ok(TcpListener::bind(SocketAddr::new(server, 7000))?))?;
            let mut inside = site.host.enter(|| {
                let to = SocketAddr::new(server, 7000);
                Ok(TcpStream::connect_timeout(&to, PATIENCE)?)
            })?;
            ensure!(inside.local_addr()?.ip() == host);
            let (mut outside, _) = listener.accept()?;
            for stream in [&inside, &outside] {
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                stream.set_write_timeout(Some(Duration::from_secs(10)))?;
            }
            // Both ends have agreed on their segments; now the path changes at the router.
            if upload {
                site.router.run("ip link set eth0 mtu 1300")?;
            } else {
                site.router.run("ip link set lan mtu 1300")?;
            }
            site.reconcile()?;
            let (from, to) =
                if upload { (&mut inside, &mut outside) } else { (&mut outside, &mut inside) };
            let data: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
            let received = thread::scope(|scope| {
                let sender = scope.spawn(|| from.write_all(&data));
                let mut received = vec![0; data.len()];
                let result = to.read_exact(&mut received);
                let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
                sent.context("send")?;
                result.context("receive")?;
                anyhow::Ok(received)
            })
            .with_context(|| format!("{server}, upload {upload}"))
            .with_context(|| site.counters().unwrap_or_default())?;
            ensure!(received == data);
            ensure!(site.count(Counter::DropTooBig)? > 0, "{}", site.counters()?);
        }
    }
    Ok(())
}

const REJECT: &str = r#"
[[firewall.rules]]
name = "no"
from = "lan"
to = "wan"
destination_ports = ["81"]
protocols = ["tcp", "udp"]
action = "reject"

[[firewall.rules]]
name = "no-pings"
from = "lan"
to = "wan"
protocols = ["icmp", "icmpv6"]
action = "reject"
"#;

#[test]
fn what_is_rejected_fails_at_once() -> Result<()> {
    let mut site = Site::new(REJECT)?;
    for (host, server) in PAIRS {
        let to = SocketAddr::new(server, 81);
        let error = site.host.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE).err()))?;
        let kind = error.as_ref().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:?} {}", site.counters()?);
        let socket = udp(&site.host, SocketAddr::new(host, 0))?;
        socket.connect(to)?;
        socket.send(b"anyone there?")?;
        let error = socket.recv(&mut [0; 16]).err();
        let kind = error.as_ref().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:?} {}", site.counters()?);
        let text = site.host.told(&format!("ping -c 1 -W 2 {server}"))?;
        ensure!(
            text.contains("filtered") || text.contains("rohibited"),
            "{text} {}",
            site.counters()?
        );
    }
    ensure!(site.count(Counter::RouterAnswers)? >= 6, "{}", site.counters()?);
    // The first segment was answered, not one of those that follow it after seconds.
    let counters = site.host.run("cat /proc/net/snmp")?;
    let mut tcp = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next().unwrap_or_default(), tcp.next().unwrap_or_default());
    let mut named = names.split_whitespace().zip(values.split_whitespace());
    ensure!(named.any(|counter| counter == ("RetransSegs", "0")), "{counters}");
    Ok(())
}

#[test]
fn errors_are_whole_also_where_the_device_computes_no_checksums() -> Result<()> {
    let site = Site::new(REJECT)?;
    // Senders leave checksums to their device; ours completes none, so the kernel does it in what we
    // send, and the receiver compares.
    site.router.run("ethtool -K eth1 tx off")?;
    site.router.run("ethtool -K lan tx off").ok();
    for (host, server) in PAIRS {
        let to = SocketAddr::new(server, 81);
        let error = site.host.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE).err()))?;
        let kind = error.as_ref().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:?}");
        for size in [1, 13, 1000, 1401] {
            let socket = udp(&site.host, SocketAddr::new(host, 0))?;
            socket.connect(to)?;
            socket.send(&vec![7; size])?;
            let error = socket.recv(&mut [0; 16]).err();
            let kind = error.as_ref().map(std::io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "{size}: {error:?}");
        }
    }
    for line in
        site.host.run("nstat -asz IcmpInCsumErrors Icmp6InCsumErrors TcpInCsumErrors")?.lines()
    {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        if name.ends_with("CsumErrors") && value != "0" {
            bail!("{line}");
        }
    }
    Ok(())
}

#[test]
fn answers_come_from_the_address_of_the_interface() -> Result<()> {
    let site = Site::new(REJECT)?;
    for (server, own) in [(PAIRS[0].1, IpAddr::V4(ROUTER)), (PAIRS[1].1, IpAddr::V6(ROUTER6))] {
        let text = site.host.told(&format!("ping -c 1 -W 2 {server}"))?;
        ensure!(text.contains(&format!("From {own} ")), "{text}");
    }
    Ok(())
}
