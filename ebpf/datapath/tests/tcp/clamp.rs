//! Lowering the MSS.

use portcullis_datapath::{
    simulation::Bytes,
    tcp::{Options, clamp_mss, mss_limit, options},
};
use portcullis_datapath_abi::{flow::NO_SCALE, nat::MSS_BY_MTU};
use proptest::prelude::*;

use crate::gate::{AT, SYN, Sent, frame};

/// Sum of a TCP segment's words, without a pseudo-header.
fn sum(frame: &Bytes) -> u16 {
    let mut sum = 0_u32;
    for word in frame.0[AT as usize..].chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or_default());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn with_checksum(mut frame: Bytes) -> Bytes {
    let checksum = !sum(&frame);
    frame.0[AT as usize + 16..AT as usize + 18].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(sum(&frame), 0xffff);
    frame
}

proptest! {
    #[test]
    fn only_a_larger_mss_is_lowered_and_the_checksum_stays_right(
        mss: u16, limit in 1..u16::MAX, padding in 0..19_usize, sequence: u32,
    ) {
        let mut options = vec![1; padding];
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
        options.resize(options.len().next_multiple_of(4), 0);
        let sent = Sent { flags: SYN, sequence, window: 1000, ..Sent::default() };
        let before = with_checksum(frame(&sent, &options));
        let mut after = before.clone();
        prop_assert_eq!(clamp_mss(&mut after, AT, limit), Some(()));
        prop_assert_eq!(sum(&after), 0xffff);
        let at = AT as usize + 20 + padding + 2;
        let now = u16::from_be_bytes([after.0[at], after.0[at + 1]]);
        prop_assert_eq!(now, mss.min(limit));
        // Nothing else changed.
        after.0[at..at + 2].copy_from_slice(&mss.to_be_bytes());
        after.0[AT as usize + 16..AT as usize + 18]
            .copy_from_slice(&before.0[AT as usize + 16..AT as usize + 18]);
        prop_assert_eq!(after, before);
    }
}

#[test]
fn a_syn_without_the_option_is_left_alone() {
    let sent = Sent { flags: SYN, ..Sent::default() };
    for options in [&[][..], &[1, 1, 1, 0], &[2, 3, 5, 0], &[3, 3, 7, 0]] {
        let before = with_checksum(frame(&sent, options));
        let mut after = before.clone();
        assert_eq!(clamp_mss(&mut after, AT, 100), Some(()));
        assert_eq!(after, before);
    }
}

proptest! {
    /// However many options stand before them, in whatever order, with paddings between them: all of the 40
    /// bytes are read.
    #[test]
    fn options_are_found_wherever_they_stand(
        before in prop::collection::vec(prop_oneof![Just(vec![1]), Just(vec![4, 2])], 0..34),
        between in prop::collection::vec(prop_oneof![Just(vec![1]), Just(vec![4, 2])], 0..34),
        scale in 0..=14_u8,
    ) {
        let mut list = before.concat();
        list.truncate(33);
        // Not half an option.
        if list.last() == Some(&4) {
            list.pop();
        }
        let mss_at = 20 + list.len() + 2;
        list.extend([2, 4, 5, 180]);
        for filler in between {
            if list.len() + filler.len() <= 37 {
                list.extend(filler);
            }
        }
        list.extend([3, 3, scale]);
        list.resize(list.len().next_multiple_of(4), 0);
        let syn = with_checksum(frame(&Sent { flags: SYN, ..Sent::default() }, &list));
        let found = Options { scale, mss_at: mss_at as u8 };
        prop_assert_eq!(options(&syn, AT), found, "{:?}", list);
        let mut clamped = syn;
        prop_assert_eq!(clamp_mss(&mut clamped, AT, 100), Some(()));
        prop_assert_eq!(sum(&clamped), 0xffff);
        let at = AT as usize + mss_at;
        prop_assert_eq!(&clamped.0[at..at + 2], &100_u16.to_be_bytes());
    }
}

/// What takes the most steps: a padding before each option of two bytes.
#[test]
fn the_most_options_that_a_header_has_room_for_are_read() {
    for tail in [[3, 3, 7, 0].as_slice(), &[2, 4, 5, 180]] {
        let mut list = [1, 4, 2].repeat(12);
        list.extend(tail);
        let syn = with_checksum(frame(&Sent { flags: SYN, ..Sent::default() }, &list));
        let (scale, mss_at) = if tail[0] == 3 { (7, 0) } else { (NO_SCALE, 20 + 36 + 2) };
        assert_eq!(options(&syn, AT), Options { scale, mss_at });
    }
}

#[test]
fn the_limit_is_what_fits_both_ways_and_what_either_zone_says() {
    for (settings, mtus, ipv6, limit) in [
        ((0, 0), (1500, 1492), false, 0),
        ((MSS_BY_MTU, 0), (1500, 1492), false, 1452),
        ((0, MSS_BY_MTU), (1492, 1500), true, 1432),
        ((MSS_BY_MTU, MSS_BY_MTU), (1500, 0), false, 1460),
        ((1300, MSS_BY_MTU), (1500, 1492), false, 1300),
        ((8000, 0), (1500, 1500), false, 1460),
        ((1300, 1200), (1500, 1500), false, 1200),
        ((MSS_BY_MTU, 0), (0, 0), false, 0),
        ((MSS_BY_MTU, 0), (30, 0), false, 0),
        ((1300, 0), (0, 0), false, 1300),
    ] {
        assert_eq!(mss_limit(settings, mtus, ipv6), limit, "{settings:?} {mtus:?} {ipv6}");
    }
}
