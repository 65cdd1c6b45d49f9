//! The packet core on the host: what it decides and what it does to packets.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what is not as expected fails the test, as it should"
)]

mod checksums;
mod frames;
mod icmp;
mod ipv6;
mod properties;
mod protocols;
mod replay;

use frames::*;
use portcullis_datapath::{Cast, Departure, Drop, Verdict};
use portcullis_datapath_abi::{Counter, from_address, policy};

const SYN: u8 = 2;
const ACK: u8 = 16;

fn source(ip: &[u8]) -> [u8; 4] {
    [ip[12], ip[13], ip[14], ip[15]]
}

fn destination(ip: &[u8]) -> [u8; 4] {
    [ip[16], ip[17], ip[18], ip[19]]
}

fn port(ip: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([ip[20 + at], ip[21 + at]])
}

#[test]
fn a_flow_is_masqueraded_and_its_answer_finds_back() {
    let router = router();
    let out =
        pass(&router, LAN, &datagram(HOST, SERVER, 17, 64, &udp(4000, 53, b"query"))).unwrap();
    assert_eq!(source(&out), OUTSIDE.octets());
    assert_eq!(destination(&out), SERVER.octets());
    assert_eq!((port(&out, 0), port(&out, 2)), (4000, 53));
    assert_eq!(out[8], 63, "TTL");
    let back = pass(&router, WAN, &datagram(SERVER, OUTSIDE, 17, 60, &udp(53, 4000, b"answer")));
    assert_eq!(destination(&back.unwrap()), HOST.octets());
    assert_eq!(router.flows4().len(), 1);
}

#[test]
fn nothing_comes_in_without_a_flow() {
    let router = router();
    for (transport, protocol) in
        [(udp(53, 4000, b"x"), 17), (tcp(80, 4000, SYN, b""), 6), (echo(8, 1, b"x"), 1)]
    {
        let packet = datagram(SERVER, OUTSIDE, protocol, 64, &transport);
        assert_eq!(pass(&router, WAN, &packet), Err("drop.policy".to_owned()));
        let packet = datagram(SERVER, HOST, protocol, 64, &transport);
        assert_eq!(pass(&router, WAN, &packet), Err("drop.policy".to_owned()));
    }
    assert!(router.flows4().is_empty());
}

#[test]
fn an_answer_from_another_zone_or_host_is_not_one() {
    let router = router();
    pass(&router, LAN, &datagram(HOST, SERVER, 17, 64, &udp(4000, 53, b"query"))).unwrap();
    let other = datagram(HOP, OUTSIDE, 17, 64, &udp(53, 4000, b"forged"));
    assert!(pass(&router, WAN, &other).is_err());
    let from_inside = datagram(SERVER, OUTSIDE, 17, 64, &udp(53, 4000, b"forged"));
    assert!(pass(&router, LAN, &from_inside).is_err());
}

#[test]
fn services_of_the_router_are_for_the_zones_that_may_reach_them() {
    let router = router();
    let cases: [(Vec<u8>, u8, &str); 6] = [
        (udp(4000, 53, b""), 17, "router.service"),
        (tcp(4000, 443, SYN, b""), 6, "router.service"),
        (tcp(4000, 443, ACK, b""), 6, "router.service"),
        (echo(8, 7, b""), 1, "router.service"),
        (tcp(4000, 22, SYN, b""), 6, "drop.policy"),
        (udp(4000, 123, b""), 17, "drop.policy"),
    ];
    for (transport, protocol, expected) in cases {
        let packet = datagram(HOST, ROUTER, protocol, 64, &transport);
        assert_eq!(pass(&router, LAN, &packet), Err(expected.to_owned()));
        let packet = datagram(SERVER, OUTSIDE, protocol, 64, &transport);
        let begins = protocol != 6 || transport[13] == SYN;
        let expected = if begins { "drop.policy" } else { "drop.tcp-state" };
        assert_eq!(pass(&router, WAN, &packet), Err(expected.to_owned()));
    }
    assert!(router.flows4().is_empty(), "services are not flows");
}

#[test]
fn a_zone_whose_service_is_allowed_reaches_it() {
    let mut router = router();
    router.zones.get_mut(&WAN_ZONE).unwrap().services = policy::WEB;
    let packet = datagram(SERVER, OUTSIDE, 6, 64, &tcp(4000, 443, SYN, b""));
    assert_eq!(pass(&router, WAN, &packet), Err("router.service".to_owned()));
}

