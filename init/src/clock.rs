//! Clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Time since the kernel started, also while suspended.
pub fn since_start() -> Duration {
    duration(clock_gettime(ClockId::Boottime))
}

/// Milliseconds since the epoch; 0 for a clock before it.
pub fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Sets the clock to `floor` (seconds since the epoch) if it is before that: a board without a
/// battery wakes in 1970, where every certificate is not yet valid. Returns whether it was.
///
/// # Errors
/// If the kernel refuses.
pub fn not_before(floor_unix_s: u64) -> rustix::io::Result<bool> {
    if unix_ms() / 1000 >= floor_unix_s {
        return Ok(false);
    }
    let floor = i64::try_from(floor_unix_s).unwrap_or(i64::MAX);
    clock_settime(ClockId::Realtime, Timespec { tv_sec: floor, tv_nsec: 0 })?;
    Ok(true)
}
