//! The datapath between real hosts: namespaces, veth pairs, real tools. Needs root, and ping,
//! traceroute, tcpdump, socat, iperf3, nmap, ethtool.
#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

mod xdp;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use portcullis_datapath_abi::{Counter, flow};
use portcullis_site::{
    HOST, MOMENT, OTHER, PATIENCE, PROVIDER, ROUTER, SERVER, Site, WAN,
    sockets::{connect, listen, udp},
    wait_listening, wait_until,
};

#[test]
fn ping_goes_through_with_its_first_packet() -> Result<()> {
    let mut site = Site::new("")?;
    let output = site.host.run(&format!("ping -c 3 -i 0.2 -W 2 {SERVER}"))?;
    ensure!(output.contains(" 0% packet loss"), "{output} {}", site.counters()?);
    ensure!(site.count(Counter::Forwarded)? == 6, "{}", site.counters()?);
    Ok(())
}

/// An echo server that tells whom it talks to.
fn echo_tcp(listener: TcpListener) -> thread::JoinHandle<Result<SocketAddr>> {
    thread::spawn(move || {
        let (mut stream, peer) = listener.accept()?;
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(peer);
            }
            stream.write_all(&buffer[..read])?;
        }
    })
}

fn exchange(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).context("no echo")?;
    ensure!(answer == text);
    Ok(())
}

#[test]
fn tcp_is_seen_from_the_wan_address_and_carries_bulk_data_both_ways() -> Result<()> {
    let mut site = Site::new("")?;
    let listener = listen(&site.server, (SERVER, 7))?;
    let server = echo_tcp(listener);
    let mut stream = connect(&site.host, (SERVER, 7))?;
    exchange(&mut stream, b"through the gate")?;
    let local = stream.local_addr()?;
    drop(stream);
    let seen = server.join().map_err(|_| anyhow::anyhow!("server panicked"))??;
    ensure!(seen.ip() == WAN, "masqueraded: {seen}");
    ensure!(seen.port() == local.port(), "the source port is kept while it is free");

    // Segments of up to 64 KiB with checksums left to the device: the traps of DESIGN section 8.
    let mut iperf = site.server.start("iperf3 -s -1")?;
    wait_listening(&site.server, 5201)?;
    let output = site.host.run(&format!("iperf3 -c {SERVER} -n 200M --bidir --json"))?;
    ensure!(!output.contains("\"error\""), "{output}");
    iperf.wait(PATIENCE)?;
    ensure!(site.count(Counter::DropTooBig)? == 0, "{}", site.counters()?);
    Ok(())
}

#[test]
fn two_hosts_with_the_same_port_get_different_ones() -> Result<()> {
    let site = Site::new("")?;
    let server = udp(&site.server, (SERVER, 5000))?;
    let mut ports = Vec::new();
    let mut clients = Vec::new();
    for (namespace, address) in [(&site.host, HOST), (&site.other, OTHER)] {
        let client = udp(namespace, (address, 4000))?;
        client.send_to(address.to_string().as_bytes(), (SERVER, 5000))?;
        let mut buffer = [0; 64];
        let (length, peer) = server.recv_from(&mut buffer).context("at the server")?;
        ensure!(peer.ip() == WAN);
        ports.push(peer.port());
        server.send_to(&buffer[..length], peer)?;
        clients.push((client, address));
    }
    ensure!(ports[0] == 4000 && ports[1] != 4000 && ports[1] >= 1024, "{ports:?}");
    for (client, address) in clients {
        let mut buffer = [0; 64];
        let (length, _) = client.recv_from(&mut buffer).context("at the client")?;
        ensure!(buffer[..length] == *address.to_string().as_bytes(), "answers are not mixed up");
    }
    Ok(())
}

