//! What has passed of a datagram.

use portcullis_datapath_abi::{
    Datagram,
    fragment::{FIRST_PASSED, RANGES, Range},
};

use super::Piece;

/// How a fragment fits to those that have passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fit {
    /// It has bytes that none of them had.
    New,
    /// They had all of its bytes: it was duplicated on the way.
    Contained,
    /// It has some of their bytes and others, or ends where the datagram cannot.
    Overlaps,
    /// There are too many gaps already.
    Scattered,
}

const EMPTY: Range = Range { start: 0, end: 0 };
/// No index.
const NONE: u32 = RANGES as u32;

// Volatile, so that the compiler does not take the way through memory back into registers, see
// `Datagram::search`.

#[inline(always)]
fn write(place: &mut u32, value: u32) {
    // SAFETY: a reference is valid.
    unsafe { core::ptr::from_mut(place).write_volatile(value) }
}

#[inline(always)]
fn read(place: &u32) -> usize {
    // SAFETY: a reference is valid.
    unsafe { core::ptr::from_ref(place).read_volatile() as usize }
}

/// Forgets everything if it is older than `lifetime`.
#[inline(always)]
pub fn expire(datagram: &mut Datagram, now: u32, lifetime: u32) {
    if now.wrapping_sub(datagram.since) >= lifetime {
        datagram.since = now;
        datagram.held = 0;
        datagram.flags = 0;
        datagram.total = 0;
    }
}

/// The first fragment passes.
#[inline(always)]
pub fn begin(datagram: &mut Datagram, piece: &Piece, now: u32) {
    datagram.since = now;
    datagram.source_port = piece.ends.source_port;
    datagram.destination_port = piece.ends.destination_port;
    datagram.protocol = piece.ends.protocol;
    datagram.flags = FIRST_PASSED;
    datagram.total = 0;
    for range in &mut datagram.passed {
        *range = EMPTY;
    }
    let [first, ..] = &mut datagram.passed;
    *first = piece.range();
}

/// Whether anything but `range`, which begins it, has passed.
#[inline(always)]
pub fn is_more_than(datagram: &Datagram, range: Range) -> bool {
    let [first, others @ ..] = &datagram.passed;
    let mut more = first.end != range.end;
    for other in others {
        more |= other.end != 0;
    }
    more
}

/// Whether all of it has passed.
#[inline(always)]
pub fn is_complete(datagram: &Datagram) -> bool {
    // Stretches that touch are one, and the one from the beginning is the first, see `add`.
    let [first, ..] = &datagram.passed;
    datagram.total != 0 && first.end == datagram.total
}

