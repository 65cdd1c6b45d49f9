//! Fragments in any order, from the first decision to the last byte, on the host.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use std::collections::VecDeque;

use portcullis_datapath::{
    fragments::{Ends, Piece, Place, place},
    hold::Held,
    simulation::{Bytes, Simulation},
};
use portcullis_datapath_abi::{
    Counter, FragmentKey,
    fragment::HELD_COLUMNS,
    policy::{FRAGMENT_TICKS, fragment_flags},
};
use proptest::prelude::*;

const ENDS: Ends = Ends { source_port: 4000, destination_port: 53, protocol: 17 };
const FULL: u32 = 1514;

fn key(source: u32, id: u32, ipv6: bool) -> FragmentKey {
    FragmentKey {
        source: [0, 0, 0, source],
        destination: [0, 0, 0, 99],
        id,
        protocol: if ipv6 { 0 } else { 17 },
        zone: 1,
        reserved: 0,
    }
}

/// A datagram of `length` bytes in fragments of `size` bytes.
fn cut(key: FragmentKey, length: u16, size: u16, ipv6: bool) -> Vec<Piece> {
    (0..length)
        .step_by(usize::from(size))
        .map(|offset| Piece {
            key,
            ends: if offset == 0 { ENDS } else { Ends::default() },
            offset,
            payload: size.min(length - offset),
            more: size < length - offset,
            ipv6,
        })
        .collect()
}

/// Places a full-sized fragment; and how many were waiting for it.
fn placed(router: &Simulation, piece: &Piece) -> (Place, u32) {
    let mut held = Held::default();
    let place = place(router, piece, FULL, &mut held);
    (place, held.columns.count_ones())
}

/// What the hook does with fragments that arrive in this order: which ones pass, in which order, and
/// which are dropped. Frames carry the number of their piece.
fn run(router: &Simulation, pieces: &[Piece]) -> (Vec<usize>, Vec<(usize, Counter)>) {
    let frame = |index: usize| {
        let mut bytes = index.to_le_bytes().to_vec();
        bytes.resize(FULL as usize, 0);
        Bytes(bytes)
    };
    let (mut passed, mut dropped) = (Vec::new(), Vec::new());
    for index in 0..pieces.len() {
        let mut queue = VecDeque::from([frame(index)]);
        let mut turns = 0;
        while let Some(bytes) = queue.pop_front() {
            turns += 1;
            assert!(turns < 200, "frames go round and round");
            let number = usize::from_le_bytes(bytes.0[..8].try_into().unwrap());
            let mut held = Held::default();
            match place(router, &pieces[number], FULL, &mut held) {
                Place::Of(ends) => {
                    assert_eq!(ends, ENDS);
                    passed.push(number);
                }
                Place::Early(slot) => router.fragments.hold(slot, &bytes),
                Place::Refused(reason) => dropped.push((number, reason)),
            }
            queue.extend(router.fragments.release(held));
        }
    }
    (passed, dropped)
}

#[test]
fn in_order_nothing_is_held_and_nothing_is_kept() {
    let router = Simulation::default();
    let pieces = cut(key(1, 1, false), 65_515, 1480, false);
    let (passed, dropped) = run(&router, &pieces);
    assert_eq!(passed, (0..pieces.len()).collect::<Vec<_>>());
    assert!(dropped.is_empty());
    assert_eq!(router.fragments.datagrams(), 0, "forgotten with its last fragment");
}

#[test]
fn the_largest_datagram_passes_in_reverse_order() {
    for (ipv6, size, length) in [(false, 1480, 65_515), (true, 1232, 65_528), (true, 1448, 65_535)]
    {
        let router = Simulation::default();
        let mut pieces = cut(key(1, 1, ipv6), length, size, ipv6);
        pieces.reverse();
        let (passed, dropped) = run(&router, &pieces);
        assert_eq!(passed.len(), pieces.len(), "{dropped:?}");
        assert_eq!(passed[0], pieces.len() - 1, "the first fragment first");
        assert_eq!((router.fragments.datagrams(), router.fragments.held()), (0, 0));
    }
}