#[test]
fn the_routers_own_flows_do_not_meet_translated_ones() -> Result<()> {
    let mut site = Site::new("")?;
    let server = udp(&site.server, (SERVER, 5000))?;
    // The LAN host takes port 4000 of the WAN address; then the router itself uses it too.
    for (namespace, text) in [(&site.host, "host"), (&site.router, "router")] {
        let client = udp(namespace, (Ipv4Addr::UNSPECIFIED, 4000))?;
        client.send_to(text.as_bytes(), (SERVER, 5000))?;
        let mut buffer = [0; 64];
        let (length, peer) = server.recv_from(&mut buffer)?;
        ensure!(buffer[..length] == *text.as_bytes());
        ensure!((peer.port() == 4000) == (text == "host"), "{text}: {peer}");
        server.send_to(&buffer[..length], peer)?;
        let (length, _) = client.recv_from(&mut buffer).context(text)?;
        ensure!(buffer[..length] == *text.as_bytes());
    }
    ensure!(site.count(Counter::RouterFlow)? == 1, "{}", site.counters()?);
    Ok(())
}

#[test]
fn traceroute_sees_the_router_and_the_hops_behind_it() -> Result<()> {
    let site = Site::new("")?;
    for method in ["", "-I ", "-T -p 80 "] {
        let output = site.host.run(&format!("traceroute -n -w 2 -q 1 {method}{SERVER}"))?;
        for (hop, address) in [(1, ROUTER), (2, PROVIDER), (3, SERVER)] {
            let line =
                output.lines().find(|line| line.trim_start().starts_with(&format!("{hop} ")));
            ensure!(
                line.is_some_and(|line| line.contains(&address.to_string())),
                "{method}{output}"
            );
        }
    }
    Ok(())
}

#[test]
fn icmp_errors_reach_the_sender_with_the_addresses_it_knows() -> Result<()> {
    let mut site = Site::new("")?;
    // Connected sockets get the error only if the quoted packet is theirs.
    let refused = site.host.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((SERVER, 9))?;
        socket.send(b"anyone there?")?;
        let mut buffer = [0; 16];
        Ok(socket.recv(&mut buffer).err().map(|error| error.kind()))
    })?;
    ensure!(
        refused == Some(std::io::ErrorKind::ConnectionRefused),
        "{refused:?} {}",
        site.counters()?
    );
    ensure!(site.count(Counter::ForwardedIcmpError)? == 1);

    // A narrow link behind the router: path-MTU discovery of a host inside works.
    site.provider.run("ip link set core mtu 1300")?;
    site.server.run("ip link set eth0 mtu 1300")?;
    let text = site.host.told(&format!("ping -c 2 -i 0.3 -W 1 -M do -s 1400 {SERVER}"))?;
    ensure!(text.contains("mtu") && text.contains("1300"), "{text}");
    Ok(())
}

#[test]
fn packets_too_large_for_the_next_link_are_answered_by_the_router() -> Result<()> {
    let mut site = Site::new("")?;
    site.router.run("ip link set eth0 mtu 1400")?;
    site.provider.run("ip link set access mtu 1400")?;
    let text = site.host.told(&format!("ping -c 2 -i 0.3 -W 1 -M do -s 1430 {SERVER}"))?;
    ensure!(text.contains("1400"), "{text} {}", site.counters()?);
    ensure!(site.count(Counter::RouterAnswers)? >= 1, "{}", site.counters()?);
    // TCP in aggregated frames is told the size of its segments, too.
    let mut iperf = site.server.start("iperf3 -s -1")?;
    wait_listening(&site.server, 5201)?;
    site.host.run(&format!("iperf3 -c {SERVER} -n 20M --json"))?;
    iperf.wait(PATIENCE)?;
    ensure!(site.count(Counter::DropLeak)? == 0, "{}", site.counters()?);
    Ok(())
}

