//! IPv6: forwarded statefully, never translated.

use std::net::Ipv6Addr;

use portcullis_datapath::{
    Arrival, Departure, Route, Verdict,
    simulation::{Bytes, Simulation},
};

use crate::frames::*;

pub const HOST6: &str = "2001:db8:77::100";
pub const SERVER6: &str = "2001:db8:f00::10";
pub const ROUTER6: &str = "2001:db8:77::1";
pub const HOP6: &str = "2001:db8:1::1";
const SYN: u8 = 2;
const ACK: u8 = 16;

fn words(address: &str) -> [u32; 4] {
    let octets = address.parse::<Ipv6Addr>().unwrap().octets();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().unwrap());
    }
    words
}

/// The router of `frames`, with IPv6 on both sides.
pub fn router6() -> Simulation {
    let mut router = router();
    let route = |egress, next_hop| Route {
        egress,
        mtu: 1500,
        resolved: true,
        macs: [1, 2, 3],
        next_hop: words(next_hop),
    };
    let [a, b, c, d] = words(HOST6);
    let [e, f, g, _] = d.to_ne_bytes();
    router.routes.insert(([a, b, c], [e, f, g]), route(LAN, HOST6));
    router.default_route6 = Some(route(WAN, HOP6));
    router.addresses6.insert(words(ROUTER6));
    router
}

/// A packet with a correct transport checksum; `headers` are extension headers with the type of the
/// first, the last one of them names the protocol.
pub fn packet(
    from: &str,
    to: &str,
    hops: u8,
    (first, headers): (u8, &[u8]),
    (protocol, transport): (u8, &[u8]),
) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(((headers.len() + transport.len()) as u16).to_be_bytes());
    ip.extend([first, hops]);
    ip.extend(from.parse::<Ipv6Addr>().unwrap().octets());
    ip.extend(to.parse::<Ipv6Addr>().unwrap().octets());
    let mut pseudo = ip[8..40].to_vec();
    pseudo.extend((transport.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo.extend(transport);
    let at = match protocol {
        58 => 2,
        6 => 16,
        _ => 6,
    };
    let mut transport = transport.to_vec();
    if protocol != 59 {
        transport[at..at + 2].copy_from_slice(&(!sum(&pseudo)).to_be_bytes());
    }
    ip.extend(headers);
    ip.extend(transport);
    ip
}

pub fn plain(from: &str, to: &str, hops: u8, protocol: u8, transport: &[u8]) -> Vec<u8> {
    packet(from, to, hops, (protocol, &[]), (protocol, transport))
}

pub fn ethernet6(packet: &[u8]) -> Bytes {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd];
    frame.extend(packet);
    Bytes(frame)
}

