//! What holds for all packets.

use std::net::Ipv4Addr;

use portcullis_datapath::{Verdict, simulation::Bytes};
use proptest::{collection::vec, prelude::*};

use crate::frames::*;

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
}
