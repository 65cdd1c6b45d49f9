//! Time as the core sees it.

/// One moment on both clocks.
///
/// Leases run on the monotonic clock, so that a wall clock set right by NTP (or set wrong by
/// anybody) neither ends nor prolongs them; only what is written to disk has wall-clock stamps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// Wall clock, seconds since the Unix epoch.
    pub unix_s: u64,
    /// Monotonic clock, milliseconds since an arbitrary moment; negative values are before it.
    pub up_ms: i64,
}

impl Now {
    /// The wall-clock second at which the monotonic clock shows `up_ms`.
    pub fn unix_at(self, up_ms: i64) -> u64 {
        let ahead = up_ms.saturating_sub(self.up_ms).div_euclid(1000);
        self.unix_s.saturating_add_signed(ahead)
    }

    /// Wall clock minus monotonic clock, milliseconds: constant unless somebody sets the clock.
    pub fn offset_ms(self) -> i64 {
        i64::try_from(self.unix_s).unwrap_or(i64::MAX).saturating_mul(1000).saturating_sub(self.up_ms)
    }
}