#[test]
fn drops_have_their_reason() {
    let router = router();
    let mut options = datagram(HOST, SERVER, 17, 64, &udp(1, 2, b"1234"));
    options[0] = 0x46;
    let mut short = datagram(HOST, SERVER, 17, 64, &udp(1, 2, b""));
    short[2..4].copy_from_slice(&999_u16.to_be_bytes());
    let loopback = std::net::Ipv4Addr::LOCALHOST;
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    let cases: [(Vec<u8>, &str); 8] = [
        (options, "drop.ip-options"),
        (short, "drop.malformed"),
        (datagram(loopback, SERVER, 17, 64, &udp(1, 2, b"")), "drop.martian"),
        (datagram(ROUTER, SERVER, 17, 64, &udp(1, 2, b"")), "drop.martian"),
        (datagram(HOST, group, 17, 64, &udp(5353, 5353, b"")), "drop.multicast"),
        (datagram(HOST, SERVER, 6, 64, &tcp(1, 2, ACK, b"")), "drop.tcp-state"),
        (datagram(HOST, SERVER, 1, 64, &echo(0, 1, b"")), "drop.icmp"),
        (datagram(HOST, SERVER, 1, 64, &echo(15, 1, b"")), "drop.icmp"),
    ];
    for (packet, reason) in cases {
        assert_eq!(pass(&router, LAN, &packet), Err(reason.to_owned()));
    }
    assert!(router.flows4().is_empty());
}

#[test]
fn a_full_table_leaves_no_half_flow() {
    let mut router = router();
    router.config.flows = 1;
    let packet = |port| datagram(HOST, SERVER, 17, 64, &udp(port, 53, b""));
    pass(&router, LAN, &packet(4000)).unwrap();
    assert_eq!(pass(&router, LAN, &packet(4001)), Err("Prohibited".to_owned()));
    assert_eq!(router.flows4().len(), 1);
    assert_eq!(router.flows.in_use(), 1);
}

#[test]
fn ports_are_kept_unless_they_are_taken() {
    let router = router();
    let out = pass(&router, LAN, &datagram(HOST, SERVER, 17, 64, &udp(500, 500, b"ike"))).unwrap();
    assert_eq!(port(&out, 0), 500, "the range is preserved");
    let other = std::net::Ipv4Addr::new(192, 168, 77, 101);
    let packet = |host| datagram(host, SERVER, 6, 64, &tcp(4000, 80, SYN, b""));
    assert_eq!(port(&pass(&router, LAN, &packet(HOST)).unwrap(), 0), 4000);
    let changed = port(&pass(&router, LAN, &packet(other)).unwrap(), 0);
    assert!(changed != 4000 && changed >= 1024);
}

#[test]
fn a_ttl_that_ends_is_the_kernels_to_answer_where_it_can() {
    let router = router();
    let packet = datagram(HOST, SERVER, 17, 1, &udp(4000, 33434, b""));
    assert_eq!(pass(&router, LAN, &packet), Err("TimeExceeded".to_owned()));
    assert!(router.flows4().is_empty(), "no flow comes of it");
    pass(&router, LAN, &datagram(HOST, SERVER, 17, 2, &udp(4000, 33434, b""))).unwrap();
    let back = datagram(SERVER, OUTSIDE, 17, 1, &udp(33434, 4000, b""));
    assert_eq!(pass(&router, WAN, &back), Err("TimeExceeded".to_owned()));
}

#[test]
fn packets_larger_than_the_next_link_are_not_forwarded() {
    let mut router = router();
    router.default_route.as_mut().unwrap().mtu = 1400;
    let packet = datagram(HOST, SERVER, 17, 64, &udp(4000, 53, &[0; 1400]));
    assert_eq!(pass(&router, LAN, &packet), Err("TooBig".to_owned()));
    // An aggregate counts by its segments.
    let frame = ethernet(&datagram(HOST, SERVER, 6, 64, &tcp(4000, 80, SYN, &[0; 4000])));
    for (segment_size, passes) in [(1360, true), (1361, false)] {
        let arrival = portcullis_datapath::Arrival { segment_size, ..arrival(LAN, &frame) };
        let forwarded = matches!(router.arrive(&frame, &arrival), Verdict::Forward(..));
        assert_eq!(forwarded, passes, "{segment_size}");
    }
}

