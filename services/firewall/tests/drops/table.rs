//! The table: reason, zones, and what provokes it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, ProgramArray};
use portcullis_datapath_abi::{Counter, map, stage};

use crate::{
    frames::{mend, udp_payload},
    lab::{DMZ, FLOWS, HOST, Lab, OUTSIDE, WAN},
};

/// One line.
pub struct Line {
    pub reason: Counter,
    /// Zone that the packet comes from; empty if that is not known.
    pub from: &'static str,
    /// Zone that it would go to, likewise.
    pub to: &'static str,
    pub provoke: fn(&mut Lab) -> Result<()>,
}

const fn line(
    reason: Counter,
    from: &'static str,
    to: &'static str,
    provoke: fn(&mut Lab) -> Result<()>,
) -> Line {
    Line { reason, from, to, provoke }
}

pub const LINES: &[Line] = &[
    line(Counter::DropPolicy, "wan", "router", ssh_from_outside),
    line(Counter::DropRateLimit, "lan", "wan", two_where_one_a_second_may),
    line(Counter::DropConnections, "lan", "wan", two_where_one_may),
    line(Counter::DropInterface, "", "", from_no_zone),
    line(Counter::DropMalformed, "lan", "", longer_than_the_frame),
    line(Counter::DropMartian, "lan", "", from_loopback),
    line(Counter::DropOptions, "lan", "", with_options),
    line(Counter::DropExtension, "lan", "", routing_header_type_0),
    line(Counter::DropFragment, "lan", "", fragments_of_a_refused_datagram),
    line(Counter::DropFragmentOverlap, "lan", "", overlapping_fragments),
    line(Counter::DropMulticast, "lan", "router", multicast),
    line(Counter::DropTcpState, "lan", "", ack_out_of_nowhere),
    line(Counter::DropTcpWindow, "lan", "", far_outside_the_window),
    line(Counter::DropIcmp, "lan", "", information_request),
    line(Counter::DropRoute, "lan", "", unreachable),
    line(Counter::DropAddress, "lan", "bare", no_address_to_masquerade_with),
    line(Counter::DropPorts, "lan", "wan", all_ports_are_forwarded),
    line(Counter::DropFull, "lan", "dmz", more_flows_than_there_is_room_for),
    line(Counter::DropBusy, "lan", "wan", locks_that_nobody_gives_back),
    line(Counter::DropMoved, "lan", "wan", route_to_another_zone),
    line(Counter::DropTtl, "lan", "wan", last_hop),
    line(Counter::DropTooBig, "lan", "wan", larger_than_the_next_link),
    line(Counter::DropVlan, "lan", "", tag_behind_a_priority_tag),
    line(Counter::DropBlocked, "wan", "", from_the_blocklist),
    line(Counter::DropBogon, "bare", "", from_a_private_address),
    line(Counter::DropFloodSource, "dmz", "", many_from_one_source),
    line(Counter::DropFloodTotal, "dmz", "", many_from_many_sources),
    line(Counter::DropUnproven, "wan", "", syn_while_cookies_are_asked_for),
    line(Counter::DropProof, "wan", "", proof_of_a_source),
    line(Counter::DropStage, "lan", "", program_is_missing),
    line(Counter::DropLeak, "", "wan", forwarded_by_the_kernel_alone),
];

fn ssh_from_outside(lab: &mut Lab) -> Result<()> {
    let frame = lab.link("wan").tcp((OUTSIDE, 4000), (WAN, 22), |tcp| tcp.syn = true);
    lab.send("wan", &frame)
}

fn two_where_one_a_second_may(lab: &mut Lab) -> Result<()> {
    for port in [5001, 5002, 5003] {
        lab.send("lan", &lab.link("lan").udp(HOST, port, OUTSIDE, 7001))?;
    }
    Ok(())
}

fn two_where_one_may(lab: &mut Lab) -> Result<()> {
    for port in [5001, 5002] {
        lab.send("lan", &lab.link("lan").udp(HOST, port, OUTSIDE, 7002))?;
    }
    Ok(())
}

fn from_no_zone(lab: &mut Lab) -> Result<()> {
    let from = Ipv4Addr::new(10, 30, 0, 10);
    lab.send("ghost", &lab.link("ghost").udp(from, 5000, OUTSIDE, 53))
}

