//! ICMP as a translator handles it (RFC 5508), and ICMPv6 as a firewall does (RFC 4890).

use portcullis_datapath::{LONGEST, simulation::Simulation};
use proptest::prelude::*;

use crate::{
    frames::*,
    ipv6::{HOP6, HOST6, ROUTER6, SERVER6, packet, pass6, plain, router6},
};

fn refused(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

/// What becomes of a packet.
fn fate(result: Result<Vec<u8>, String>) -> Result<(), String> {
    result.map(drop)
}

/// A query to the server has passed; an error about it, from a router behind ours.
fn error(router: &Simulation, payload: &[u8]) -> Vec<u8> {
    let sent = datagram(HOST, SERVER, 17, 64, &udp(500, 53, payload));
    let out = pass(router, LAN, &sent).unwrap();
    datagram(HOP, OUTSIDE, 1, 64, &icmp_error(11, 0, &out))
}

/// Sets the ICMP checksum.
fn sealed(mut error: Vec<u8>) -> Vec<u8> {
    error[22..24].fill(0);
    let checksum = !sum(&error[20..]);
    error[22..24].copy_from_slice(&checksum.to_be_bytes());
    error
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// One bit of the message is wrong, whatever it is and however long: the checksum tells.
    #[test]
    fn errors_with_a_wrong_checksum_are_dropped(
        payload in prop::collection::vec(any::<u8>(), 0..1300),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let router = router();
        let good = error(&router, &payload);
        prop_assert!(pass(&router, WAN, &good).is_ok());
        let mut bad = good.clone();
        let message = &mut bad[20..];
        let at = at.index(message.len());
        message[at] ^= 1 << bit;
        prop_assert_eq!(fate(pass(&router, WAN, &bad)), refused("drop.icmp"));
    }

    #[test]
    fn icmpv6_errors_with_a_wrong_checksum_are_dropped(
        payload in prop::collection::vec(any::<u8>(), 0..1180),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        behind_options in any::<bool>(),
    ) {
        let router = router6();
        let sent = plain(HOST6, SERVER6, 64, 17, &udp(4000, 53, &payload));
        pass6(&router, LAN, &sent).unwrap();
        let message = icmp_error(2, 0, &sent);
        let headers: (u8, &[u8]) = if behind_options { (60, &[58, 0, 1, 4, 0, 0, 0, 0]) } else { (58, &[]) };
        let good = packet(HOP6, HOST6, 64, headers, (58, &message));
        prop_assert!(pass6(&router, WAN, &good).is_ok());
        let mut bad = good.clone();
        let start = bad.len() - message.len();
        let at = start + at.index(message.len());
        // The type: another kind of message may have another fate.
        prop_assume!(at != start);
        bad[at] ^= 1 << bit;
        prop_assert_eq!(fate(pass6(&router, WAN, &bad)), refused("drop.icmp"));
    }
}

#[test]
fn errors_that_quote_a_header_with_a_wrong_checksum_are_dropped() {
    let router = router();
    let good = error(&router, b"query");
    for at in 28..48 {
        let mut bad = good.clone();
        bad[at] ^= 4;
        assert_eq!(
            fate(pass(&router, WAN, &sealed(bad))),
            refused("drop.icmp"),
            "byte {}",
            at - 28
        );
    }
    assert!(pass(&router, WAN, &sealed(good)).is_ok());
}

/// RFC 5508 REQ-3 c: most of what is quoted is cut short anyway.
#[test]
fn the_transport_checksum_of_what_is_quoted_is_nobodys_business() {
    let router = router();
    let mut wrong = error(&router, b"query");
    wrong[54] ^= 1;
    let back = pass(&router, WAN, &sealed(wrong.clone())).unwrap();
    assert_eq!(back[54..56], {
        // Changed by the difference that the translation makes, and still wrong.
        let right = pass(&router, WAN, &error(&router, b"query")).unwrap();
        [right[54] ^ 1, right[55]]
    });
}

#[test]
fn errors_of_any_length_are_summed_up_to_what_any_error_may_have() {
    let router = router();
    pass(&router, LAN, &datagram(HOST, SERVER, 17, 64, &udp(500, 53, b""))).unwrap();
    let quoted = datagram(OUTSIDE, SERVER, 17, 60, &udp(500, 53, &[7; 2100]));
    for length in [28, 29, 30, 31, 483, 484, 485, 511, 512, 1472] {
        let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(3, 1, &quoted[..length]));
        assert!(pass(&router, WAN, &error).is_ok(), "{length}");
    }
    let too_long = LONGEST as usize - 7;
    let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(3, 1, &quoted[..too_long]));
    assert_eq!(fate(pass(&router, WAN, &error)), refused("drop.icmp"));
}