#[test]
fn what_comes_between_the_first_fragment_and_the_held_ones_passes() {
    // Held frames come in again behind what has arrived meanwhile; that must not be held for ever.
    for ipv6 in [false, true] {
        let router = Simulation::default();
        let pieces = cut(key(1, 1, ipv6), 4000, 1000, ipv6);
        assert!(matches!(placed(&router, &pieces[1]).0, Place::Early(_)));
        assert_eq!(placed(&router, &pieces[0]), (Place::Of(ENDS), 1));
        for piece in [&pieces[2], &pieces[1], &pieces[3]] {
            assert_eq!(placed(&router, piece), (Place::Of(ENDS), 0));
        }
        assert_eq!(router.fragments.datagrams(), 0);
    }
}

#[test]
fn a_source_fills_its_own_row_only() {
    let router = Simulation::default();
    let victim = cut(key(7, 1, false), 2000, 1480, false);
    assert!(matches!(placed(&router, &victim[1]).0, Place::Early(_)));
    let flood = |source: u32| {
        for id in 0..2 * HELD_COLUMNS {
            let piece = cut(key(source, id, false), 2000, 1480, false)[1];
            assert!(matches!(placed(&router, &piece).0, Place::Early(_)));
        }
    };
    flood(8);
    assert!(router.fragments.held() <= 1 + HELD_COLUMNS as usize, "one row, and the victim's");
    let row = |source| match placed(&router, &cut(key(source, 9999, false), 2000, 1480, false)[1]).0
    {
        Place::Early(slot) => slot.0 / HELD_COLUMNS,
        other => panic!("{other:?}"),
    };
    let (mine, others) = (row(7), row(8));
    let released = placed(&router, &victim[0]).1 == 1;
    assert_eq!(released, mine != others, "lost only to one that shares the row");
}

#[test]
fn overlaps_do_not_pass_and_condemn_an_ipv6_datagram() {
    for ipv6 in [false, true] {
        let router = Simulation::default();
        let whole = cut(key(1, 1, ipv6), 3000, 1000, ipv6);
        let overlapping = Piece { offset: 992, payload: 1000, ..whole[1] };
        let (passed, dropped) =
            run(&router, &[whole[0], overlapping, whole[0], whole[1], whole[1], whole[2]]);
        if ipv6 {
            assert_eq!(passed, [0], "RFC 5722: no more of it");
            assert!(dropped.iter().all(|(_, reason)| *reason == Counter::DropFragmentOverlap));
        } else {
            assert_eq!(passed, [0, 2, 3, 5]);
            assert_eq!(dropped.len(), 2, "{dropped:?}");
        }
    }
}

#[test]
fn a_second_first_fragment_is_an_overlap_in_ipv6_and_a_new_datagram_in_ipv4() {
    for ipv6 in [false, true] {
        let router = Simulation::default();
        let whole = cut(key(1, 1, ipv6), 3000, 1000, ipv6);
        let (passed, _) =
            run(&router, &[whole[0], whole[0], whole[1], whole[0], whole[1], whole[2]]);
        assert_eq!(passed, if ipv6 { vec![0, 1, 2] } else { vec![0, 1, 2, 3, 4, 5] });
    }
}

#[test]
fn impossible_fragments_are_malformed() {
    let router = Simulation::default();
    let piece = cut(key(1, 1, false), 3000, 1000, false)[1];
    for (why, broken) in [
        ("no multiple of eight", Piece { payload: 1001, ..piece }),
        ("empty", Piece { payload: 0, ..piece }),
        ("ping of death", Piece { offset: 65_504, payload: 100, more: false, ..piece }),
    ] {
        assert_eq!(placed(&router, &broken).0, Place::Refused(Counter::DropMalformed), "{why}");
    }
}

#[test]
fn how_long_fragments_are_waited_for_is_configured() {
    let mut router = Simulation::default();
    let pieces = cut(key(1, 1, false), 3000, 1000, false);
    for ticks in [14, 112] {
        router.config.flags = fragment_flags(ticks);
        for (later, waiting) in [(ticks - 1, 1), (ticks, 0)] {
            let key = key(ticks, later, false);
            let pieces = pieces.clone().into_iter().map(|piece| Piece { key, ..piece });
            let pieces: Vec<_> = pieces.collect();
            assert!(matches!(placed(&router, &pieces[1]).0, Place::Early(_)));
            router.now.set(router.now.get() + later);
            assert_eq!(placed(&router, &pieces[0]), (Place::Of(ENDS), waiting), "{ticks} {later}");
        }
    }
}