/// Notes that `new` passes, if it fits; `more` if it is not the end of the datagram.
#[inline(always)]
pub fn add(datagram: &mut Datagram, new: Range, more: bool) -> Fit {
    if datagram.total != 0 && new.end > datagram.total {
        return Fit::Overlaps;
    }
    // The stretch that ends where `new` begins, the one that begins where it ends, and a free place; an
    // index beyond the array for none. The stretch from the beginning is always the first: the datagram
    // began with it, and others only ever join it on its right.
    let Datagram { passed, search: [left, right, free, _], .. } = datagram;
    write(left, NONE);
    write(right, NONE);
    write(free, NONE);
    for (index, old) in (0_u32..).zip(passed.iter()) {
        if old.end == 0 {
            write(free, index);
            continue;
        }
        if new.start < old.end && old.start < new.end {
            let contained = new.start >= old.start && new.end <= old.end;
            return if contained { Fit::Contained } else { Fit::Overlaps };
        }
        if !more && old.end > new.end {
            return Fit::Overlaps;
        }
        if old.end == new.start {
            write(left, index);
        }
        if old.start == new.end {
            write(right, index);
        }
    }
    let (left, right, free) = (read(left), read(right), read(free));
    let mut joined = new;
    if let Some(right) = passed.get_mut(right) {
        joined.end = right.end;
        *right = EMPTY;
    }
    let place = if left < RANGES {
        left
    } else if right < RANGES {
        right
    } else {
        free
    };
    let Some(place) = passed.get_mut(place) else {
        return Fit::Scattered;
    };
    if left < RANGES {
        joined.start = place.start;
    }
    *place = joined;
    if !more {
        datagram.total = new.end;
    }
    Fit::New
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fragments::Ends;

    fn begun(first: u16, more: bool) -> Datagram {
        let mut datagram = Datagram::default();
        let piece = Piece {
            key: Default::default(),
            ends: Ends { source_port: 1, destination_port: 2, protocol: 17 },
            offset: 0,
            payload: first,
            more,
            ipv6: false,
        };
        begin(&mut datagram, &piece, 7);
        datagram
    }

    fn range(start: u16, end: u16) -> Range {
        Range { start, end }
    }

    #[test]
    fn a_datagram_in_order_is_one_stretch_and_complete_at_its_end() {
        let mut datagram = begun(1480, true);
        assert!(!is_complete(&datagram));
        assert_eq!(add(&mut datagram, range(1480, 2960), true), Fit::New);
        assert_eq!(datagram.passed[0], range(0, 2960));
        assert_eq!(add(&mut datagram, range(2960, 3001), false), Fit::New);
        assert!(is_complete(&datagram));
    }

    #[test]
    fn what_has_passed_does_not_pass_again() {
        let mut datagram = begun(80, true);
        assert_eq!(add(&mut datagram, range(160, 240), true), Fit::New);
        assert_eq!(add(&mut datagram, range(160, 240), true), Fit::Contained);
        assert_eq!(add(&mut datagram, range(0, 24), true), Fit::Contained);
        assert_eq!(add(&mut datagram, range(72, 120), true), Fit::Overlaps);
        assert_eq!(add(&mut datagram, range(120, 168), true), Fit::Overlaps);
        assert_eq!(add(&mut datagram, range(80, 240), true), Fit::Overlaps);
        assert_eq!(add(&mut datagram, range(80, 300), false), Fit::Overlaps, "over all of it");
        assert_eq!(add(&mut datagram, range(80, 160), true), Fit::New, "the gap is still open");
    }

    #[test]
    fn a_datagram_has_one_end() {
        let mut datagram = begun(80, true);
        assert_eq!(add(&mut datagram, range(160, 200), false), Fit::New);
        assert_eq!(add(&mut datagram, range(200, 280), true), Fit::Overlaps, "behind the end");
        assert_eq!(add(&mut datagram, range(80, 120), false), Fit::Overlaps, "another end");
        assert_eq!(add(&mut datagram, range(80, 160), true), Fit::New);
        assert!(is_complete(&datagram));
    }

    #[test]
    fn more_gaps_than_there_is_room_for_are_refused() {
        let mut datagram = begun(8, true);
        for n in 1..RANGES as u16 {
            assert_eq!(add(&mut datagram, range(n * 16, n * 16 + 8), true), Fit::New);
        }
        let n = RANGES as u16;
        assert_eq!(add(&mut datagram, range(n * 16, n * 16 + 8), true), Fit::Scattered);
        assert_eq!(add(&mut datagram, range(8, 16), true), Fit::New, "closing one makes room");
        assert_eq!(add(&mut datagram, range(n * 16, n * 16 + 8), true), Fit::New);
    }

    proptest! {
        /// Against a plain set of bytes: in any order, with repetitions and overlaps.
        #[test]
        fn equals_a_set_of_bytes(
            first in 1_u16..6,
            pieces in prop::collection::vec((0_u16..40, 1_u16..6, any::<bool>()), 0..40),
        ) {
            let mut datagram = begun(first * 8, true);
            let mut bytes: std::collections::BTreeSet<u16> = (0..first * 8).collect();
            let mut total = None;
            for (start, length, more) in pieces {
                let new = range(start * 8, (start + length) * 8);
                let mut hit = (new.start..new.end).filter(|byte| bytes.contains(byte)).count();
                let beyond = total.is_some_and(|total| new.end > total)
                    || !more && bytes.last().is_some_and(|last| *last >= new.end);
                if beyond {
                    hit = hit.max(1);
                }
                let fit = add(&mut datagram, new, more);
                prop_assert_eq!(fit == Fit::New, hit == 0, "{:?} {:?}", new, fit);
                if fit == Fit::New {
                    bytes.extend(new.start..new.end);
                    if !more {
                        total = Some(new.end);
                    }
                }
                let whole = total.is_some_and(|total| bytes.len() == usize::from(total));
                prop_assert_eq!(is_complete(&datagram), whole);
                let noted: usize =
                    datagram.passed.iter().map(|range| usize::from(range.end - range.start)).sum();
                prop_assert_eq!(noted, bytes.len());
            }
        }
    }
}