/// What comes out of the router, behind the Ethernet header; the verdict's name otherwise.
pub fn pass6(router: &Simulation, interface: u32, packet: &[u8]) -> Result<Vec<u8>, String> {
    let frame = ethernet6(packet);
    let verdict = router.arrive(&frame, &arrival(interface, &frame));
    let mut out = frame.clone();
    match verdict {
        Verdict::Forward(..) => {
            assert!(out.carry_out(&verdict));
            let mut expected = frame.0;
            expected[..12].copy_from_slice(&out.0[..12]);
            expected[14 + 7] -= 1;
            assert_eq!(out.0, expected, "only the hop limit changes");
            Ok(out.0[14..].to_vec())
        }
        Verdict::Kernel(counter) => Err(counter.name().to_owned()),
        Verdict::Drop(drop) => Err(drop.counter.name().to_owned()),
        Verdict::Answer(answer) => Err(format!("{:?} {}", answer.kind, answer.mtu)),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn flows_pass_untranslated_and_only_their_answers_come_in() {
    let router = router6();
    let asked = plain(HOST6, SERVER6, 64, 17, &udp(4000, 53, b"query"));
    let answer = plain(SERVER6, HOST6, 60, 17, &udp(53, 4000, b"answer"));
    assert_eq!(pass6(&router, WAN, &answer), Err("drop.policy".to_owned()));
    assert_eq!(pass6(&router, LAN, &asked).unwrap()[7], 63);
    assert_eq!(pass6(&router, WAN, &answer).unwrap()[7], 59);
    assert_eq!(router.flows6().len(), 1);
    assert!(router.flows4().is_empty());
    let other = plain(SERVER6, HOST6, 60, 17, &udp(54, 4000, b"forged"));
    assert_eq!(pass6(&router, WAN, &other), Err("drop.policy".to_owned()));
    // The answer belongs to its zone.
    assert_eq!(pass6(&router, LAN, &answer), Err("drop.policy".to_owned()));
}

#[test]
fn tcp_is_tracked_over_ipv6_too() {
    let router = router6();
    let segment = |source, destination, sequence: u32, acknowledged: u32, flags| {
        let mut bytes = tcp(source, destination, flags, b"");
        bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
        bytes[8..12].copy_from_slice(&acknowledged.to_be_bytes());
        bytes
    };
    let out = |bytes: &[u8]| pass6(&router, LAN, &plain(HOST6, SERVER6, 64, 6, bytes));
    let back = |bytes: &[u8]| pass6(&router, WAN, &plain(SERVER6, HOST6, 64, 6, bytes));
    assert_eq!(out(&segment(4000, 80, 5, 0, ACK)), Err("drop.tcp-state".to_owned()));
    out(&segment(4000, 80, 5, 0, SYN)).unwrap();
    back(&segment(80, 4000, 900, 6, SYN | ACK)).unwrap();
    out(&segment(4000, 80, 6, 901, ACK)).unwrap();
    back(&segment(80, 4000, 901, 6, ACK)).unwrap();
    let far = segment(80, 4000, 500_000, 6, ACK);
    assert_eq!(back(&far), Err("drop.tcp-window".to_owned()));
}

#[test]
fn extension_headers_are_walked_and_the_dangerous_ones_refused() {
    // Hop-by-hop options, then destination options, then UDP.
    let options = [60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
    let body = udp(4000, 53, b"query");
    let router = router6();
    let asked = packet(HOST6, SERVER6, 64, (0, &options), (17, &body));
    pass6(&router, LAN, &asked).unwrap();
    // Its plain answer finds the same flow.
    pass6(&router, WAN, &plain(SERVER6, HOST6, 64, 17, &udp(53, 4000, b"answer"))).unwrap();
    assert_eq!(router.flows6().len(), 1);
    let refused = |first, headers: &[u8]| {
        let bad = packet(HOST6, SERVER6, 64, (first, headers), (17, &udp(4001, 53, b"")));
        pass6(&router, LAN, &bad)
    };
    let reason = Err("drop.ipv6-extension".to_owned());
    assert_eq!(refused(43, &[17, 0, 0, 1, 0, 0, 0, 0]), reason, "routing type 0 (RFC 5095)");
    assert_eq!(refused(60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]), reason, "order");
    let chain: Vec<u8> = [60, 0, 1, 4, 0, 0, 0, 0].repeat(9);
    assert_eq!(refused(60, &chain), reason, "without end");
    let mut long = vec![17, 80, 1, 4];
    long.resize(81 * 8, 0);
    assert_eq!(refused(60, &long), reason, "too long");
    // A header that says it is longer than the packet.
    let mut cut = packet(HOST6, SERVER6, 64, (60, &[17, 40, 1, 4, 0, 0, 0, 0]), (59, &[0; 8]));
    cut[6] = 60;
    assert_eq!(pass6(&router, LAN, &cut), Err("drop.malformed".to_owned()));
    assert_eq!(router.flows6().len(), 1);
}

#[test]
fn discovery_stays_on_its_link() {
    let router = router6();
    let solicitation = |hops, to| {
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend([0xfe; 16]);
        plain("fe80::1", to, hops, 58, &message)
    };
    let kernel = Err("kernel.link-layer".to_owned());
    let dropped = Err("drop.icmp".to_owned());
    for interface in [LAN, WAN] {
        assert_eq!(pass6(&router, interface, &solicitation(255, "ff02::1:ff00:1")), kernel);
        assert_eq!(pass6(&router, interface, &solicitation(255, "fe80::9")), kernel);
        assert_eq!(pass6(&router, interface, &solicitation(64, "fe80::9")), dropped, "forwarded");
        assert_eq!(pass6(&router, interface, &solicitation(255, SERVER6)), dropped, "not ours");
    }
    // A report of multicast listeners, behind the router alert option.
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let report = packet("fe80::1", "ff02::16", 1, (0, &alert), (58, &[143, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(pass6(&router, LAN, &report), kernel);
    assert!(router.flows6().is_empty());
}

#[test]
fn errors_come_in_about_flows_only() {
    let router = router6();
    for (protocol, transport) in
        [(17, udp(4000, 53, b"query")), (6, tcp(4000, 80, SYN, b"")), (58, echo(128, 77, b"ping"))]
    {
        let sent = plain(HOST6, SERVER6, 64, protocol, &transport);
        // Packet too big, time exceeded, unreachable (RFC 4890 section 4.3.1).
        for kind in [2, 3, 1] {
            let error = |quoted: &[u8]| plain(HOP6, HOST6, 64, 58, &icmp_error(kind, 0, quoted));
            if router.flows6().iter().all(|flow| flow.protocol != protocol) {
                assert_eq!(pass6(&router, WAN, &error(&sent)), Err("drop.icmp".to_owned()));
                pass6(&router, LAN, &sent).unwrap();
            }
            pass6(&router, WAN, &error(&sent)).unwrap();
            pass6(&router, WAN, &error(&sent[..48])).unwrap();
            assert_eq!(pass6(&router, WAN, &error(&sent[..46])), Err("drop.icmp".to_owned()));
            // Quoted as if another host had sent it.
            let stray = plain("2001:db8:77::101", SERVER6, 64, protocol, &transport);
            assert_eq!(pass6(&router, WAN, &error(&stray)), Err("drop.icmp".to_owned()));
        }
    }
    assert_eq!(router.flows6().len(), 3);
}

#[test]
fn echo_is_a_flow_and_the_routers_own_is_a_service() {
    let router = router6();
    let reply = plain(SERVER6, HOST6, 64, 58, &echo(129, 7, b"x"));
    assert_eq!(pass6(&router, WAN, &reply), Err("drop.icmp".to_owned()));
    pass6(&router, LAN, &plain(HOST6, SERVER6, 64, 58, &echo(128, 7, b"x"))).unwrap();
    pass6(&router, WAN, &reply).unwrap();
    let ping = plain(HOST6, ROUTER6, 64, 58, &echo(128, 9, b"x"));
    assert_eq!(pass6(&router, LAN, &ping), Err("router.service".to_owned()));
    let ping = plain(SERVER6, ROUTER6, 64, 58, &echo(128, 9, b"x"));
    assert_eq!(pass6(&router, WAN, &ping), Err("drop.policy".to_owned()));
}

#[test]
fn what_does_not_fit_or_lives_too_short_is_answered() {
    let mut router = router6();
    let packet = |hops, size| plain(HOST6, SERVER6, hops, 17, &udp(4000, 53, &vec![0; size]));
    assert_eq!(pass6(&router, LAN, &packet(1, 9)), Err("TimeExceeded 0".to_owned()));
    router.default_route6.as_mut().unwrap().mtu = 1280;
    assert_eq!(pass6(&router, LAN, &packet(64, 1233)), Err("TooBig 1280".to_owned()));
    assert!(router.flows6().is_empty(), "no flow comes of it");
    pass6(&router, LAN, &packet(64, 1232)).unwrap();
    assert_eq!(pass6(&router, LAN, &packet(64, 1233)), Err("TooBig 1280".to_owned()));
    assert_eq!(pass6(&router, LAN, &packet(1, 9)), Err("TimeExceeded 0".to_owned()));
}

#[test]
fn fragments_follow_the_first() {
    let router = router6();
    let whole = udp(4000, 53, &[7; 40]);
    let fragment = |range: std::ops::Range<usize>, more: u16| {
        let mut header = vec![17, 0];
        header.extend((range.start as u16 | more).to_be_bytes());
        header.extend([0, 0, 0, 9]);
        packet(HOST6, SERVER6, 64, (44, &header), (59, &whole[range]))
    };
    let (first, later) = (fragment(0..24, 1), fragment(24..48, 0));
    pass6(&router, LAN, &first).unwrap();
    pass6(&router, LAN, &later).unwrap();
    assert_eq!(router.flows6().len(), 1);
    assert_eq!(router.fragments.datagrams(), 0, "complete, so forgotten");
}

#[test]
fn xdp_leaves_to_tcx_what_it_cannot_finish_and_counts_nothing() {
    let mut router = router6();
    let frame = ethernet6(&plain(HOST6, SERVER6, 64, 17, &udp(4000, 53, b"query")));
    let arrival = Arrival { hook: portcullis_datapath::Hook::Xdp, ..arrival(LAN, &frame) };
    // Its flow is made, but the way out is not one for XDP.
    assert!(matches!(router.arrive(&frame, &arrival), Verdict::Defer));
    let packets =
        |router: &Simulation| router.flows.live().values().map(|flow| flow.packets[0]).sum::<u64>();
    assert_eq!((router.flows6().len(), packets(&router)), (1, 0));
    router.interfaces.get_mut(&WAN).unwrap().flags = portcullis_datapath_abi::policy::XDP_TRANSMIT;
    assert!(matches!(router.arrive(&frame, &arrival), Verdict::Defer), "the cache says no");
    router.config.generation += 1;
    assert!(matches!(router.arrive(&frame, &arrival), Verdict::Defer), "tcx looks up");
    let by_tcx = Arrival { hook: portcullis_datapath::Hook::Tcx, ..arrival };
    assert!(matches!(router.arrive(&frame, &by_tcx), Verdict::Forward(..)));
    assert!(matches!(router.arrive(&frame, &arrival), Verdict::Forward(..)));
    assert_eq!(packets(&router), 2);
}

#[test]
fn the_dhcpv6_client_is_answered_where_it_asked() {
    let router = router6();
    let us = "fe80::2";
    let request = plain(us, "ff02::1:2", 1, 17, &udp(546, 547, b"solicit"));
    let answer = plain("fe80::9", us, 64, 17, &udp(547, 546, b"advertise"));
    assert_eq!(pass6(&router, WAN, &answer), Err("drop.policy".to_owned()));
    for _ in 0..2 {
        let frame = ethernet6(&request);
        let length = request.len() as u32;
        let leaving = Departure { interface: WAN, forwarded: false, length, segments: 1 };
        assert!(matches!(router.leave(&frame, &leaving), Verdict::Kernel(_)));
        assert_eq!(pass6(&router, WAN, &answer), Err("router.flow".to_owned()));
    }
    assert_eq!(pass6(&router, LAN, &answer), Err("drop.policy".to_owned()), "only there");
    assert_eq!(router.flows.live().values().map(|flow| flow.packets).collect::<Vec<_>>(), [[2, 2]]);
}

#[test]
fn the_routers_own_flows_are_answered() {
    let router = router6();
    let answer = plain(SERVER6, ROUTER6, 64, 17, &udp(123, 123, b"noon"));
    assert_eq!(pass6(&router, WAN, &answer), Err("drop.policy".to_owned()));
    let request = plain(ROUTER6, SERVER6, 64, 17, &udp(123, 123, b"time?"));
    let length = request.len() as u32;
    let leaving = Departure { interface: WAN, forwarded: false, length, segments: 1 };
    assert!(matches!(router.leave(&ethernet6(&request), &leaving), Verdict::Kernel(_)));
    assert_eq!(pass6(&router, WAN, &answer), Err("router.flow".to_owned()));
    let error = |quoted: &[u8]| plain(HOP6, ROUTER6, 64, 58, &icmp_error(1, 4, quoted));
    assert_eq!(pass6(&router, WAN, &error(&request)), Err("router.icmp-error".to_owned()));
}
