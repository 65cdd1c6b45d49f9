//! `org.portcullis.Init1`: PID 1: services, slots, journal, reboot.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::interface::bus_interface;

/// A supervised service.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct ServiceStatus {
    /// Name: `dhcp`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// `waiting` (for others), `starting`, `ready`, `backing-off`, `stopping`, `stopped`,
    /// `failed` (crash loop).
    pub state: String,
    /// Process id; none while it does not run.
    pub pid: Option<u32>,
    /// Starts after the first.
    pub restarts: u32,
    /// When it entered `state` (seconds since the epoch).
    pub since_unix_s: u64,
    /// Memory charged to its cgroup, bytes.
    pub memory_bytes: u64,
    /// CPU time of its cgroup, milliseconds.
    pub cpu_ms: u64,
    /// Whether the box is unhealthy without it.
    pub essential: bool,
    /// How it last ended, in words; empty if it never did.
    pub last_exit: String,
    /// Last STATUS= text of the service; may be empty.
    pub status_text: String,
}

/// One slot as the boot state and its manifest say.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct SlotStatus {
    /// `a` or `b`.
    pub name: String,
    /// Version in its manifest; none if it holds no valid manifest.
    pub version: Option<String>,
    /// Whether it runs now.
    pub running: bool,
    /// Whether a healthy boot confirmed it.
    pub confirmed: bool,
    /// Higher is tried first; 0 is never tried.
    pub priority: u8,
    /// Boots left to an unconfirmed slot.
    pub tries_left: u8,
}

/// A step of this boot.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, Type)]
pub struct BootPhase {
    /// `firmware`, `boot-manager`, `kernel`, `stage-one`, `stage-two`, `services`.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

/// The system as PID 1 sees it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, Type)]
pub struct SystemStatus {
    /// Version of the running image.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// Seconds since the kernel started.
    pub uptime_s: u64,
    /// Whether all essential services are ready.
    pub healthy: bool,
    /// Why not, one sentence each.
    pub problems: Vec<String>,
    /// Total memory in bytes.
    pub memory_total_bytes: u64,
    /// Available memory in bytes.
    pub memory_available_bytes: u64,
    /// Size of the data partition in bytes.
    pub data_total_bytes: u64,
    /// Free bytes of the data partition.
    pub data_free_bytes: u64,
    /// Both slots.
    pub slots: Vec<SlotStatus>,
    /// Steps of this boot; those that could not be measured are left out.
    pub boot: Vec<BootPhase>,
}

/// What to read from the journal.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct JournalQuery {
    /// Records after this cursor; 0 for the newest `limit` records.
    pub after: u64,
    /// Most records to return, 1 to 1000.
    pub limit: u32,
    /// Only of this service; empty for all. PID 1 is `init`, the kernel `kernel`.
    pub service: String,
    /// Least severity: `error`, `warn`, `info`, `debug` or `trace`; empty for all.
    pub level: String,
}

/// A journal record.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct JournalRecord {
    /// Position, counted up over reboots.
    pub cursor: u64,
    /// Time (milliseconds since the epoch).
    pub unix_ms: u64,
    /// Service that wrote it.
    pub service: String,
    /// Severity as in [`JournalQuery::level`].
    pub level: String,
    /// Text.
    pub message: String,
    /// Further fields as a JSON object; `{}` if none.
    pub fields: String,
}

/// Some records, oldest first.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct JournalPage {
    /// Records.
    pub records: Vec<JournalRecord>,
    /// Cursor to go on from, also if no record matched.
    pub cursor: u64,
}

bus_interface! {
    /// The supervisor. `Changed`: a service changed its state or the journal grew (at most every
    /// 200 ms).
    interface Init1("org.portcullis.Init1"), trait InitApi, proxy InitBus {
        /// All services in order of their names.
        fn services() -> Vec<ServiceStatus>;
        /// Version, health, slots, boot.
        fn system() -> SystemStatus;
        /// Stops and starts a service.
        fn restart(service: String);
        /// Kills a service at once (SIGKILL to its whole cgroup), as for one that hangs; the
        /// supervisor starts it again by its rules.
        fn kill(service: String);
        /// Reads the journal.
        fn journal(query: JournalQuery) -> JournalPage;
        /// Loads the kernel modules that the caller's manifest names in `modules_on_request`, and
        /// returns when they are there. Those that are there already are left alone.
        fn load_modules();
        /// Orderly reboot; returns before it happens.
        fn reboot();
        /// Orderly power-off; returns before it happens.
        fn shutdown();
    }
}
