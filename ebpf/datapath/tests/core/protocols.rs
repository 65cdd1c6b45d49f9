//! What RFC 6092 asks for IPv6 and protocols other than UDP, TCP and ICMP.

use std::net::Ipv4Addr;

use portcullis_datapath::{AnswerKind, Verdict};
use portcullis_datapath_abi::Counter;

use crate::{
    frames::*,
    ipv6::{HOP6, HOST6, SERVER6, packet, pass6, plain, router6},
};

/// AH, ESP, HIP, SCTP, DCCP, UDP-Lite, Shim6, IPv4 and IPv6 in IPv6, GRE.
const OTHERS: [u8; 10] = [51, 50, 139, 132, 33, 136, 140, 4, 41, 47];

fn body() -> Vec<u8> {
    (1..=24).collect()
}

/// RFC 6092 REC-10, REC-21 to REC-26, REC-29, REC-38, REC-41, REC-43, REC-45, REC-47: a flow is two
/// addresses and a protocol; its answers come in, and errors about it; nothing else does.
#[test]
fn flows_of_other_protocols_pass_over_ipv6_with_their_answers_and_errors() {
    for protocol in OTHERS {
        let router = router6();
        // No transport checksum of ours: as if it were one without.
        let sent = packet(HOST6, SERVER6, 64, (protocol, &[]), (59, &body()));
        let answer = packet(SERVER6, HOST6, 64, (protocol, &[]), (59, &body()));
        let error = plain(HOP6, HOST6, 64, 58, &icmp_error(2, 0, &sent));
        assert_eq!(pass6(&router, WAN, &answer), Err("drop.policy".to_owned()), "{protocol}");
        assert_eq!(pass6(&router, WAN, &error), Err("drop.icmp".to_owned()), "{protocol}");
        pass6(&router, LAN, &sent).unwrap();
        pass6(&router, WAN, &answer).unwrap();
        pass6(&router, WAN, &error).unwrap();
        pass6(&router, WAN, &answer).unwrap();
        // UDP-Lite is not UDP, and so on (REC-20).
        for other in OTHERS.into_iter().filter(|other| *other != protocol) {
            let stray = packet(SERVER6, HOST6, 64, (other, &[]), (59, &body()));
            assert_eq!(pass6(&router, WAN, &stray), Err("drop.policy".to_owned()));
        }
        let stray = plain(SERVER6, HOST6, 64, 17, &udp(53, 4000, b"x"));
        assert_eq!(pass6(&router, WAN, &stray), Err("drop.policy".to_owned()));
    }
}

/// The same over IPv4, translated: what a tunnel through a translator needs.
#[test]
fn flows_of_other_protocols_pass_over_ipv4_with_their_answers_and_errors() {
    for protocol in OTHERS {
        let router = router();
        let sealed = |from, to| {
            let mut ip = datagram(from, to, 17, 64, &udp(0, 0, &body()));
            ip[9] = protocol;
            ip.splice(20.., body());
            let length = ip.len() as u16;
            ip[2..4].copy_from_slice(&length.to_be_bytes());
            ip[10..12].fill(0);
            let checksum = !sum(&ip[..20]);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            ip
        };
        let run = |interface, ip: &[u8]| {
            let mut frame = ethernet(ip);
            let verdict = router.arrive(&frame, &arrival(interface, &frame));
            assert!(frame.carry_out(&verdict), "{protocol}: {verdict:?}");
            assert_eq!(sum(&frame.0[14..34]), 0xffff);
            frame.0[14..].to_vec()
        };
        let out = run(LAN, &sealed(HOST, SERVER));
        assert_eq!((&out[12..16], &out[20..]), (&OUTSIDE.octets()[..], &body()[..]));
        let back = run(WAN, &sealed(SERVER, OUTSIDE));
        assert_eq!((&back[16..20], &back[20..]), (&HOST.octets()[..], &body()[..]));
        // An error about it, quoted whole and to the eighth byte.
        for quoted in [&out[..], &out[..28]] {
            let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(3, 4, quoted));
            let back = pass(&router, WAN, &error).unwrap();
            assert_eq!(back[16..20], HOST.octets());
            assert_eq!(sum(&back[28..48]), 0xffff);
            assert_eq!(back[40..48], [HOST.octets(), SERVER.octets()].concat());
            assert_eq!(back[48..], body()[..quoted.len() - 20], "{protocol}: not changed");
        }
    }
}

/// RFC 6092 REC-27 and REC-28: mobility. A home address option or a type 2 routing header is walked
/// over; flows are those of the addresses in the header, the home address tells none apart.
#[test]
fn headers_of_mobility_do_not_hide_the_flow() {
    let router = router6();
    let body = udp(4000, 53, b"query");
    let mut home = vec![17, 2, 1, 2, 0, 0, 201, 16];
    home.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    pass6(&router, LAN, &packet(HOST6, SERVER6, 64, (60, &home), (17, &body))).unwrap();
    let mut routed = vec![17, 2, 2, 1, 0, 0, 0, 0];
    routed.extend(&home[8..24]);
    let answer = udp(53, 4000, b"answer");
    pass6(&router, WAN, &packet(SERVER6, HOST6, 64, (43, &routed), (17, &answer))).unwrap();
    assert_eq!(router.flows6().len(), 1);
    // A binding update and its answer: the mobility header with nothing behind it.
    let binding = |from, to| packet(from, to, 64, (135, &[59, 1, 5, 0, 0, 0, 0, 0]), (59, &[0; 8]));
    let stray = pass6(&router, WAN, &binding(SERVER6, HOST6));
    assert_eq!(stray, Err("drop.policy".to_owned()));
    pass6(&router, LAN, &binding(HOST6, SERVER6)).unwrap();
    pass6(&router, WAN, &binding(SERVER6, HOST6)).unwrap();
}