#[test]
fn icmp_errors_come_back_with_the_inner_addresses_translated() {
    let router = router();
    for (transport, protocol) in
        [(udp(500, 53, b"query"), 17), (tcp(500, 80, SYN, b""), 6), (echo(8, 77, b"ping"), 1)]
    {
        let sent = datagram(HOST, SERVER, protocol, 64, &transport);
        let out = pass(&router, LAN, &sent).unwrap();
        for quoted in [&out[..], &out[..28]] {
            let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(11, 0, quoted));
            let back = pass(&router, WAN, &error).unwrap();
            assert_eq!(source(&back), HOP.octets(), "the hop is not hidden");
            assert_eq!(destination(&back), HOST.octets());
            let inner = &back[28..];
            // As sent, but for the TTL and its checksum.
            assert_eq!(inner[..8], sent[..8]);
            assert_eq!(inner[12..28], sent[12..28]);
            assert_eq!(sum(&inner[..20]), 0xffff);
            if quoted.len() == out.len() {
                assert_eq!(inner[20..], sent[20..]);
            }
        }
    }
    let stray = datagram(HOST, OUTSIDE, 17, 64, &udp(1, 2, b""));
    let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(3, 3, &stray));
    assert_eq!(pass(&router, WAN, &error), Err("drop.icmp".to_owned()));
}

#[test]
fn errors_of_a_host_inside_leave_with_the_wan_address() {
    let router = router();
    let out = pass(&router, LAN, &datagram(HOST, SERVER, 17, 64, &udp(500, 53, b"query"))).unwrap();
    let answer = datagram(SERVER, OUTSIDE, 17, 64, &udp(53, port(&out, 0), b"late"));
    let inside = pass(&router, WAN, &answer).unwrap();
    let error = datagram(HOST, SERVER, 1, 64, &icmp_error(3, 3, &inside));
    let outside = pass(&router, LAN, &error).unwrap();
    assert_eq!(source(&outside), OUTSIDE.octets());
    assert_eq!(outside[28 + 12..28 + 28], answer[12..28], "quotes what the server sent");
}

#[test]
fn later_fragments_follow_the_first() {
    let router = router();
    let whole = datagram(HOST, SERVER, 17, 64, &udp(500, 53, &[7; 64]));
    let fragment = |range: std::ops::Range<usize>, word: u16| {
        let mut ip = whole[..20].to_vec();
        ip.extend(&whole[20 + range.start..20 + range.end]);
        let length = ip.len() as u16;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[6..8].copy_from_slice(&word.to_be_bytes());
        ip[10..12].copy_from_slice(&[0, 0]);
        let checksum = !sum(&ip[..20]);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ethernet(&ip)
    };
    let first = fragment(0..40, 0x2000);
    let later = fragment(40..72, 5);
    let run = |frame: &portcullis_datapath::simulation::Bytes| {
        let mut frame = frame.clone();
        let verdict = router.arrive(&frame, &arrival(LAN, &frame));
        match verdict {
            Verdict::Forward(..) => {
                assert!(frame.carry_out(&verdict));
                Ok(frame.0[14..].to_vec())
            }
            Verdict::Drop(drop) => Err(drop.counter),
            Verdict::Hold(_) => Err(Counter::FragmentHeld),
            other => panic!("{other:?}"),
        }
    };
    let (first, later) = (run(&first).unwrap(), run(&later).unwrap());
    assert_eq!(source(&later), OUTSIDE.octets());
    assert_eq!(sum(&later[..20]), 0xffff);
    assert_eq!(later[20..], whole[60..], "payload untouched");
    // Put together again, the checksum is right.
    let mut again = whole[..20].to_vec();
    again[12..16].copy_from_slice(&first[12..16]);
    again[8] = first[8];
    again[10..12].copy_from_slice(&[0, 0]);
    let checksum = !sum(&again);
    again[10..12].copy_from_slice(&checksum.to_be_bytes());
    again.extend(&first[20..]);
    again.extend(&later[20..]);
    assert_correct(&again);
    // Much later it is not the same datagram any more.
    router.now.set(router.now.get() + 60);
    assert_eq!(run(&fragment(40..72, 5)), Err(Counter::FragmentHeld));
}

