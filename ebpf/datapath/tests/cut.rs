//! Datagrams that are cut for a smaller link are whole again when they are put together.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use etherparse::{Ipv4HeaderSlice, PacketBuilder};
use portcullis_datapath::{
    cut::{Cut, HEADERS, plan},
    simulation::Bytes,
};
use proptest::prelude::*;

fn frame(payload: &[u8], word: u16) -> Bytes {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1, 2)
        .write(&mut frame, payload)
        .unwrap();
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    Bytes(frame)
}

fn planned(frame: &Bytes, mtu: u16) -> Option<Cut> {
    let mut cut = Cut::default();
    plan(frame, frame.0.len() as u32 - 14, mtu, &mut cut).then_some(cut)
}

/// The parts as frames.
fn parts(frame: &Bytes, cut: &Cut) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut offset = 0;
    while let Some(part) = cut.part(offset) {
        let mut headers = [0; HEADERS / 2];
        for (word, pair) in headers.iter_mut().zip(frame.0.chunks(2)) {
            *word = u16::from_ne_bytes([pair[0], pair[1]]);
        }
        part.write(&mut headers);
        let mut bytes: Vec<u8> = headers.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let start = HEADERS + usize::from(part.offset);
        bytes.extend(&frame.0[start..start + usize::from(part.length)]);
        parts.push(bytes);
        offset += cut.step;
    }
    parts
}

#[test]
fn what_must_not_or_need_not_be_cut_is_not() {
    let long = [7; 1472];
    assert!(planned(&frame(&long, 0), 1400).is_some());
    assert_eq!(planned(&frame(&long, 0x4000), 1400), None, "must not");
    assert_eq!(planned(&frame(&long, 0), 1500), None, "fits");
    assert_eq!(planned(&frame(&long, 0), 20), None, "no link is that small");
    assert_eq!(planned(&frame(&[7; 20_000], 0), 1500), None, "longer than there is room for");
    let mut options = frame(&long, 0);
    options.0[14] = 0x46;
    assert_eq!(planned(&options, 1400), None);
    let mut ipv6 = frame(&long, 0);
    ipv6.0[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(planned(&ipv6, 1400), None);
}

proptest! {
    #[test]
    fn parts_make_the_whole(
        payload in prop::collection::vec(any::<u8>(), 500..9000),
        mtu in 300_u16..3000,
        place in 0_u16..1000,
        more in any::<bool>(),
    ) {
        let word = place | if more { 0x2000 } else { 0 };
        // A fragment that is not the last has whole units of eight bytes.
        let length = if more { payload.len() & !7 } else { payload.len() };
        let whole = frame(&payload[..length], word);
        let Some(cut) = planned(&whole, mtu) else {
            prop_assert!(length + 28 <= usize::from(mtu) || length + 8 > 2048);
            return Ok(());
        };
        let parts = parts(&whole, &cut);
        let mut again: Vec<u8> = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let ip = Ipv4HeaderSlice::from_slice(&part[14..]).unwrap();
            prop_assert!(part.len() - 14 <= usize::from(mtu));
            prop_assert_eq!(usize::from(ip.total_len()), part.len() - 14);
            prop_assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            prop_assert_eq!(
                usize::from(ip.fragments_offset().value()),
                usize::from(place) + again.len() / 8
            );
            prop_assert_eq!(ip.more_fragments(), more || index + 1 < parts.len());
            prop_assert_eq!(&part[..14], &whole.0[..14]);
            prop_assert_eq!(&part[15..16], &whole.0[15..16]);
            prop_assert_eq!(&part[18..20], &whole.0[18..20], "identification");
            prop_assert_eq!(&part[22..24], &whole.0[22..24], "TTL and protocol");
            prop_assert_eq!(&part[26..34], &whole.0[26..34], "addresses");
            again.extend(&part[34..]);
        }
        prop_assert_eq!(&again[..], &whole.0[34..]);
    }
}