#[test]
fn fragments_in_order_pass_and_are_not_mangled() -> Result<()> {
    let mut site = Site::new("")?;
    for size in [1473, 2000, 8000, 65_507] {
        let output = site.host.run(&format!("ping -c 2 -i 0.2 -W 2 -s {size} {SERVER}"))?;
        ensure!(output.contains(" 0% packet loss"), "{size}: {output} {}", site.counters()?);
    }
    let server = udp(&site.server, (SERVER, 5000))?;
    let client = udp(&site.host, (HOST, 4000))?;
    let sent: Vec<u8> = (0..20_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    client.send_to(&sent, (SERVER, 5000))?;
    let mut buffer = vec![0; 65_535];
    let (length, peer) = server.recv_from(&mut buffer)?;
    ensure!(buffer[..length] == sent[..]);
    server.send_to(&sent, peer)?;
    let (length, _) = client.recv_from(&mut buffer)?;
    ensure!(buffer[..length] == sent[..]);
    Ok(())
}

#[test]
fn nothing_from_the_wan_gets_in_or_an_answer() -> Result<()> {
    let mut site = Site::new("")?;
    // Services that listen on all addresses, as ours do.
    let _services = site.router.enter(|| {
        Ok((
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 443))?,
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53))?,
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))?,
        ))
    })?;
    let _inside = site.host.enter(|| Ok(TcpListener::bind((HOST, 80))?))?;
    site.provider.run(&format!("ip route add 192.168.77.0/24 via {WAN}"))?;
    let scan = site.provider.run(&format!(
        "nmap -n -Pn -sS -p 22,53,80,443 --max-retries 0 --host-timeout 20s {WAN}"
    ))?;
    ensure!(scan.matches("filtered").count() >= 4 && !scan.contains("open "), "{scan}");
    let answers =
        site.provider.command("ping").args(["-c", "1", "-W", "1", &WAN.to_string()]).status()?;
    ensure!(!answers.success(), "the WAN address answers pings");
    let reached = site.provider.enter(|| {
        Ok(TcpStream::connect_timeout(&(HOST, 80).into(), Duration::from_millis(700)).is_ok())
    })?;
    ensure!(!reached, "a host inside was reached from outside");
    ensure!(site.count(Counter::DropPolicy)? >= 6, "{}", site.counters()?);

    // Inside, exactly the services.
    let scan = site.host.run(&format!(
        "nmap -n -Pn -sS -p 22,53,80,443 --max-retries 0 --host-timeout 20s {ROUTER}"
    ))?;
    let open: Vec<_> = scan.lines().filter(|line| line.contains("open ")).collect();
    ensure!(open.len() == 2 && open[0].starts_with("53/") && open[1].starts_with("443/"), "{scan}");
    site.host.run(&format!("ping -c 1 -W 2 {ROUTER}"))?;
    Ok(())
}

#[test]
fn the_router_itself_reaches_out() -> Result<()> {
    let mut site = Site::new("")?;
    site.router.run(&format!("ping -c 2 -i 0.2 -W 2 {SERVER}"))?;
    site.router.run(&format!("ping -c 2 -i 0.2 -W 2 {HOST}"))?;
    let listener = listen(&site.server, (SERVER, 7))?;
    let server = echo_tcp(listener);
    let mut stream = connect(&site.router, (SERVER, 7))?;
    exchange(&mut stream, &[7; 100_000])?;
    drop(stream);
    server.join().map_err(|_| anyhow::anyhow!("server panicked"))??;
    ensure!(site.count(Counter::DropLeak)? == 0);
    Ok(())
}

#[test]
fn what_the_kernel_would_forward_alone_does_not_leave() -> Result<()> {
    let mut site = Site::new("")?;
    // As if no program were on the LAN device: the kernel has a route and forwarding is on.
    let lan = site.interfaces()?.into_iter().find(|status| status.name == "lan").context("lan")?;
    std::fs::remove_file(site.pins().join("links").join(format!("{}-tcx-ingress", lan.index)))?;
    let answered = |site: &Site, count: &str| -> Result<bool> {
        let mut ping = site.host.command("ping");
        ping.args(["-c", count, "-i", "0.2", "-W", "1", &SERVER.to_string()]);
        Ok(ping.stdout(Stdio::null()).status()?.success())
    };
    // The kernel detaches a link some time after its last pin is gone.
    let end = Instant::now() + PATIENCE;
    while answered(&site, "1")? {
        ensure!(Instant::now() < end, "the program is still attached");
    }
    let before = site.count(Counter::DropLeak)?;
    ensure!(!answered(&site, "2")?, "answered without the program");
    let dropped = site.count(Counter::DropLeak)? - before;
    ensure!(dropped == 2, "{dropped} of 2 dropped: {}", site.counters()?);
    Ok(())
}

