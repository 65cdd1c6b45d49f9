//! What init says about the system: `Init1.system()`, and the phases of the boot.

use std::{path::PathBuf, time::Duration};

use portcullis_bootstate::Slot;
use portcullis_bus::init::{BootPhase, SlotStatus, SystemStatus};

use crate::{clock::since_start, efi, health::Running, stage_one::Handover};

/// What does not change while the machine runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Version of the running image.
    pub version: String,
    /// Disk and slot; none when run from something else.
    pub running: Option<Running>,
    /// Where the data partition is mounted.
    pub data: PathBuf,
}

/// Steps of this boot. The kernel's clock starts with the kernel, the firmware's with power; what
/// nobody measured is left out.
pub fn boot_phases(
    handover: Option<&Handover>,
    stage_two: (Duration, Duration),
    services_ready: Option<Duration>,
) -> Vec<BootPhase> {
    let (began, supervising) = stage_two;
    let firmware = efi::loader_time("LoaderTimeInitUSec");
    let manager = efi::loader_time("LoaderTimeExecUSec");
    let mut phases = Vec::new();
    let mut add = |name: &str, from: Option<Duration>, to: Option<Duration>| {
        if let (Some(from), Some(to)) = (from, to)
            && let Some(length) = to.checked_sub(from)
        {
            let seconds = (length.as_secs_f64() * 1000.0).round() / 1000.0;
            phases.push(BootPhase { name: name.to_owned(), seconds });
        }
    };
    let micros = |us: u64| Duration::from_micros(us);
    let stage_one = handover.map(|h| (micros(h.started_us), micros(h.ended_us)));
    add("firmware", Some(Duration::ZERO), firmware);
    add("boot-manager", firmware, manager);
    add("kernel", Some(Duration::ZERO), Some(stage_one.map_or(began, |(start, _)| start)));
    add("stage-one", stage_one.map(|(start, _)| start), stage_one.map(|_| began));
    add("stage-two", Some(began), Some(supervising));
    add("services", Some(supervising), services_ready);
    phases
}

/// One line for the console: `firmware 3.7 s, kernel 2.2 s, ...`.
pub fn phases_line(phases: &[BootPhase]) -> String {
    let parts: Vec<String> =
        phases.iter().map(|p| format!("{} {:.2} s", p.name, p.seconds)).collect();
    parts.join(", ")
}

/// The system now. Reads files and the disk: not for the supervisor's thread.
pub fn system(facts: &Facts, problems: Vec<String>, boot: Vec<BootPhase>) -> SystemStatus {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let data = rustix::fs::statvfs(&facts.data).ok();
    SystemStatus {
        version: facts.version.clone(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uptime_s: since_start().as_secs(),
        healthy: problems.is_empty(),
        problems,
        memory_total_bytes: meminfo(&memory, "MemTotal"),
        memory_available_bytes: meminfo(&memory, "MemAvailable"),
        data_total_bytes: data.as_ref().map_or(0, |d| d.f_blocks.saturating_mul(d.f_frsize)),
        data_free_bytes: data.map_or(0, |d| d.f_bavail.saturating_mul(d.f_frsize)),
        slots: facts.running.as_ref().map(slots).unwrap_or_default(),
        boot,
    }
}

fn slots(running: &Running) -> Vec<SlotStatus> {
    let state = running
        .boot_state()
        .inspect_err(|error| tracing::warn!(%error, "slots are not known"))
        .ok();
    [(Slot::A, "a"), (Slot::B, "b")]
        .into_iter()
        .map(|(slot, name)| {
            let partition = running.partitions.iter().find(|p| p.slot() == Some(slot));
            let manifest = partition.and_then(|p| p.manifest().ok());
            let known = state.as_ref().map(|s| *s.get(slot)).unwrap_or_default();
            SlotStatus {
                name: name.to_owned(),
                version: manifest.map(|m| m.version.as_str().to_owned()),
                running: slot == running.slot,
                confirmed: known.confirmed,
                priority: known.priority,
                tries_left: known.tries_left,
            }
        })
        .collect()
}

/// A field of /proc/meminfo in bytes; 0 if it is not there.
fn meminfo(text: &str, field: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// Version of the image, from os-release(5).
pub fn version(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="))?;
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_files_are_read() {
        assert_eq!(meminfo("MemTotal:  512 kB\nMemFree: 5 kB\n", "MemTotal"), 512 * 1024);
        assert_eq!(meminfo("MemTotal:  512 kB\n", "MemAvailable"), 0);
        assert_eq!(version("ID=x\nIMAGE_VERSION=1.2.3\n").as_deref(), Some("1.2.3"));
        assert_eq!(version("ID=x\n"), None);
    }

    #[test]
    fn phases_follow_each_other() {
        let handover =
            Handover { started_us: 1_000_000, ended_us: 1_500_000, ..Handover::default() };
        let ms = Duration::from_millis;
        let phases = boot_phases(Some(&handover), (ms(1600), ms(1900)), Some(ms(2900)));
        let named: Vec<_> = phases.iter().map(|p| (p.name.as_str(), p.seconds)).collect();
        let expected = [("kernel", 1.0), ("stage-one", 0.6), ("stage-two", 0.3), ("services", 1.0)];
        // A machine that was started by UEFI has two more in front.
        assert!(named.ends_with(&expected), "{named:?}");
        assert!(phases_line(&phases).ends_with("stage-two 0.30 s, services 1.00 s"));
    }
}
