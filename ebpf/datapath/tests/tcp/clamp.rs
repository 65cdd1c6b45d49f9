//! Lowering the MSS.

use portcullis_datapath::{
    simulation::Bytes,
    tcp::{Options, clamp_mss, mss_limit, options},
};
use portcullis_datapath_abi::nat::MSS_BY_MTU;
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

/// Sixteen options of two bytes and a scale behind them: more than are looked at. The window then counts as
/// the largest that it may be, so that nothing honest is dropped, and the MSS stays.
#[test]
fn more_options_than_steps_count_as_the_largest_scale() {
    let sent = Sent { flags: SYN, ..Sent::default() };
    let mut many = [4, 2].repeat(16);
    many.extend([2, 4, 5, 180, 1, 3, 3, 7]);
    let before = with_checksum(frame(&sent, &many));
    assert_eq!(options(&before, AT), Options { scale: 14, mss_at: 0 });
    let mut after = before.clone();
    assert_eq!(clamp_mss(&mut after, AT, 100), Some(()));
    assert_eq!(after, before);
    // Padding is no option: it is taken in pairs.
    let mut padded = vec![1; 12];
    padded.extend([2, 4, 5, 180, 1, 3, 3, 7]);
    let padded = with_checksum(frame(&sent, &padded));
    assert_eq!(options(&padded, AT), Options { scale: 7, mss_at: 20 + 12 + 2 });
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
