//! The boot state: which slot is started next, and how much it is trusted.
//!
//! The `state` partition begins with two records of 4 KiB. Only the one that does not count at the
//! moment is ever overwritten, so a write that is cut off at any byte leaves the other intact.
//!
//! ```text
//! read 8 KiB -> decode_pair -> Loaded { state, .. } -> BootState::choose -> before_boot
//!                                  |                                           |
//!                                  `---- Loaded::next(new state) -> write Pending.bytes
//! ```
//!
//! - [`disk`]: the partitions of the disk
//! - [`record`]: the record byte by byte
//! - [`pair`]: which of the two counts, which is written next
//! - [`policy`]: which slot is started, and what a start, a healthy boot and an update change
//!
//! No I/O, no clock, no allocation: the boot manager, `init` and the update client run this code
//! around their own reads and writes.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod disk;
pub mod pair;
pub mod policy;
pub mod record;

pub use pair::{Fingerprint, Loaded, Origin, PAIR_SIZE, Pending, decode_pair};
pub use policy::{Decision, FIRST_WAIT_S, MAX_BOOT_FAILURES, Retry, TRIES};
pub use record::{RECORD_SIZE, RecordError};

use core::fmt;

/// One of the two slots of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The partition `slot-a`.
    A,
    /// The partition `slot-b`.
    B,
}

/// What is known about one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SlotState {
    /// The higher one is started first; slot a if they are equal. 0 = never start this slot.
    pub priority: u8,
    /// How often the slot may still be started while it is not confirmed.
    pub tries_left: u8,
    /// Whether this slot has once passed its health check.
    pub confirmed: bool,
    /// How often the slot was started since its last healthy boot. Counted by the boot manager
    /// before each start, since a crash cannot count itself.
    pub boot_failures: u8,
}

/// What is known about both slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootState {
    /// Slot a.
    pub a: SlotState,
    /// Slot b.
    pub b: SlotState,
}

impl Slot {
    /// Both slots.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other slot.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Name of its GPT partition; also what the boot manager tells the system that it started.
    #[must_use]
    pub const fn partition(self) -> &'static str {
        match self {
            Self::A => disk::SLOT_A.name,
            Self::B => disk::SLOT_B.name,
        }
    }

    /// The slot of that partition name.
    #[must_use]
    pub fn from_partition(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|slot| slot.partition() == name)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "slot a",
            Self::B => "slot b",
        })
    }
}

impl BootState {
    /// What is known about `slot`.
    #[must_use]
    pub const fn get(&self, slot: Slot) -> &SlotState {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// The same, to change it.
    pub const fn get_mut(&mut self, slot: Slot) -> &mut SlotState {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }
}