/// RFC 5508 REQ-3 b asks to look behind the options of what is quoted. Packets with options are not
/// forwarded, so no error about one can be meant for a host inside.
#[test]
fn neither_packets_with_options_nor_errors_about_them_pass() {
    let router = router();
    let with_options = |mut ip: Vec<u8>| {
        ip[0] = 0x46;
        let length = ip.len() as u16 + 4;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip.splice(20..20, [1, 1, 1, 1]);
        ip[10..12].fill(0);
        let checksum = !sum(&ip[..24]);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip
    };
    let sent = datagram(HOST, SERVER, 17, 64, &udp(500, 53, b"query"));
    let dropped = pass(&router, LAN, &with_options(sent.clone()));
    assert_eq!(dropped, Err("drop.ip-options".to_owned()));
    let out = pass(&router, LAN, &sent).unwrap();
    let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(11, 0, &with_options(out)));
    assert_eq!(fate(pass(&router, WAN, &error)), refused("drop.icmp"));
}

/// RFC 5508 REQ-1 and REQ-10 b 2: a timestamp is a query like echo.
#[test]
fn timestamps_are_queries() {
    let router = router();
    let times = [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    let out = pass(&router, LAN, &datagram(HOST, SERVER, 1, 64, &echo(13, 77, &times))).unwrap();
    assert_eq!(out[12..16], OUTSIDE.octets());
    assert_eq!(out[20], 13);
    let id = u16::from_be_bytes([out[24], out[25]]);
    let reply = datagram(SERVER, OUTSIDE, 1, 60, &echo(14, id, &times));
    let back = pass(&router, WAN, &reply).unwrap();
    assert_eq!(back[16..20], HOST.octets());
    assert_eq!(back[24..26], 77_u16.to_be_bytes());
    let other = datagram(SERVER, OUTSIDE, 1, 60, &echo(14, id ^ 1, &times));
    assert_eq!(fate(pass(&router, WAN, &other)), refused("drop.icmp"));
    let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(3, 1, &out));
    let back = pass(&router, WAN, &error).unwrap();
    assert_eq!(back[40..44], HOST.octets());
    assert_eq!(back[48 + 4..48 + 6], 77_u16.to_be_bytes());
}

/// The service `ping` is echo: whoever asks the router for its time gets no answer.
#[test]
fn timestamps_to_the_router_are_not_its_service() {
    let router = router();
    let ask = |kind| pass(&router, LAN, &datagram(HOST, ROUTER, 1, 64, &echo(kind, 7, &[0; 12])));
    assert_eq!(ask(8), Err("router.service".to_owned()));
    assert_eq!(ask(13), Err("drop.policy".to_owned()));
    assert!(router.flows4().is_empty());
}

/// RFC 5508 REQ-10 b and c, REQ-11: source quench, redirect, router discovery, information and mask
/// requests, and whatever else there is.
#[test]
fn other_messages_are_dropped() {
    let router = router();
    let out = pass(&router, LAN, &datagram(HOST, SERVER, 17, 64, &udp(500, 53, b"query"))).unwrap();
    for kind in (0..=255).filter(|kind| ![0, 3, 8, 11, 12, 13, 14].contains(kind)) {
        let message = icmp_error(kind, 0, &out);
        let inward = datagram(HOP, OUTSIDE, 1, 64, &message);
        assert_eq!(fate(pass(&router, WAN, &inward)), refused("drop.icmp"), "type {kind}");
        let outward = datagram(HOST, SERVER, 1, 64, &message);
        assert_eq!(fate(pass(&router, LAN, &outward)), refused("drop.icmp"), "type {kind}");
    }
}

/// RFC 5508 REQ-4 b, REQ-10 a: each code of unreachable, time exceeded and parameter problem comes
/// through, and stays what it was.
#[test]
fn type_and_code_of_errors_stay() {
    let router = router();
    let out = pass(&router, LAN, &datagram(HOST, SERVER, 17, 64, &udp(500, 53, b"query"))).unwrap();
    for (kind, codes) in [(3, 0..16), (11, 0..2), (12, 0..3)] {
        for code in codes {
            let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(kind, code, &out));
            let back = pass(&router, WAN, &error).unwrap();
            assert_eq!(back[20..22], [kind, code]);
        }
    }
}

/// RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10: a flow is as old behind an error as before, and
/// still there.
#[test]
fn errors_neither_refresh_nor_end_a_flow() {
    let router = router();
    for (transport, protocol) in
        [(udp(500, 53, b"query"), 17), (tcp(500, 80, 2, b""), 6), (echo(8, 77, b"ping"), 1)]
    {
        let sent = datagram(HOST, SERVER, protocol, 64, &transport);
        let out = pass(&router, LAN, &sent).unwrap();
        let state = || {
            let live = router.flows.live();
            live.into_values().map(|flow| (flow.last_seen, flow.packets)).collect::<Vec<_>>()
        };
        let before = state();
        router.now.set(router.now.get() + 20);
        for kind in [3, 11, 12] {
            let error = datagram(HOP, OUTSIDE, 1, 64, &icmp_error(kind, 1, &out));
            pass(&router, WAN, &error).unwrap();
        }
        // One from inside, about an answer (RFC 7857 section 7.1).
        let quoted = datagram(SERVER, HOST, protocol, 60, &{
            let mut answer = transport.clone();
            if protocol == 1 {
                answer[0] = 0;
            } else {
                answer[..4].rotate_left(2);
            }
            answer
        });
        let error = datagram(HOST, SERVER, 1, 64, &icmp_error(3, 3, &quoted));
        pass(&router, LAN, &error).unwrap();
        assert_eq!(state(), before, "protocol {protocol}");
        router.now.set(router.now.get() - 20);
    }
}

/// What happens to a message through the router, in both directions, about a flow that there is.
fn transit6(kind: u8, code: u8) -> [Result<(), String>; 2] {
    let router = router6();
    let sent = plain(HOST6, SERVER6, 64, 17, &udp(4000, 53, b"query"));
    let answer = plain(SERVER6, HOST6, 64, 17, &udp(53, 4000, b"answer"));
    pass6(&router, LAN, &sent).unwrap();
    let inward = plain(HOP6, HOST6, 64, 58, &icmp_error(kind, code, &sent));
    let outward = plain(HOST6, SERVER6, 64, 58, &icmp_error(kind, code, &answer));
    [fate(pass6(&router, WAN, &inward)), fate(pass6(&router, LAN, &outward))]
}

/// RFC 4890 sections 4.3.1 and 4.3.2: errors about flows, all codes.
#[test]
fn icmpv6_errors_about_flows_pass_whatever_their_code() {
    for (kind, codes) in [(1, 0..8), (2, 0..1), (3, 0..2), (4, 0..3)] {
        for code in codes {
            assert_eq!(transit6(kind, code), [Ok(()), Ok(())], "type {kind} code {code}");
        }
    }
}

/// RFC 4890 sections 4.3.2 to 4.3.5: mobility, link-local messages that want through, errors and
/// messages that nobody has defined, experiments, node information, router renumbering.
#[test]
fn other_icmpv6_messages_do_not_pass_through() {
    let known = [1, 2, 3, 4, 128, 129];
    for kind in (0..=255).filter(|kind| !known.contains(kind)) {
        let dropped = refused("drop.icmp");
        assert_eq!(transit6(kind, 0), [dropped.clone(), dropped], "type {kind}");
    }
}

/// RFC 4890 section 4.4: messages to the router itself, from its own link.
#[test]
fn icmpv6_messages_to_the_router_are_those_of_its_link_and_echo() {
    let router = router6();
    let mut message = vec![0; 24];
    for kind in 0..=255 {
        message[0] = kind;
        let link = plain("fe80::1", "ff02::1", 255, 58, &message);
        let listener = plain("fe80::1", "ff02::16", 1, 58, &message);
        let expected = match kind {
            // Router and neighbour discovery, redirect.
            133..=137 => ["kernel.link-layer", "drop.icmp"],
            // Multicast listeners.
            130..=132 | 143 => ["drop.icmp", "kernel.link-layer"],
            _ => ["other", "other"],
        };
        for (packet, expected) in [link, listener].iter().zip(expected) {
            let fate = fate(pass6(&router, LAN, packet));
            match expected {
                "other" => assert!(
                    matches!(
                        fate.as_ref().err().map(String::as_str),
                        Some("drop.icmp" | "drop.multicast")
                    ),
                    "type {kind}: {fate:?}"
                ),
                expected => assert_eq!(fate, refused(expected), "type {kind}"),
            }
        }
    }
    let ping = plain(HOST6, ROUTER6, 64, 58, &echo(128, 9, b"x"));
    assert_eq!(pass6(&router, LAN, &ping), Err("router.service".to_owned()));
}
