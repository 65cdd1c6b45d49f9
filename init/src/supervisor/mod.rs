//! The supervisor: [`core`] decides, [`shell`] does it with processes ([`process`]), sockets
//! ([`sockets`]), cgroups ([`cgroup`]) and the messages of services ([`notify`]).

pub mod cgroup;
pub mod core;
pub mod notify;
pub mod process;
pub mod shell;
pub mod sockets;

pub use shell::{Handle, Health, Settings, Supervisor};

/// Exit code of a process that could not be confined, so that no service ran.
pub const EXIT_LAUNCH: u8 = 217;