#[test]
fn what_the_router_sends_is_let_back_in_and_what_the_kernel_forwards_is_not_let_out() {
    let router = router();
    let frame = ethernet(&datagram(OUTSIDE, SERVER, 17, 64, &udp(123, 123, b"time?")));
    let leaving = |forwarded| Departure { interface: WAN, forwarded, length: 33, segments: 1 };
    assert!(matches!(
        router.leave(&frame, &leaving(true)),
        Verdict::Drop(Drop { counter: Counter::DropLeak, .. })
    ));
    let answer = datagram(SERVER, OUTSIDE, 17, 64, &udp(123, 123, b"noon"));
    assert_eq!(pass(&router, WAN, &answer), Err("drop.policy".to_owned()));
    assert!(matches!(router.leave(&frame, &leaving(false)), Verdict::Kernel(Counter::RouterSent)));
    assert_eq!(pass(&router, WAN, &answer), Err("router.flow".to_owned()));
}

#[test]
fn dhcp_is_heard_from_the_zones_that_have_it_and_from_servers_that_were_asked() {
    let router = router();
    let all = std::net::Ipv4Addr::BROADCAST;
    let none = std::net::Ipv4Addr::UNSPECIFIED;
    let group = |interface, packet: &[u8]| {
        let frame = ethernet(packet);
        let arrival =
            portcullis_datapath::Arrival { cast: Cast::Group, ..arrival(interface, &frame) };
        match router.arrive(&frame, &arrival) {
            Verdict::Drop(drop) => drop.counter,
            Verdict::Kernel(counter) => counter,
            other => panic!("{other:?}"),
        }
    };
    let discover = datagram(none, all, 17, 64, &udp(68, 67, b""));
    assert_eq!(group(LAN, &discover), Counter::Service);
    assert_eq!(group(WAN, &discover), Counter::DropMulticast);
    let offer = datagram(HOP, all, 17, 64, &udp(67, 68, b""));
    assert_eq!(group(WAN, &offer), Counter::DropPolicy);
    let frame = ethernet(&discover);
    let departure = Departure { interface: WAN, forwarded: false, length: 28, segments: 1 };
    assert!(matches!(router.leave(&frame, &departure), Verdict::Kernel(_)));
    assert_eq!(group(WAN, &offer), Counter::RouterFlow);
    assert_eq!(group(LAN, &offer), Counter::DropPolicy, "only where it was asked");
}

/// In a frame that is for the router alone, as from a neighbour that forwards it (RFC 1812 section 5.3.5.2).
#[test]
fn broadcasts_of_subnets_are_neither_forwarded_nor_answered() {
    let mut router = router();
    // As in the kernel: there is no way to one of them.
    router.default_route = None;
    router.routes.clear();
    let subnet = std::net::Ipv4Addr::new(192, 168, 77, 255);
    router.broadcasts.insert(from_address(subnet));
    let to = |from, packet: &[u8]| {
        assert_eq!(pass(&router, from, packet), Err("drop.multicast".to_owned()));
    };
    for (from, host) in [(WAN, SERVER), (LAN, HOST)] {
        to(from, &datagram(host, subnet, 17, 64, &udp(4000, 7, b"echo")));
        to(from, &datagram(host, subnet, 17, 64, &udp(4000, 53, b"query")));
        to(from, &datagram(host, subnet, 17, 1, &udp(4000, 7, b"the last hop")));
        to(from, &datagram(host, subnet, 1, 64, &echo(8, 1, b"smurf")));
        to(from, &datagram(host, subnet, 6, 64, &tcp(4000, 80, 2, b"")));
    }
    // A DHCP client may ask all hosts of its subnet.
    let renewal = datagram(HOST, subnet, 17, 64, &udp(68, 67, b""));
    assert_eq!(pass(&router, LAN, &renewal), Err("router.service".to_owned()));
    // Nobody sends from there (section 5.3.7).
    let forged = datagram(subnet, SERVER, 17, 64, &udp(7, 7, b""));
    assert_eq!(pass(&router, LAN, &forged), Err("drop.martian".to_owned()));
    assert_eq!(router.flows.in_use(), 0);
}

#[test]
fn a_flow_whose_route_moves_to_another_address_is_removed() {
    let mut router = router();
    let packet = datagram(HOST, SERVER, 17, 64, &udp(4000, 53, b""));
    // The neighbour is not known, so nothing is cached.
    router.default_route.as_mut().unwrap().resolved = false;
    pass(&router, LAN, &packet).unwrap();
    router.interfaces.get_mut(&WAN).unwrap().nat_address = from_address(HOP);
    assert_eq!(pass(&router, LAN, &packet), Err("drop.flow-moved".to_owned()));
    assert!(router.flows4().is_empty());
    assert_eq!(source(&pass(&router, LAN, &packet).unwrap()), HOP.octets());
}
