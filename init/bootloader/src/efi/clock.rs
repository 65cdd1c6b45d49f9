//! Time since power-on, from the counter of the processor. All that is special to a processor
//! architecture in the boot manager is in this file.
use core::time::Duration;
use uefi::boot;

/// A running counter of known frequency.
pub struct Clock {
    ticks_per_second: u64,
}

impl Clock {
    /// Finds out the frequency of the counter.
    pub fn start() -> Self {
        Self { ticks_per_second: counter::frequency().max(1) }
    }

    /// Microseconds since the counter was 0, which is power-on or reset.
    pub fn now_us(&self) -> u64 {
        let us = u128::from(counter::ticks()) * 1_000_000 / u128::from(self.ticks_per_second);
        u64::try_from(us).unwrap_or(u64::MAX)
    }
}

/// Counts the ticks of a short wait; good to about a percent.
#[cfg_attr(
    target_arch = "aarch64",
    expect(dead_code, reason = "the frequency stands in a register")
)]
fn measured_frequency() -> u64 {
    const WAIT: Duration = Duration::from_millis(2);
    let before = counter::ticks();
    boot::stall(WAIT);
    let ticks = counter::ticks().wrapping_sub(before);
    ticks.saturating_mul(1_000_000) / WAIT.as_micros() as u64
}

#[cfg(target_arch = "x86_64")]
mod counter {
    pub fn ticks() -> u64 {
        // SAFETY: every x86-64 processor has this instruction, and firmware does not disable it.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    pub fn frequency() -> u64 {
        super::measured_frequency()
    }
}

#[cfg(target_arch = "aarch64")]
mod counter {
    use core::arch::asm;

    pub fn ticks() -> u64 {
        let ticks: u64;
        // SAFETY: reads the virtual counter, nothing else.
        unsafe { asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }

    pub fn frequency() -> u64 {
        let frequency: u64;
        // SAFETY: reads the frequency of the counter, nothing else.
        unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
        frequency
    }
}