/// RFC 6092 REC-1 and REC-2.
#[test]
fn multicast_does_not_pass_in_any_scope() {
    let router = router6();
    let packet = |from, to| plain(from, to, 64, 17, &udp(4000, 53, b"x"));
    for interface in [LAN, WAN] {
        for from in ["ff02::1", "ff05::7", "ff0e::7"] {
            let fate = pass6(&router, interface, &packet(from, SERVER6));
            assert_eq!(fate, Err("drop.martian".to_owned()), "{from}");
        }
        for scope in 0..=15 {
            let to = format!("ff0{scope:x}::7");
            let fate = pass6(&router, interface, &plain(HOST6, &to, 64, 17, &udp(4000, 53, b"x")));
            assert_eq!(fate, Err("drop.multicast".to_owned()), "{to}");
        }
    }
    assert!(router.flows6().is_empty());
}

/// RFC 6092 REC-5 and REC-6, RFC 7084 S-2: not met. Whether a source belongs behind the interface that
/// it comes by is not asked; a rule can say which sources may leave. From outside, a source of the
/// inside is let in no more than any other.
#[test]
fn foreign_sources_leave_and_own_ones_from_outside_are_strangers() {
    let router = router6();
    let foreign = plain("2001:db8:bad::1", SERVER6, 64, 17, &udp(4000, 53, b"x"));
    assert!(pass6(&router, LAN, &foreign).is_ok());
    let own = plain("2001:db8:77::101", HOST6, 64, 17, &udp(4000, 53, b"x"));
    assert_eq!(pass6(&router, WAN, &own), Err("drop.policy".to_owned()));
}

/// RFC 6092 REC-34 and REC-39: by choice not answered, neither at once nor after six seconds.
#[test]
fn unsolicited_packets_from_outside_are_not_answered() {
    let router = router6();
    for (protocol, transport) in [(6, tcp(4000, 80, 2, b"")), (17, udp(4000, 53, b""))] {
        for _ in 0..2 {
            let stray = plain(SERVER6, HOST6, 64, protocol, &transport);
            assert_eq!(pass6(&router, WAN, &stray), Err("drop.policy".to_owned()));
            router.now.set(router.now.get() + 7);
        }
    }
    let init = packet(SERVER6, HOST6, 64, (132, &[]), (59, &body()));
    assert_eq!(pass6(&router, WAN, &init), Err("drop.policy".to_owned()));
}

/// RFC 6092 REC-49: one policy makes it transparent.
#[test]
fn a_policy_for_everything_is_transparent() {
    let mut router = router6();
    router.policy.allow(WAN_ZONE, LAN_ZONE);
    for (protocol, transport) in
        [(6, tcp(4000, 80, 2, b"")), (17, udp(4000, 53, b"")), (58, echo(128, 7, b""))]
    {
        pass6(&router, WAN, &plain(SERVER6, HOST6, 64, protocol, &transport)).unwrap();
    }
}

/// RFC 6092 REC-8, REC-9 and REC-50, RFC 7084: by default nothing of the router's answers outside.
#[test]
fn services_of_the_router_are_closed_to_the_outside() {
    let router = router6();
    for (protocol, transport) in [
        (17, udp(4000, 53, b"query")),
        (6, tcp(4000, 53, 2, b"")),
        (6, tcp(4000, 443, 2, b"")),
        (6, tcp(4000, 22, 2, b"")),
        (17, udp(546, 547, b"solicit")),
        (58, echo(128, 7, b"")),
    ] {
        let knock = plain(SERVER6, crate::ipv6::ROUTER6, 64, protocol, &transport);
        assert_eq!(pass6(&router, WAN, &knock), Err("drop.policy".to_owned()), "{protocol}");
        let group = plain("fe80::9", "ff02::1:2", 64, protocol, &transport);
        assert_eq!(pass6(&router, WAN, &group), Err("drop.multicast".to_owned()), "{protocol}");
    }
}

/// Under masquerade one host inside can speak a protocol without ports to one outside at a time; the next
/// one is told that it is taken (RFC 5508 REQ-8).
#[test]
fn a_protocol_without_ports_is_one_hosts_for_each_peer() {
    let router = router();
    let send = |from: Ipv4Addr, to: Ipv4Addr| {
        let mut ip = datagram(from, to, 17, 64, &udp(0, 0, b""));
        ip[9] = 50;
        ip[10..12].fill(0);
        let checksum = !sum(&ip[..20]);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let frame = ethernet(&ip);
        match router.arrive(&frame, &arrival(LAN, &frame)) {
            Verdict::Forward(..) => Ok(()),
            Verdict::Answer(answer) => Err((answer.kind, answer.drop.counter)),
            other => panic!("{other:?}"),
        }
    };
    let other = Ipv4Addr::new(192, 168, 77, 101);
    let taken = Err((AnswerKind::Prohibited, Counter::DropPorts));
    assert_eq!([send(HOST, SERVER), send(HOST, SERVER), send(HOST, HOP)], [Ok(()); 3]);
    assert_eq!(send(other, SERVER), taken);
    assert_eq!(router.flows4().len(), 2, "no half flow");
    assert_eq!(send(other, Ipv4Addr::new(203, 0, 113, 7)), Ok(()));
}
