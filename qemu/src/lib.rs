//! The appliance in QEMU, and the lab around it.
//!
//! [`Vm`] is one running appliance: firmware, disk, NICs, serial [`Console`]. [`Lab`] puts it
//! between network namespaces: a simulated internet on its WAN, [`Host`]s on its LAN. `make run`,
//! `make lab`, the end-to-end tests and the benchmarks all use these.

mod accelerator;
mod console;
mod disk;
mod firmware;
mod host;
mod internet;
mod lab;
mod qmp;
mod scratch;
mod vm;

pub use accelerator::Accelerator;
pub use console::{Console, Line};
pub use disk::Disk;
pub use host::Host;
pub use internet::{Internet, addresses};
pub use lab::Lab;
pub use scratch::{Scratch, clean_up_at_signals, end};
pub use vm::{Nic, Vm, VmSettings};

/// For what happens soon, in a machine that is emulated, on one that is busy.
pub const SOON: std::time::Duration = std::time::Duration::from_secs(60);