#[test]
fn a_restart_of_the_service_keeps_flows_and_filter() -> Result<()> {
    let mut site = Site::new("")?;
    let listener = listen(&site.server, (SERVER, 7))?;
    let server = echo_tcp(listener);
    let mut stream = connect(&site.host, (SERVER, 7))?;
    exchange(&mut stream, b"before")?;
    let programs = site.datapath.attachments();
    ensure!(programs.len() == 4, "{programs:?}");

    // Gone: the kernel keeps maps and links by their pins.
    for max_flows in [4096, 8192] {
        site.reopen(max_flows)?;
        exchange(&mut stream, b"while it is away")?;
        site.reconcile()?;
        if let Err(error) = exchange(&mut stream, b"after") {
            bail!("{max_flows}: {error} {} {:?}", site.counters()?, site.flows(10)?);
        }
        let now = site.datapath.attachments();
        ensure!(now.len() == 4, "{now:?}");
        // The same programs over the same tables; others over others.
        let replaced = max_flows != 4096;
        ensure!(
            now.iter().zip(&programs).all(|(new, old)| (new.2 != old.2) == replaced),
            "{max_flows} flows: {programs:?}, {now:?}"
        );
    }
    let maps = std::fs::read_dir(site.pins())?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("maps-"))
        .context("maps")?;
    let tables = std::fs::read_dir(maps.path())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("flows-"));
    ensure!(tables.count() == 1, "the table of the old size is gone");
    let (total, flows) = site.flows(10)?;
    ensure!(total == 1 && flows[0].state == "established", "{flows:?}");
    drop(stream);
    server.join().map_err(|_| anyhow::anyhow!("server panicked"))??;
    Ok(())
}

#[test]
fn flows_of_a_lost_wan_address_are_purged_at_once() -> Result<()> {
    let mut site = Site::new("")?;
    site.host.run(&format!("ping -c 1 -W 2 {SERVER}"))?;
    let (total, flows) = site.flows(10)?;
    ensure!(total == 1 && flows[0].translated_source.starts_with(&format!("{WAN}:")), "{flows:?}");
    ensure!(
        flows[0].from_zone == "lan" && flows[0].to_zone == "wan" && flows[0].state == "established"
    );

    let new = Ipv4Addr::new(198, 51, 100, 77);
    site.router.run(&format!("ip address del {WAN}/24 dev eth0"))?;
    site.wan.clear();
    ensure!(site.reconcile()? == 1);
    ensure!(site.flows(10)?.0 == 0);

    site.router.run(&format!("ip address add {new}/24 dev eth0"))?;
    site.router.run(&format!("ip route replace default via {PROVIDER}"))?;
    site.wan = vec![new];
    site.reconcile()?;
    site.host.run(&format!("ping -c 1 -W 2 {SERVER}"))?;
    let (_, flows) = site.flows(10)?;
    ensure!(flows[0].translated_source.starts_with(&format!("{new}:")), "{flows:?}");
    Ok(())
}

#[test]
fn old_flows_are_forgotten_and_a_full_table_refuses_new_ones_only() -> Result<()> {
    let mut site = Site::new("")?;
    site.host.run(&format!("ping -c 1 -W 2 {SERVER}"))?;
    let mut timeouts = site.part.firewall.timeouts;
    let first = site.sweep(&timeouts)?;
    ensure!(first.kept == 1 && first.ended == 0, "{first:?}");
    timeouts.icmp_s = 1;
    thread::sleep(Duration::from_millis(3300));
    let second = site.sweep(&timeouts)?;
    ensure!(second.kept == 0 && second.ended == 1, "{second:?}");
    let third = site.sweep(&timeouts)?;
    ensure!(third.mappings == 0, "{third:?}");

    // 4,096 flows fit; the host opens more.
    site.host.enter(|| {
        let socket = UdpSocket::bind((HOST, 0))?;
        for port in 1..=6000_u16 {
            socket.send_to(b"x", (SERVER, port))?;
        }
        Ok(())
    })?;
    wait_until("new ones are refused", || Ok(site.count(Counter::DropFull)? > 0))?;
    let (total, _) = site.flows(1)?;
    ensure!((4000..=4096).contains(&total), "{total}");
    Ok(())
}