#[test]
fn what_waits_too_long_is_forgotten() {
    let router = Simulation::default();
    let pieces = cut(key(1, 1, false), 3000, 1000, false);
    assert!(matches!(placed(&router, &pieces[1]).0, Place::Early(_)));
    router.now.set(router.now.get() + FRAGMENT_TICKS);
    assert_eq!(placed(&router, &pieces[0]), (Place::Of(ENDS), 0), "nothing to wait for");
    router.now.set(router.now.get() + FRAGMENT_TICKS);
    assert!(matches!(placed(&router, &pieces[1]).0, Place::Early(_)), "not the same datagram");
}

#[test]
fn frames_that_cannot_be_held_are_dropped() {
    let router = Simulation::default();
    let later = cut(key(1, 1, false), 18_000, 8992, false)[1];
    assert_eq!(
        place(&router, &later, 9006, &mut Held::default()),
        Place::Refused(Counter::DropFragment)
    );
    assert_eq!(
        place(&router, &later, 0, &mut Held::default()),
        Place::Refused(Counter::DropFragment)
    );
}

#[test]
fn datagrams_with_the_same_identification_from_two_hosts_are_two() {
    let router = Simulation::default();
    let (a, b) =
        (cut(key(1, 1, false), 2000, 1480, false), cut(key(2, 1, false), 2000, 1480, false));
    let (passed, dropped) = run(&router, &[a[0], b[1], a[1], b[0]]);
    assert_eq!((passed, dropped), (vec![0, 2, 3, 1], vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each fragment of each datagram passes exactly once, and none before its first one.
    #[test]
    fn any_order_passes_whole(
        order in Just((0..45_usize + 12).collect::<Vec<_>>()).prop_shuffle(),
        ipv6 in any::<bool>(),
    ) {
        let router = Simulation::default();
        let mut all = cut(key(1, 1, ipv6), 65_515, 1480, ipv6);
        all.extend(cut(key(1, 2, ipv6), 17_000, 1480, ipv6));
        prop_assert_eq!(all.len(), order.len());
        let pieces: Vec<_> = order.iter().map(|index| all[*index]).collect();
        let (passed, dropped) = run(&router, &pieces);
        prop_assert!(dropped.is_empty(), "{:?}", dropped);
        let mut sorted = passed.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..all.len()).collect::<Vec<_>>());
        for id in [1, 2] {
            let first = passed.iter().find(|number| pieces[**number].key.id == id).unwrap();
            prop_assert_eq!(pieces[*first].offset, 0);
        }
        prop_assert_eq!((router.fragments.datagrams(), router.fragments.held()), (0, 0));
    }

    /// Whatever comes, no byte of a datagram passes twice while its first fragment stands.
    #[test]
    fn nothing_passes_twice(
        parts in prop::collection::vec((1_u16..40, 1_u16..8, any::<bool>()), 1..40),
        ipv6 in any::<bool>(),
    ) {
        let router = Simulation::default();
        let first = Piece {
            key: key(1, 1, ipv6), ends: ENDS, offset: 0, payload: 8, more: true, ipv6,
        };
        let mut pieces = vec![first];
        pieces.extend(parts.iter().map(|(offset, payload, more)| Piece {
            offset: offset * 8,
            payload: payload * 8,
            more: *more,
            ends: Ends::default(),
            ..first
        }));
        let (passed, _) = run(&router, &pieces);
        let mut seen = std::collections::BTreeSet::new();
        // A complete datagram is forgotten; what comes then waits for another first one.
        for number in passed {
            let piece = pieces[number];
            for byte in piece.offset..piece.offset + piece.payload {
                prop_assert!(seen.insert(byte), "byte {} of piece {}", byte, number);
            }
        }
    }
}
