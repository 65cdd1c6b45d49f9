//! Time as the core sees it.

/// One moment on both clocks.
///
/// Leases run on the monotonic clock, so that a wall clock set right by NTP (or set wrong by
/// anybody) neither ends nor prolongs them; only what is written to disk has wall-clock stamps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// Wall clock, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Monotonic clock, milliseconds since an arbitrary moment; negative values are before it.
    pub up_ms: i64,
}

impl Now {
    /// The wall-clock second that has come when the monotonic clock shows `up_ms`: rounded up, so
    /// that no lease ends earlier by the disk than by the client's clock.
    pub fn unix_s_at(self, up_ms: i64) -> u64 {
        self.unix_ms.saturating_add_signed(up_ms.saturating_sub(self.up_ms)).div_ceil(1000)
    }

    /// What the monotonic clock shows at the wall-clock second `unix_s`.
    pub fn up_ms_at(self, unix_s: u64) -> i64 {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let ahead = signed(unix_s.saturating_mul(1000)).saturating_sub(signed(self.unix_ms));
        self.up_ms.saturating_add(ahead)
    }

    /// Wall clock minus monotonic clock, milliseconds: constant unless somebody sets the clock.
    pub fn offset_ms(self) -> i64 {
        i64::try_from(self.unix_ms).unwrap_or(i64::MAX).saturating_sub(self.up_ms)
    }
}
