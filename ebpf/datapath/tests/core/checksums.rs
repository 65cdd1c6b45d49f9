//! Checksums are changed by differences; whatever was changed, they equal a full computation. (Of plain
//! packets `properties` shows it.)

use portcullis_datapath_abi::nat::{MSS_BY_MTU, mss_flags};
use proptest::{collection::vec, prelude::*};

use crate::{
    frames::*,
    ipv6::{HOST6, SERVER6, ethernet6, plain, router6},
};

/// A transport header with payload: protocol, bytes.
fn transport(longest: usize) -> impl Strategy<Value = (u8, Vec<u8>)> {
    let payload = move || vec(any::<u8>(), 0..longest);
    prop_oneof![
        (1_u16.., any::<u16>(), payload()).prop_map(|(s, d, p)| (17, udp(s, d, &p))),
        (1_u16.., any::<u16>(), payload()).prop_map(|(s, d, p)| (6, tcp(s, d, 2, &p))),
        (any::<u16>(), payload()).prop_map(|(id, p)| (1, echo(8, id, &p))),
    ]
}

/// A SYN with padding before its MSS, which may so stand at an odd place.
fn syn(mss: u16, padding: usize) -> Vec<u8> {
    let mut bytes = tcp(4000, 80, 2, b"");
    let mut options = vec![1; padding];
    options.extend([2, 4]);
    options.extend(mss.to_be_bytes());
    options.resize(options.len().next_multiple_of(4), 0);
    bytes[12] = ((20 + options.len()) as u8 / 4) << 4;
    bytes.extend(options);
    bytes
}

/// The MSS of a SYN made by [`syn`].
fn mss_of(transport: &[u8], padding: usize) -> u16 {
    u16::from_be_bytes([transport[22 + padding], transport[23 + padding]])
}

/// A datagram in fragments, cut at these multiples of eight bytes of its payload.
fn fragments(whole: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let payload = &whole[20..];
    let mut places: Vec<usize> =
        cuts.iter().map(|cut| cut * 8).filter(|cut| *cut >= 40 && *cut < payload.len()).collect();
    places.sort_unstable();
    places.dedup();
    places.insert(0, 0);
    places.push(payload.len());
    places
        .windows(2)
        .map(|range| {
            let mut ip = whole[..20].to_vec();
            ip.extend(&payload[range[0]..range[1]]);
            let length = ip.len() as u16;
            ip[2..4].copy_from_slice(&length.to_be_bytes());
            let more = if range[1] < payload.len() { 0x2000 } else { 0 };
            ip[6..8].copy_from_slice(&(more | (range[0] / 8) as u16).to_be_bytes());
            seal(&mut ip);
            ip
        })
        .collect()
}

/// Sets the checksum of the IPv4 header.
fn seal(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let checksum = !sum(&ip[..20]);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Translated and with its MSS lowered, in one go.
    #[test]
    fn a_syn_leaves_with_a_right_checksum(
        mss: u16, padding in 0_usize..8, mtu in 576_u16..1500, port in 1_u16..,
    ) {
        let mut router = router();
        router.zones.get_mut(&WAN_ZONE).unwrap().flags |= mss_flags(MSS_BY_MTU);
        router.default_route.as_mut().unwrap().mtu = mtu;
        let mut segment = syn(mss, padding);
        segment[0..2].copy_from_slice(&port.to_be_bytes());
        let out = pass(&router, LAN, &datagram(HOST, SERVER, 6, 64, &segment)).unwrap();
        prop_assert_eq!(&out[12..16], OUTSIDE.octets());
        prop_assert_eq!(mss_of(&out[20..], padding), mss.min(mtu - 40));
    }

    /// The same over IPv6, where nothing else changes.
    #[test]
    fn a_syn_over_ipv6_leaves_with_a_right_checksum(
        mss: u16, padding in 0_usize..8, mtu in 1280_u16..1500,
    ) {
        let mut router = router6();
        router.zones.get_mut(&WAN_ZONE).unwrap().flags |= mss_flags(MSS_BY_MTU);
        router.default_route6.as_mut().unwrap().mtu = mtu;
        let sent = plain(HOST6, SERVER6, 64, 6, &syn(mss, padding));
        let mut frame = ethernet6(&sent);
        let verdict = router.arrive(&frame, &arrival(LAN, &frame));
        prop_assert!(frame.carry_out(&verdict), "{:?}", verdict);
        let out = &frame.0[14..];
        let expected = mss.min(mtu - 60);
        prop_assert_eq!(mss_of(&out[40..], padding), expected);
        // Made anew with that MSS, it is the same packet.
        prop_assert_eq!(out, plain(HOST6, SERVER6, 63, 6, &syn(expected, padding)));
    }

    /// The fragments of a translated datagram are those of the datagram translated whole.
    #[test]
    fn fragments_make_a_datagram_with_a_right_checksum(
        (protocol, transport) in transport(1400),
        cuts in vec(5_usize..170, 1..4),
        seed: u32,
    ) {
        let router = router();
        router.seed.set(seed);
        let whole = datagram(HOST, SERVER, protocol, 64, &transport);
        let mut again: Vec<u8> = Vec::new();
        for fragment in fragments(&whole, &cuts) {
            let mut frame = ethernet(&fragment);
            let verdict = router.arrive(&frame, &arrival(LAN, &frame));
            prop_assert!(frame.carry_out(&verdict), "{:?}", verdict);
            let out = &frame.0[14..];
            prop_assert_eq!(sum(&out[..20]), 0xffff);
            prop_assert_eq!(out[8], 63);
            if again.is_empty() {
                again.extend(&out[..20]);
            }
            again.extend(&out[20..]);
        }
        let length = again.len() as u16;
        again[2..4].copy_from_slice(&length.to_be_bytes());
        again[6..8].fill(0);
        seal(&mut again);
        prop_assert_eq!(again.len(), whole.len());
        assert_correct(&again);
    }

    /// An error: its own checksum, those of the header that it quotes, and, if all of it is quoted, of
    /// what that carries; which is what the host sent.
    #[test]
    fn errors_come_back_with_all_checksums_right(
        (protocol, transport) in transport(300),
        port_is_taken in any::<bool>(),
        kept in 28_usize..400,
        kind in prop_oneof![Just(3_u8), Just(11), Just(12)],
        ttl in 1_u8..,
        seed: u32,
    ) {
        let router = router();
        router.seed.set(seed);
        let sent = datagram(HOST, SERVER, protocol, 64, &transport);
        if port_is_taken {
            // By another host, so that this one's port or query id is translated too.
            let other = std::net::Ipv4Addr::new(192, 168, 77, 101);
            pass(&router, LAN, &datagram(other, SERVER, protocol, 64, &transport)).unwrap();
        }
        let mut quoted = pass(&router, LAN, &sent).unwrap();
        // As it arrived at the hop that says so.
        quoted[8] = ttl;
        seal(&mut quoted);
        let kept = kept.min(quoted.len());
        let error = datagram(HOP, OUTSIDE, 1, 60, &icmp_error(kind, 0, &quoted[..kept]));
        let back = pass(&router, WAN, &error).unwrap();
        let inner = &back[28..];
        prop_assert_eq!(sum(&inner[..20]), 0xffff);
        let mut expected = sent.clone();
        expected[8] = ttl;
        seal(&mut expected);
        if kept == quoted.len() {
            assert_correct(inner);
            prop_assert_eq!(inner, expected);
        } else {
            prop_assert_eq!(&inner[..28], &expected[..28]);
        }
    }
}
