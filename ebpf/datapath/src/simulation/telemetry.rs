//! What is told, in ordinary memory.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    mem::MaybeUninit,
};

use portcullis_datapath_abi::{
    counter::Count,
    event::{DropKey, Event, HitBudget},
};

use super::Simulation;
use crate::telemetry::TelemetryTables;

/// Events that there is room for.
const ROOM: usize = 4096;

/// What was told.
#[derive(Default)]
pub struct TelemetryState {
    /// Drops.
    pub drops: RefCell<BTreeMap<DropKey, Count>>,
    /// Events, oldest first.
    pub events: RefCell<Vec<Event>>,
    budget: Cell<HitBudget>,
}

impl TelemetryTables for Simulation {
    fn count_drop(&self, key: &DropKey, packets: u32, bytes: u32) {
        let mut drops = self.telemetry.drops.borrow_mut();
        let count = drops.entry(*key).or_default();
        count.packets += u64::from(packets);
        count.bytes += u64::from(bytes);
    }

    fn hit_budget(&self) -> Option<&Cell<HitBudget>> {
        Some(&self.telemetry.budget)
    }

    fn tell(&self, fill: impl FnOnce(&mut MaybeUninit<Event>)) -> bool {
        let mut events = self.telemetry.events.borrow_mut();
        if events.len() >= ROOM {
            return false;
        }
        // What is not filled in shows as zeros.
        let mut event = MaybeUninit::new(Event::default());
        fill(&mut event);
        // SAFETY: initialized above, and filling it in cannot undo that.
        events.push(unsafe { event.assume_init() });
        true
    }
}
