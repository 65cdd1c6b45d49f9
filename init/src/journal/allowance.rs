//! How much each writer may add to the journal: one that floods it must neither wash away what the
//! others said, nor wear out the disk.

use std::time::Duration;

/// Bytes that may come at once: several times what a kernel says at its start.
const BURST: u64 = 1 << 20;

/// Bytes a second in the long run: with it the journal on the disk reaches back eight minutes at
/// least, whatever happens.
const RATE: u64 = 32 << 10;

/// After a flood nothing is taken until so many bytes are free again, so that what is taken hangs
/// together, and what is said about the rest is not a flood itself.
const REOPEN: u64 = 64 << 10;

/// What one writer may add.
#[derive(Debug)]
pub(super) struct Allowance {
    free: u64,
    at: Duration,
    closed: bool,
    refused: u64,
}

impl Allowance {
    /// That of a writer who has said nothing yet, at time `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self { free: BURST, at: now, closed: false, refused: 0 }
    }

    /// Takes `bytes` at time `now`, if they are free; then the number of records that were refused
    /// since the last that was not.
    pub(super) fn take(&mut self, now: Duration, bytes: usize) -> Option<u64> {
        let passed = now.saturating_sub(self.at);
        let more = passed.as_millis().saturating_mul(RATE.into()) / 1000;
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        // Time that is too short for a byte is not lost.
        if more > 0 {
            self.at = now;
            self.free = self.free.saturating_add(more).min(BURST);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes > self.free || (self.closed && self.free < REOPEN) {
            self.closed = true;
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        self.closed = false;
        self.free -= bytes;
        Some(std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_burst_is_taken_and_a_flood_is_counted() {
        let mut allowance = Allowance::new(ms(0));
        for _ in 0..1024 {
            assert_eq!(allowance.take(ms(0), 1024), Some(0));
        }
        for _ in 0..500 {
            assert_eq!(allowance.take(ms(1), 1024), None);
        }
        // A second frees enough for a record, but not for going on.
        assert_eq!(allowance.take(ms(1001), 1024), None);
        assert_eq!(allowance.take(ms(2002), 1024), Some(501));
        assert_eq!(allowance.take(ms(2003), 1024), Some(0));
    }

    proptest! {
        /// However it comes: never more than the burst and the rate; and a flood does not lock out.
        #[test]
        fn what_is_taken_is_bounded(steps in proptest::collection::vec((0_u64..3000, 1_usize..50_000), 1..300)) {
            let mut allowance = Allowance::new(ms(0));
            let (mut now, mut taken, mut told, mut refused) = (0, 0, 0, 0);
            for (pause, bytes) in steps {
                now += pause;
                match allowance.take(ms(now), bytes) {
                    Some(count) => {
                        taken += bytes as u64;
                        told += count;
                    }
                    None => refused += 1,
                }
                prop_assert!(taken <= BURST + now * RATE / 1000);
            }
            prop_assert_eq!(allowance.take(ms(now + 3000), 1), Some(refused - told));
        }
    }
}
