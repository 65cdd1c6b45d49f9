//! Rates by the generic cell rate algorithm (ITU-T I.371): one word of state, changed by one atomic
//! operation, no timer.

use core::sync::atomic::Ordering;

use portcullis_datapath_abi::guard::Limit;
use portcullis_flow_table::AtomicU64;

/// How often the state is tried to be changed while other CPUs change it too. After that the packet
/// passes uncounted.
const ATTEMPTS: u32 = 4;

/// Whether a packet at the time `now` keeps within `limit`; counts it if so. The cell holds the time
/// at which the next packet is due, and 0 at first.
#[inline(always)]
pub fn conforms(cell: &AtomicU64, now: u64, limit: &Limit) -> bool {
    for _ in 0..ATTEMPTS {
        let due = cell.load(Ordering::Relaxed);
        if due > now.wrapping_add(limit.tolerance_ns) {
            return false;
        }
        let next = if due > now { due } else { now }.wrapping_add(limit.interval_ns);
        if cell.compare_exchange(due, next, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
    }
    true
}

/// Takes back a packet that [`conforms`] has counted.
#[inline(always)]
pub(super) fn take_back(cell: &AtomicU64, limit: &Limit) {
    for _ in 0..ATTEMPTS {
        let due = cell.load(Ordering::Relaxed);
        // Less in a cell that was made anew meanwhile.
        let Some(before) = due.checked_sub(limit.interval_ns) else {
            return;
        };
        if cell.compare_exchange(due, before, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limit = Limit::new(10, 5);
        let cell = AtomicU64::new(0);
        let passed = (0..100).filter(|_| conforms(&cell, SECOND, &limit)).count();
        assert_eq!(passed, 6, "the one that is due, and five ahead of time");
        assert!(!conforms(&cell, SECOND + SECOND / 10 - 1, &limit));
        assert!(conforms(&cell, SECOND + SECOND / 10, &limit));
        assert!(!conforms(&cell, SECOND + SECOND / 10, &limit));
    }

    #[test]
    fn over_a_long_time_the_rate_is_kept_whatever_comes() {
        let limit = Limit::new(100, 20);
        let cell = AtomicU64::new(0);
        let start = 5 * SECOND;
        // 1000 packets a second for ten seconds.
        let passed =
            (0..10_000).filter(|n| conforms(&cell, start + n * SECOND / 1000, &limit)).count();
        assert!((1000..=1022).contains(&passed), "{passed}");
    }

    #[test]
    fn what_is_taken_back_was_never_there() {
        let limit = Limit::new(10, 5);
        let cell = AtomicU64::new(0);
        for _ in 0..100 {
            assert!(conforms(&cell, SECOND, &limit));
            take_back(&cell, &limit);
        }
        let passed = (0..100).filter(|_| conforms(&cell, SECOND, &limit)).count();
        assert_eq!(passed, 6);
        let new = AtomicU64::new(0);
        take_back(&new, &limit);
        assert_eq!(new.into_inner(), 0);
    }

    #[test]
    fn a_pause_gives_the_burst_back_but_no_more() {
        let limit = Limit::new(10, 5);
        let cell = AtomicU64::new(0);
        while conforms(&cell, SECOND, &limit) {}
        let passed = (0..100).filter(|_| conforms(&cell, 1000 * SECOND, &limit)).count();
        assert_eq!(passed, 6);
    }
}
