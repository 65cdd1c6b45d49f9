//! What holds for all packets.

use std::net::Ipv4Addr;

use portcullis_datapath::{Arrival, Hook, Verdict, simulation::Bytes};
use proptest::{collection::vec, prelude::*};

use crate::{
    frames::*,
    ipv6::{HOST6, SERVER6, ethernet6, plain, router6},
};

fn transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let payload = || vec(any::<u8>(), 0..100);
    prop_oneof![
        (1_u16.., any::<u16>(), payload()).prop_map(|(s, d, p)| (17, udp(s, d, &p))),
        (1_u16.., any::<u16>(), payload()).prop_map(|(s, d, p)| (6, tcp(s, d, 2, &p))),
        (any::<u16>(), payload()).prop_map(|(id, p)| (1, echo(8, id, &p))),
    ]
}

/// The answer to a datagram: ends exchanged, checksums anew.
fn answer(ip: &[u8]) -> Vec<u8> {
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    let mut transport = ip[20..].to_vec();
    let protocol = ip[9];
    if protocol == 1 {
        transport[0] = 0;
    } else {
        transport[0..2].copy_from_slice(&ip[22..24]);
        transport[2..4].copy_from_slice(&ip[20..22]);
    }
    let at = checksum_offset(protocol);
    transport[at..at + 2].copy_from_slice(&[0, 0]);
    datagram(address(16), address(12), protocol, 64, &transport)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Translated out and back, a packet is what it was; all checksums on the way are those of a
    /// full computation (`pass` checks them).
    #[test]
    fn translation_and_its_reverse_are_identity(
        (protocol, transport) in transport(),
        host in 2_u8..255,
        server in any::<[u8; 3]>(),
        ttl in 2_u8..,
        seed in any::<u32>(),
    ) {
        let host = Ipv4Addr::new(192, 168, 77, host);
        let server = Ipv4Addr::new(9, server[0], server[1], server[2]);
        let router = router();
        router.seed.set(seed);
        let sent = datagram(host, server, protocol, ttl, &transport);
        let out = pass(&router, LAN, &sent).unwrap();
        prop_assert_eq!(out[8], ttl - 1);
        let reply = answer(&out);
        let back = pass(&router, WAN, &reply).unwrap();
        // What the host would get if the server had answered it directly.
        let mut direct = answer(&sent);
        direct[8] = 63;
        direct[10..12].copy_from_slice(&back[10..12]);
        prop_assert_eq!(back, direct);
    }

    /// A UDP checksum of zero means "none" and stays.
    #[test]
    fn no_udp_checksum_stays_none(port in 1_u16.., payload in vec(any::<u8>(), 0..64)) {
        let router = router();
        let mut sent = datagram(HOST, SERVER, 17, 64, &udp(port, 53, &payload));
        sent[26..28].copy_from_slice(&[0, 0]);
        let out = pass(&router, LAN, &sent).unwrap();
        prop_assert_eq!(&out[26..28], &[0, 0]);
    }

    /// Whatever arrives: no panic, and what is not forwarded or translated is not changed; only a
    /// packet of a flow ever is.
    #[test]
    fn arbitrary_frames_change_nothing_without_a_flow(
        bytes in vec(any::<u8>(), 0..200),
        lan in any::<bool>(),
        plausible in any::<bool>(),
    ) {
        let router = router();
        let mut bytes = bytes;
        if plausible && bytes.len() > 34 {
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            let length = (bytes.len() - 14) as u16;
            bytes[16..18].copy_from_slice(&length.to_be_bytes());
            bytes[23] = [1, 6, 17][usize::from(bytes[23]) % 3];
        }
        let mut frame = Bytes(bytes);
        let before = frame.clone();
        let verdict = router.arrive(&frame, &arrival(if lan { LAN } else { WAN }, &frame));
        match verdict {
            Verdict::Forward(..) | Verdict::Translate(..) => {
                prop_assert!(!router.flows4().is_empty() || !router.flows6().is_empty());
                prop_assert!(frame.carry_out(&verdict));
                prop_assert_eq!(frame.0.len(), before.0.len());
            }
            _ => {
                frame.carry_out(&verdict);
                prop_assert_eq!(frame, before);
            }
        }
    }

    /// Packets that were good once, of both families and through both interfaces and hooks, with
    /// bytes changed: no panic, nothing changes without a flow, and no record is lost.
    #[test]
    fn damaged_packets_change_nothing_without_a_flow(
        changes in vec((0_usize..8, 0_usize..120, any::<u8>(), any::<bool>(), any::<bool>()), 1..12),
    ) {
        let router = router6();
        for (which, at, value, lan, xdp) in changes {
            let mut frame = sample(which);
            let length = frame.0.len();
            // Behind the Ethernet header, and not always.
            if at > 14 && at < length {
                frame.0[at] = value;
            }
            let before = frame.clone();
            let hook = if xdp { Hook::Xdp } else { Hook::Tcx };
            let arrival = Arrival { hook, ..arrival(if lan { LAN } else { WAN }, &frame) };
            let verdict = router.arrive(&frame, &arrival);
            prop_assert_eq!(&frame, &before, "decisions change nothing");
            match verdict {
                Verdict::Forward(..) | Verdict::Translate(..) => {
                    prop_assert!(frame.carry_out(&verdict));
                    prop_assert_eq!(frame.0.len(), length);
                }
                _ => prop_assert!(matches!(verdict, Verdict::Kernel(_)) || !frame.carry_out(&verdict)),
            }
        }
        router.flows.clear_gone();
        prop_assert_eq!(router.flows.live().len(), router.flows.in_use());
    }
}

/// A good frame.
fn sample(which: usize) -> Bytes {
    let six =
        |protocol, transport: &[u8]| ethernet6(&plain(HOST6, SERVER6, 64, protocol, transport));
    let four =
        |protocol, transport: &[u8]| ethernet(&datagram(HOST, SERVER, protocol, 64, transport));
    match which {
        0 => four(17, &udp(4000, 53, b"query")),
        1 => four(6, &tcp(4000, 80, 2, b"")),
        2 => four(1, &echo(8, 9, b"ping")),
        3 => six(17, &udp(4000, 53, b"query")),
        4 => six(6, &tcp(4000, 80, 2, b"")),
        5 => six(58, &echo(128, 9, b"ping")),
        6 => {
            let quoted = plain(HOST6, SERVER6, 60, 17, &udp(4000, 53, b"query"));
            ethernet6(&plain(SERVER6, HOST6, 64, 58, &icmp_error(2, 0, &quoted)))
        }
        _ => {
            let quoted = datagram(OUTSIDE, SERVER, 17, 60, &udp(4000, 53, b"query"));
            ethernet(&datagram(HOP, OUTSIDE, 1, 64, &icmp_error(11, 0, &quoted)))
        }
    }
}
