//! PID 1.
//!
//! - Stage one ([`stage_one`], its own program in the initrd): load what the hardware asks for,
//!   find the slot that the kernel command line pins, put dm-verity over it, switch to it.
//! - Stage two ([`stage_two`], the multi-call binary as `/sbin/init`): mounts, data partition,
//!   journal, then the [`supervisor`] for as long as the machine runs, and the orderly end.
//! - [`launch`]: what the supervisor starts; confines itself to a service's [`manifest`] and
//!   becomes the service.

pub mod api;
pub mod boot_state;
pub mod clock;
pub mod command_line;
pub mod console;
pub mod data;
pub mod disk;
pub mod efi;
pub mod health;
pub mod journal;
pub mod launch;
pub mod manifest;
pub mod modules;
pub mod mounts;
pub mod nics;
pub mod places;
pub mod power;
pub mod report;
pub mod sandbox;
pub mod seed;
pub mod slots;
pub mod stage_one;
pub mod stage_two;
pub mod supervisor;
pub mod sysctl;
pub mod verity;
pub mod volume;
pub mod watchdog;