#[test]
fn tcp_states_come_from_real_connections() -> Result<()> {
    let mut site = Site::new("")?;
    let mut states = Vec::new();
    let listener = listen(&site.server, (SERVER, 7))?;
    let server = echo_tcp(listener);
    let mut stream = connect(&site.host, (SERVER, 7))?;
    exchange(&mut stream, b"x")?;
    states.push(site.flows(1)?.1[0].state.clone());
    drop(stream);
    server.join().map_err(|_| anyhow::anyhow!("server panicked"))??;
    ensure!(states == ["established"], "{states:?}");
    wait_until("closing", || Ok(site.flows(1)?.1[0].state == "closing"))?;

    // A segment of no connection opens none.
    let before = site.count(Counter::DropTcpState)?;
    let scan = site
        .host
        .run(&format!("nmap -n -Pn -sA -p 99 --max-retries 0 --host-timeout 5s {SERVER}"))?;
    ensure!(site.count(Counter::DropTcpState)? > before, "{scan}");
    Ok(())
}

#[test]
fn the_dhcp_client_of_the_router_is_answered_and_nobody_else() -> Result<()> {
    let mut site = Site::new("")?;
    let receive = |socket: &UdpSocket| {
        let mut buffer = [0; 64];
        socket.recv_from(&mut buffer).is_ok()
    };
    let client = site.router.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })?;
    let server = site.provider.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))?;
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })?;
    server.send_to(b"unasked", (WAN, 68))?;
    ensure!(!receive(&client), "an offer that nobody asked for came in");
    // The subnet's own broadcast goes out by the WAN device; the limited one needs a bound device.
    client.send_to(b"discover", (Ipv4Addr::new(198, 51, 100, 255), 67))?;
    ensure!(receive(&server), "{}", site.counters()?);
    server.send_to(b"offer", (WAN, 68))?;
    ensure!(receive(&client), "{}", site.counters()?);
    let (_, flows) = site.flows(10)?;
    let flow =
        flows.iter().find(|flow| flow.source == "0.0.0.0:68").context("the client's flow")?;
    ensure!(flow.destination == "255.255.255.255:67" && flow.state == "established", "{flow:?}");
    if flow.protocol != "udp" || flow::UDP != 17 {
        bail!("{flow:?}");
    }
    Ok(())
}

#[test]
fn priority_tags_do_not_carry_packets_past_the_filter() -> Result<()> {
    let mut site = Site::new("")?;
    let lan = site.interfaces()?.into_iter().find(|status| status.name == "lan").context("lan")?;
    let wire = site.host.command("socat");
    let program = wire.get_program().to_owned();
    let arguments: Vec<_> = wire.get_args().map(ToOwned::to_owned).collect();
    let frame = |tags: &[u16]| -> Result<()> {
        let mut bytes = Vec::new();
        for byte in lan.mac.split(':') {
            bytes.push(u8::from_str_radix(byte, 16)?);
        }
        bytes.extend([2, 0, 0, 0, 0, 9]);
        for tag in tags {
            bytes.extend([0x81, 0]);
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend([8, 0]);
        // A SYN to port 22 of the router. (A bridge of a host with br_netfilter drops wrong IP
        // checksums; nobody looks at that of TCP before the policy.)
        let mut ip = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
        ip.extend(HOST.octets());
        ip.extend(ROUTER.octets());
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(ip);
        bytes.extend([0x30, 0x39, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
        // One write is one frame.
        let mut wire = std::process::Command::new(&program)
            .args(&arguments)
            .args(["-u", "-", "INTERFACE:eth0"])
            .stdin(Stdio::piped())
            .spawn()?;
        wire.stdin.take().context("stdin")?.write_all(&bytes)?;
        ensure!(wire.wait()?.success(), "socat");
        Ok(())
    };
    for (tags, counter, dropped) in [
        (&[][..], Counter::DropPolicy, 1),
        (&[0], Counter::DropPolicy, 2),
        (&[0, 0], Counter::DropVlan, 1),
    ] {
        frame(tags)?;
        wait_until(&format!("{tags:?}"), || Ok(site.count(counter)? == dropped))
            .with_context(|| site.counters().unwrap_or_default())?;
    }
    // A tag of another network is the kernel's, which has no such device.
    frame(&[5])?;
    thread::sleep(MOMENT);
    ensure!(site.count(Counter::DropPolicy)? == 2, "{}", site.counters()?);
    Ok(())
}
