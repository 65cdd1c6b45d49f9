//! What a packet costs: CPU time on a real machine, instructions in an emulated one.

use std::fs;

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// CPU time: of the thread that reads, softirqs that it runs included, and of the kernel thread that
/// runs softirqs on the same CPU when they are many. On an emulated CPU whose clock counts
/// instructions this is their number (see `guest`).
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    softirqs: ClockId,
}

impl Meter {
    /// Binds this thread, and those that it starts, to one CPU.
    ///
    /// # Errors
    /// If the kernel thread of that CPU is not found.
    pub fn new() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let cpu = (0..CpuSet::count())
            .rev()
            .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .context("this thread may run on no CPU")?;
        let mut one = CpuSet::new();
        one.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        let wanted = format!("ksoftirqd/{cpu}");
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name();
            let Some(process) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if command.trim() == wanted {
                let softirqs = ClockId::pid_cpu_clock_id(Pid::from_raw(process))?;
                return Ok(Self { softirqs });
            }
        }
        anyhow::bail!("no process {wanted} in /proc")
    }

    /// The cost so far in nanoseconds, or instructions.
    ///
    /// # Errors
    /// If a clock cannot be read.
    pub fn read(self) -> Result<u64> {
        Ok(nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID)? + nanoseconds(self.softirqs)?)
    }
}

fn nanoseconds(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}