fn longer_than_the_frame(lab: &mut Lab) -> Result<()> {
    let mut frame = lab.link("lan").udp(HOST, 5000, OUTSIDE, 53);
    frame[16..18].copy_from_slice(&1400_u16.to_be_bytes());
    mend(&mut frame);
    lab.send("lan", &frame)
}

fn from_loopback(lab: &mut Lab) -> Result<()> {
    lab.send("lan", &lab.link("lan").udp(Ipv4Addr::LOCALHOST, 5000, OUTSIDE, 53))
}

fn with_options(lab: &mut Lab) -> Result<()> {
    let payload = udp_payload(5000, 53, 18);
    let frame = lab.link("lan").ip(HOST, OUTSIDE, 17, &payload, |ip| {
        // Router alert (RFC 2113).
        ip.options = [0x94, 4, 0, 0].into();
        ip.total_len += 4;
    });
    lab.send("lan", &frame)
}

fn routing_header_type_0(lab: &mut Lab) -> Result<()> {
    let mut payload = vec![17, 2, 0, 1, 0, 0, 0, 0];
    payload.extend([0x20; 16]);
    payload.extend(udp_payload(5000, 53, 8));
    let (from, to) = ("2001:db8:77::100".parse()?, "2001:db8:99::1".parse()?);
    lab.send("lan", &lab.link("lan").ip6(from, to, 43, &payload))
}

/// The first fragment is for a service that the zone may not reach; the later one has nobody to
/// follow.
fn fragments_of_a_refused_datagram(lab: &mut Lab) -> Result<()> {
    let router = Ipv4Addr::new(192, 168, 77, 1);
    let datagram = udp_payload(5000, 9, 1000);
    let (first, later) = datagram.split_at(800);
    let link = lab.link("lan");
    let frames = [
        link.ip(HOST, router, 17, first, |ip| {
            ip.identification = 77;
            ip.more_fragments = true;
        }),
        link.ip(HOST, router, 17, later, |ip| {
            ip.identification = 77;
            ip.fragment_offset = 100.try_into().expect("in range");
        }),
    ];
    frames.iter().try_for_each(|frame| lab.send("lan", frame))
}

fn overlapping_fragments(lab: &mut Lab) -> Result<()> {
    let datagram = udp_payload(5000, 5353, 1000);
    let link = lab.link("lan");
    let fragment = |offset: u16, length: usize, more: bool| {
        let bytes = &datagram[usize::from(offset) * 8..usize::from(offset) * 8 + length];
        link.ip(HOST, OUTSIDE, 17, bytes, |ip| {
            ip.identification = 78;
            ip.more_fragments = more;
            ip.fragment_offset = offset.try_into().expect("in range");
        })
    };
    let frames = [fragment(0, 800, true), fragment(50, 400, true), fragment(90, 288, false)];
    frames.iter().try_for_each(|frame| lab.send("lan", frame))
}

fn multicast(lab: &mut Lab) -> Result<()> {
    let mut link = lab.link("lan");
    link.to = [1, 0, 0x5e, 0, 0, 251];
    lab.send("lan", &link.udp(HOST, 5353, Ipv4Addr::new(224, 0, 0, 251), 5353))
}

fn ack_out_of_nowhere(lab: &mut Lab) -> Result<()> {
    let frame = lab.link("lan").tcp((HOST, 4001), (OUTSIDE, 80), |tcp| tcp.ack = true);
    lab.send("lan", &frame)
}

/// A real connection, into which somebody puts a segment from a gigabyte further on.
fn far_outside_the_window(lab: &mut Lab) -> Result<()> {
    let listener =
        lab.space("wan").enter(|| TcpListener::bind((OUTSIDE, 8080)).context("listen"))?;
    let mut stream = lab.space("lan").enter(|| {
        let address = (OUTSIDE, 8080).into();
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).context("connect")
    })?;
    let (mut accepted, _) = listener.accept()?;
    accepted.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut heard = [0; 5];
    stream.write_all(b"hello")?;
    accepted.read_exact(&mut heard)?;
    let port = stream.local_addr()?.port();
    // Whatever the numbers of the connection are, one of these is far outside.
    for quarter in 0..4_u32 {
        let frame = lab.link("lan").tcp((HOST, port), (OUTSIDE, 8080), |tcp| {
            tcp.ack = true;
            tcp.rst = true;
            tcp.sequence_number = quarter << 30;
            tcp.acknowledgment_number = quarter << 30;
        });
        lab.send("lan", &frame)?;
    }
    // Behind those, since it goes the same way.
    stream.write_all(b"there")?;
    accepted.read_exact(&mut heard).context("the connection has lived on")
}

