//! Which slot is started, and what a start, a healthy boot, a fault and an update change.
//!
//! - Tries are counted down only for an unconfirmed slot: power cuts must not eat those of a good
//!   one.
//! - Every start counts one boot failure, every healthy boot clears the counter. A slot with
//!   [`MAX_BOOT_FAILURES`] is passed over, so a slot that rots cannot reboot forever.
//! - When no slot may be started, the decision is [`Decision::Recovery`]: the boot manager says why
//!   and offers the choice. Nobody may be there, and a few power cuts in a row look like failures;
//!   so a slot that is intact may be retried after a wait that doubles each time, a limited number
//!   of times.
use crate::{BootState, Slot, SlotState};

/// Starts that a newly installed slot has until it must have confirmed itself.
pub const TRIES: u8 = 3;

/// Consecutive starts without a healthy boot after which a slot is passed over.
pub const MAX_BOOT_FAILURES: u8 = 3;

/// Starts without a healthy boot after which nothing is retried without a person.
pub const MAX_RETRIED_FAILURES: u8 = 10;

/// First wait before an unattended retry, in seconds; it doubles with each further failure.
pub const FIRST_WAIT_S: u32 = 60;

/// Priority of a slot that was just installed.
const HIGHEST_PRIORITY: u8 = 15;

/// What the boot manager does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start this slot.
    Start(Slot),
    /// No slot may be started.
    Recovery {
        /// What to do if nobody answers.
        retry: Option<Retry>,
    },
}

/// An unattended retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The slot to start.
    pub slot: Slot,
    /// How long to wait for a person first, in seconds.
    pub wait_s: u32,
}

/// Why a slot is not started although its content is intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Marked bad, or never installed.
    #[error("disabled (priority 0)")]
    Disabled,
    /// Not confirmed within its tries.
    #[error("not confirmed and no tries left")]
    NoTriesLeft,
    /// Too many starts in a row without a healthy boot.
    #[error("{0} starts in a row without a healthy boot")]
    BootFailures(u8),
}

impl SlotState {
    /// Whether the boot state lets this slot be started.
    ///
    /// # Errors
    /// Why it does not.
    pub const fn startable(&self) -> Result<(), Refusal> {
        if self.priority == 0 {
            Err(Refusal::Disabled)
        } else if !self.confirmed && self.tries_left == 0 {
            Err(Refusal::NoTriesLeft)
        } else if self.confirmed && self.boot_failures >= MAX_BOOT_FAILURES {
            Err(Refusal::BootFailures(self.boot_failures))
        } else {
            Ok(())
        }
    }
}

impl BootState {
    /// The slots in the order in which they are preferred: by priority, slot a first if equal.
    #[must_use]
    pub const fn order(&self) -> [Slot; 2] {
        if self.b.priority > self.a.priority { [Slot::B, Slot::A] } else { [Slot::A, Slot::B] }
    }

    /// Chooses among the slots for which `intact` says true. `intact` is asked in the order of
    /// preference and no further than needed, so it may do the expensive check of a slot's content.
    pub fn choose(&self, mut intact: impl FnMut(Slot) -> bool) -> Decision {
        let order = self.order();
        let startable = |slot: &Slot| self.get(*slot).startable().is_ok();
        if let Some(slot) = order.into_iter().filter(startable).find(|slot| intact(*slot)) {
            return Decision::Start(slot);
        }
        let retry = order
            .into_iter()
            .filter_map(|slot| self.retry(slot))
            .filter(|retry| intact(retry.slot))
            .min_by_key(|retry| retry.wait_s);
        Decision::Recovery { retry }
    }

    fn retry(&self, slot: Slot) -> Option<Retry> {
        let SlotState { priority, boot_failures, .. } = *self.get(slot);
        if priority == 0
            || self.get(slot).startable().is_ok()
            || boot_failures >= MAX_RETRIED_FAILURES
        {
            return None;
        }
        let doublings = boot_failures.saturating_sub(MAX_BOOT_FAILURES);
        Some(Retry { slot, wait_s: FIRST_WAIT_S << doublings })
    }

    /// To be written before `slot` is started, by choice, by retry or by a person.
    pub const fn before_boot(&mut self, slot: Slot) {
        let state = self.get_mut(slot);
        state.boot_failures = state.boot_failures.saturating_add(1);
        if !state.confirmed {
            state.tries_left = state.tries_left.saturating_sub(1);
        }
    }

    /// `slot` is running and healthy.
    pub fn confirm(&mut self, slot: Slot) {
        let state = self.get_mut(slot);
        state.confirmed = true;
        state.boot_failures = 0;
        // A person may have started a slot that was disabled; now it has proven itself.
        state.priority = state.priority.max(1);
    }

    /// `slot` must not be started again, for example because an update is about to overwrite it.
    pub fn mark_bad(&mut self, slot: Slot) {
        *self.get_mut(slot) = SlotState::default();
    }

    /// A new blob was written to `slot`: it is started next and has [`TRIES`] to confirm itself.
    pub fn install(&mut self, slot: Slot) {
        *self.get_mut(slot) = SlotState {
            priority: HIGHEST_PRIORITY,
            tries_left: TRIES,
            confirmed: false,
            boot_failures: 0,
        };
        let other = self.get_mut(slot.other());
        other.priority = other.priority.min(HIGHEST_PRIORITY - 1);
    }
}
