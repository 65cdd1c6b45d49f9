//! Passes over the flow table: what is old ends, what has ended is cleared away, and numbers become
//! free one pass after that. Nothing here is a system call for each flow, and a pass is made in
//! slices, between which others run.

use portcullis_datapath_abi::{
    FlowRecord, TICK_SHIFT,
    flow::{CLEARED, FREE, GONE, LIVE},
};
use portcullis_model::Timeouts;

use crate::{
    ageing::{self, Pressure, State},
    datapath::{FlowTable, Result},
};

/// Records looked at in one slice: about a millisecond.
const SLICE: u32 = 1 << 16;
/// Numbers handed back in one slice, each by a system call.
const RELEASE_SLICE: usize = 1 << 12;

/// The time in the datapath's ticks.
pub fn now_ticks() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    time.map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let rest = u64::try_from(time.tv_nsec()).unwrap_or_default();
        ((seconds * 1_000_000_000 + rest) >> TICK_SHIFT) as u32
    })
}

/// Why a flow ended, as RFC 5102 section 5.11.3 tells reasons apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// It was idle for as long as its state allows.
    Idle,
    /// Both sides had closed it, or one had reset it.
    Closed,
    /// It was taken away: its address or zone is gone, its route moved, or the policy changed.
    Forced,
    /// The table was nearly full, and nobody had answered it.
    Resources,
}

/// The end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Number of its record.
    pub number: u32,
    /// The flow as it was last.
    pub record: &'a FlowRecord,
    /// Why.
    pub reason: EndReason,
}

/// Who is told of the ends of flows: each is told once.
pub type OnEnd<'a> = dyn FnMut(&Ended<'_>) + 'a;

/// What a pass goes by.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The time in ticks.
    pub now: u32,
    /// Idle times.
    pub timeouts: &'a Timeouts,
    /// How full the table is.
    pub pressure: Pressure,
}

/// Result of a pass.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Flows that stay.
    pub kept: u64,
    /// Flows that ended.
    pub ended: u64,
    /// Mappings in use.
    pub mappings: u64,
}

/// Where the passes stand.
#[derive(Debug, Default)]
pub struct Sweeper {
    phase: Phase,
    swept: Swept,
    /// A whole pass was made since this process began: whatever was cleared before is known now.
    acquainted: bool,
    /// Records and mappings that were cleared since the last pass began.
    cleared: Numbers,
    /// Those of the pass before: no packet sees them any more.
    waiting: Numbers,
}

#[derive(Debug, Default)]
struct Numbers {
    flows: Vec<u32>,
    mappings: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Release,
    Flows(u32),
    Mappings(u32),
}