fn information_request(lab: &mut Lab) -> Result<()> {
    lab.send("lan", &lab.link("lan").icmp(HOST, OUTSIDE, 15))
}

fn unreachable(lab: &mut Lab) -> Result<()> {
    lab.send("lan", &lab.link("lan").udp(HOST, 5000, Ipv4Addr::new(10, 99, 0, 1), 53))
}

fn no_address_to_masquerade_with(lab: &mut Lab) -> Result<()> {
    lab.send("lan", &lab.link("lan").udp(HOST, 5000, Ipv4Addr::new(10, 98, 0, 10), 53))
}

/// Ports of the WAN address that lead inside are not given to anybody else; here these are all.
fn all_ports_are_forwarded(lab: &mut Lab) -> Result<()> {
    let ranges: Vec<String> = (0..=255_u32)
        .map(|high| format!("\"{}-{}\"", (high << 8).max(1), high << 8 | 255))
        .collect();
    let ports = format!("ports = [{}]", ranges.join(", "));
    lab.configure(&[("ports = [\"2222\"]", &ports), ("\"tcp\" # forward", "\"udp\"")])?;
    let frame = lab.link("lan").udp(HOST, 5009, OUTSIDE, 4000);
    lab.send_to_be_dropped("lan", &frame, Counter::DropPorts)?;
    lab.configure(&[])
}

fn more_flows_than_there_is_room_for(lab: &mut Lab) -> Result<()> {
    for port in 0..u16::try_from(FLOWS)? {
        lab.send("lan", &lab.link("lan").udp(HOST, 10_000 + port, DMZ, 4000))?;
    }
    let frame = lab.link("lan").udp(HOST, 9_999, DMZ, 4000);
    lab.send_to_be_dropped("lan", &frame, Counter::DropFull)?;
    lab.firewall(|firewall| {
        firewall.purge("192.168.77.0/24").map_err(anyhow::Error::msg)?;
        sweep(firewall)
    })
}

/// Three passes: what has ended is cleared away, and its number is free again.
fn sweep(firewall: &mut portcullis_firewall::service::Firewall) -> Result<()> {
    for _ in 0..3 {
        while firewall.sweep()?.is_none() {}
    }
    Ok(())
}

fn route_to_another_zone(lab: &mut Lab) -> Result<()> {
    let to = Ipv4Addr::new(10, 97, 0, 1);
    let frame = lab.link("lan").udp(HOST, 5007, to, 4000);
    lab.send("lan", &frame)?;
    std::thread::sleep(Duration::from_millis(50));
    lab.router.run("ip route replace 10.97.0.0/16 via 10.20.0.10")?;
    lab.firewall(|firewall| Ok(firewall.routes_changed()?))?;
    lab.send("lan", &frame)
}

fn last_hop(lab: &mut Lab) -> Result<()> {
    lab.send("lan", &lab.link("lan").udp_of(HOST, 33_000, OUTSIDE, 33_434, 1, 18))
}

fn larger_than_the_next_link(lab: &mut Lab) -> Result<()> {
    lab.router.run("ip link set wan mtu 1300")?;
    lab.firewall(|firewall| Ok(firewall.routes_changed()?))?;
    let payload = udp_payload(5000, 4001, 1372);
    let frame = lab.link("lan").ip(HOST, OUTSIDE, 17, &payload, |ip| ip.dont_fragment = true);
    lab.send_to_be_dropped("lan", &frame, Counter::DropTooBig)?;
    lab.router.run("ip link set wan mtu 1500")?;
    lab.firewall(|firewall| Ok(firewall.routes_changed()?))
}

fn tag_behind_a_priority_tag(lab: &mut Lab) -> Result<()> {
    let frame = lab.link("lan").udp(HOST, 5000, OUTSIDE, 53);
    let tags = [0x81, 0, 0x20, 0, 0x81, 0, 0, 5];
    lab.send("lan", &[&frame[..12], &tags, &frame[12..]].concat())
}