impl Sweeper {
    /// Makes the next slice of a pass; the pass's result after its last.
    ///
    /// # Errors
    /// What the kernel says; the pass goes on with the next call.
    pub fn step(
        &mut self,
        table: &mut FlowTable,
        terms: &Terms<'_>,
        on_end: &mut OnEnd<'_>,
    ) -> Result<Option<Swept>> {
        match self.phase {
            Phase::Release => {
                if !self.release(table)? {
                    self.phase = Phase::Flows(0);
                }
            }
            Phase::Flows(from) => {
                let end = from.saturating_add(SLICE).min(table.flows_used());
                for number in from..end {
                    self.look_at(table, number, terms, on_end);
                }
                self.phase =
                    if end == table.flows_used() { Phase::Mappings(0) } else { Phase::Flows(end) };
            }
            Phase::Mappings(from) => {
                let end = from.saturating_add(SLICE).min(table.mappings_used());
                for number in from..end {
                    self.look_at_mapping(table, number);
                }
                if end < table.mappings_used() {
                    self.phase = Phase::Mappings(end);
                } else {
                    return Ok(Some(self.finish()));
                }
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> Swept {
        self.phase = Phase::Release;
        self.acquainted = true;
        self.waiting.flows.append(&mut self.cleared.flows);
        self.waiting.mappings.append(&mut self.cleared.mappings);
        for numbers in [&mut self.waiting.flows, &mut self.waiting.mappings] {
            numbers.sort_unstable();
            numbers.dedup();
        }
        std::mem::take(&mut self.swept)
    }

    /// Hands some waiting numbers back; `false` if there are no more.
    fn release(&mut self, table: &mut FlowTable) -> Result<bool> {
        for _ in 0..RELEASE_SLICE {
            if let Some(number) = self.waiting.flows.last() {
                table.release(*number)?;
                self.waiting.flows.pop();
            } else if let Some(number) = self.waiting.mappings.last() {
                table.release_mapping(*number)?;
                self.waiting.mappings.pop();
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn look_at(
        &mut self,
        table: &FlowTable,
        number: u32,
        terms: &Terms<'_>,
        on_end: &mut OnEnd<'_>,
    ) {
        let Some(glance) = table.glance(number) else { return };
        match glance.state {
            LIVE if table.has_passed(number, terms.now) => self.swept.kept += 1,
            LIVE => {
                let shortest =
                    if terms.pressure.is_none() { ageing::shortest_s(terms.timeouts) } else { 0 };
                if ageing::seconds_since(glance.last_seen, terms.now) <= shortest {
                    self.swept.kept += 1;
                    return;
                }
                let Some(record) = table.record(number) else { return };
                if !ageing::expired(&record, terms.timeouts, terms.pressure, terms.now) {
                    self.swept.kept += 1;
                    return;
                }
                let reason = if !ageing::expired(&record, terms.timeouts, Pressure::NONE, terms.now)
                {
                    EndReason::Resources
                } else if ageing::state(&record) == State::Closing {
                    EndReason::Closed
                } else {
                    EndReason::Idle
                };
                self.end(table, number, &record, reason, on_end);
            }
            // By the datapath, when its route moved; or by a process of ours that was killed then.
            GONE => self.clear(table, number, EndReason::Forced, on_end),
            CLEARED if !self.acquainted => self.cleared.flows.push(number),
            _ => {}
        }
    }

    fn look_at_mapping(&mut self, table: &FlowTable, number: u32) {
        let Some(mapping) = table.mapping(number) else { return };
        let [free, live, gone] = [FREE, LIVE, GONE].map(u32::from);
        if mapping.state == live {
            // Closed by the end of its last flow, as a rule.
            if table.close_mapping(number) {
                self.cleared.mappings.push(number);
            } else {
                self.swept.mappings += 1;
            }
        } else if mapping.state == gone {
            self.cleared.mappings.push(number);
        } else {
            debug_assert!(mapping.state == free);
        }
    }

    /// Ends all flows that `concerned` names; returns how many. At once: this is not done in slices,
    /// for what asks for it cannot wait.
    pub fn end_where(
        &mut self,
        table: &FlowTable,
        mut concerned: impl FnMut(&FlowRecord) -> bool,
        on_end: &mut OnEnd<'_>,
    ) -> u64 {
        let before = self.swept.ended;
        for number in 0..table.flows_used() {
            if table.glance(number).is_some_and(|glance| glance.state == LIVE)
                && let Some(record) = table.record(number)
                && concerned(&record)
            {
                self.end(table, number, &record, EndReason::Forced, on_end);
            }
        }
        self.swept.ended - before
    }

    fn end(
        &mut self,
        table: &FlowTable,
        number: u32,
        record: &FlowRecord,
        reason: EndReason,
        on_end: &mut OnEnd<'_>,
    ) {
        if table.end(number, record) {
            self.clear(table, number, reason, on_end);
        }
    }

    fn clear(&mut self, table: &FlowTable, number: u32, reason: EndReason, on_end: &mut OnEnd<'_>) {
        if let Some(record) = table.clear(number) {
            self.cleared.flows.push(number);
            self.swept.ended += 1;
            on_end(&Ended { number, record: &record, reason });
        }
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