fn from_the_blocklist(lab: &mut Lab) -> Result<()> {
    lab.send("wan", &lab.link("wan").ping(Ipv4Addr::new(192, 0, 2, 66), WAN, 1))
}

fn from_a_private_address(lab: &mut Lab) -> Result<()> {
    lab.send("bare", &lab.link("bare").ping(Ipv4Addr::new(172, 16, 5, 5), WAN, 1))
}

fn many_from_one_source(lab: &mut Lab) -> Result<()> {
    for port in 0..60 {
        lab.send("dmz", &lab.link("dmz").udp(DMZ, 20_000 + port, HOST, 9))?;
    }
    Ok(())
}

fn many_from_many_sources(lab: &mut Lab) -> Result<()> {
    for host in 11..=250 {
        let from = Ipv4Addr::new(10, 20, 0, host);
        lab.send("dmz", &lab.link("dmz").udp(from, 20_000, HOST, 9))?;
    }
    Ok(())
}

const ALWAYS: (&str, &str) = ("syn_cookies = \"off\"", "syn_cookies = \"always\"");

fn syn_while_cookies_are_asked_for(lab: &mut Lab) -> Result<()> {
    lab.configure(&[ALWAYS])?;
    // Nobody has this address, so nobody will prove anything.
    let from = Ipv4Addr::new(198, 51, 100, 77);
    let frame = lab.link("wan").tcp((from, 4002), (WAN, 2222), |tcp| tcp.syn = true);
    lab.send_to_be_dropped("wan", &frame, Counter::DropUnproven)?;
    lab.configure(&[])
}

/// A real stack is asked for its proof, and gives it.
fn proof_of_a_source(lab: &mut Lab) -> Result<()> {
    lab.configure(&[ALWAYS])?;
    let listener = lab.space("lan").enter(|| TcpListener::bind((HOST, 2222)).context("listen"))?;
    let connected = lab.space("wan").enter(|| {
        let address = (WAN, 2222).into();
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(5)))
    })?;
    connected.context("the connection comes about after the proof")?;
    drop(listener);
    lab.configure(&[])
}

fn locks_that_nobody_gives_back(lab: &mut Lab) -> Result<()> {
    let path = std::fs::read_dir(lab.pins())?
        .flatten()
        .flat_map(|maps| {
            let sized = std::fs::read_dir(maps.path()).into_iter().flatten().flatten();
            sized.map(|folder| folder.path()).chain([maps.path()])
        })
        .map(|folder| folder.join(map::LOCKS))
        .find(|path| path.exists())
        .context("the locks of the index")?;
    let mut locks = Array::<_, u32>::try_from(Map::from_map_data(MapData::from_pin(&path)?)?)?;
    let mut set = |value| (0..locks.len()).try_for_each(|index| locks.set(index, value, 0));
    set(1)?;
    let frame = lab.link("lan").udp(HOST, 5009, OUTSIDE, 4000);
    let sent = lab.send_to_be_dropped("lan", &frame, Counter::DropBusy);
    set(0)?;
    sent
}

fn program_is_missing(lab: &mut Lab) -> Result<()> {
    let table = std::fs::read_dir(lab.pins())?
        .flatten()
        .flat_map(|maps| std::fs::read_dir(maps.path()).into_iter().flatten().flatten())
        .map(|sized| sized.path().join(stage::TCX.table))
        .find(|path| path.exists())
        .context("the table of programs")?;
    let mut table = ProgramArray::try_from(Map::from_map_data(MapData::from_pin(&table)?)?)?;
    table.clear_index(&stage::OPEN4)?;
    let frame = lab.link("lan").udp(HOST, 5008, OUTSIDE, 4000);
    lab.send_to_be_dropped("lan", &frame, Counter::DropStage)?;
    // Brings it back.
    lab.report(|_| {})
}

/// The kernel forwards what comes from a device that is not ours.
fn forwarded_by_the_kernel_alone(lab: &mut Lab) -> Result<()> {
    let from = Ipv4Addr::new(10, 40, 0, 10);
    lab.send("stray", &lab.link("stray").udp(from, 5000, OUTSIDE, 4000))
}
