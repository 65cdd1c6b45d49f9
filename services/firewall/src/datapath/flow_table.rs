//! The flow table in mapped memory: the service looks at all flows and ends them without a system
//! call, while packets flow. The life of a record is told in `portcullis_datapath_abi::flow`.

use std::{
    path::Path,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering},
};

use aya::maps::{MapData, Queue};
use portcullis_datapath_abi::{
    Config, FlowKey6, FlowRecord, Mapping,
    flow::{
        CLEARED, EntryKind, FREE, GONE, IPV6, LIVE, MAPPING_CLOSED, NO_MAPPING, PASSED, Payload,
        Side, taken,
    },
    map,
    nat::References,
};
use portcullis_flow_table::{Bucket, Hash, LOCKS, Memory, find, hash16, hash40, insert, remove};

use super::{Result, mapped::Mapped, maps};

/// Index, records, mappings, and the numbers of both that are free.
pub struct FlowTable {
    config: Config,
    index: Mapped<Bucket>,
    locks: Mapped<AtomicU32>,
    flows: Mapped<FlowRecord>,
    mappings: Mapped<Mapping>,
    taken: Mapped<AtomicU32>,
    free_flows: Queue<MapData, u32>,
    free_mappings: Queue<MapData, u32>,
}

/// What ageing asks of every record: one cache line of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Glance {
    /// See [`FlowRecord::state`].
    pub state: u8,
    /// See [`FlowRecord::last_seen`].
    pub last_seen: u32,
}

impl FlowTable {
    /// Maps the table whose maps are pinned in a folder; `config` is what its packets go by.
    pub(super) fn open(folder: &Path, config: Config) -> Result<Self> {
        Ok(Self {
            config,
            index: Mapped::of(&maps::data(folder, map::INDEX)?, map::INDEX)?,
            locks: Mapped::of(&maps::data(folder, map::LOCKS)?, map::LOCKS)?,
            flows: Mapped::of(&maps::data(folder, map::FLOWS)?, map::FLOWS)?,
            mappings: Mapped::of(&maps::data(folder, map::MAPPINGS)?, map::MAPPINGS)?,
            taken: Mapped::of(&maps::data(folder, map::TAKEN)?, map::TAKEN)?,
            free_flows: maps::pinned(folder, map::FREE_FLOWS)?,
            free_mappings: maps::pinned(folder, map::FREE_MAPPINGS)?,
        })
    }

    /// What its packets go by.
    #[cfg(test)]
    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    /// Most flows that it holds.
    pub const fn capacity(&self) -> u32 {
        self.flows.len()
    }

    /// Records from this number on were never used.
    pub fn flows_used(&self) -> u32 {
        self.used(taken::FLOWS, self.flows.len())
    }

    /// Mappings from this number on were never used.
    pub fn mappings_used(&self) -> u32 {
        self.used(taken::MAPPINGS, self.mappings.len())
    }

    fn used(&self, which: u32, most: u32) -> u32 {
        // The counter may go on beyond the end.
        self.taken.get(which).map_or(0, |taken| taken.load(Ordering::Relaxed)).min(most)
    }

    /// State and age of a record; `None` beyond the end.
    pub fn glance(&self, number: u32) -> Option<Glance> {
        let last_seen = self.field(number, |record| {
            // SAFETY: a field of the record that `field` found.
            unsafe { AtomicU32::from_ptr(&raw mut (*record).last_seen) }
        })?;
        Some(Glance {
            state: self.state(number)?.load(Ordering::Acquire),
            last_seen: last_seen.load(Ordering::Relaxed),
        })
    }

    /// Whether a packet of the flow has passed the entry since this was asked last; the entry reads no
    /// clock, so the flow was then last seen `now`, in ticks.
    pub fn has_passed(&self, number: u32, now: u32) -> bool {
        let Some(record) = self.flows.pointer(number) else { return false };
        let mut passed = 0;
        for direction in 0..2 {
            // SAFETY: one of two sides of a record in mapped memory; packets change this field atomically
            // too.
            let link = unsafe {
                let side = (&raw mut (*record.as_ptr()).sides).cast::<Side>().add(direction);
                AtomicU8::from_ptr(&raw mut (*side).link)
            };
            // Written only if it is set, so that the cache line of an idle flow stays clean.
            if link.load(Ordering::Relaxed) & PASSED != 0 {
                passed |= link.fetch_and(!PASSED, Ordering::AcqRel) & PASSED;
            }
        }
        if passed == 0 {
            return false;
        }
        // SAFETY: a field of the record.
        let last_seen = unsafe { AtomicU32::from_ptr(&raw mut (*record.as_ptr()).last_seen) };
        last_seen.store(now, Ordering::Relaxed);
        true
    }

    /// A copy of a record, as its packets are changing it; `None` beyond the end.
    pub fn record(&self, number: u32) -> Option<FlowRecord> {
        self.flows.read(number)
    }

    /// The copy of a record if it is a flow now.
    pub fn flow(&self, number: u32) -> Option<FlowRecord> {
        self.record(number).filter(|record| record.state == LIVE)
    }

    /// All flows with their numbers, in the order of these.
    pub fn flows(&self) -> impl Iterator<Item = (u32, FlowRecord)> + '_ {
        (0..self.flows_used()).filter_map(|number| Some((number, self.flow(number)?)))
    }

    /// How many flows there are.
    pub fn count(&self) -> u64 {
        let live = |number: &u32| self.glance(*number).is_some_and(|glance| glance.state == LIVE);
        (0..self.flows_used()).filter(live).count() as u64
    }

    /// A mapping; `None` beyond the end.
    pub fn mapping(&self, number: u32) -> Option<Mapping> {
        self.mappings.read(number)
    }

    /// Takes a flow out of the index, so that no further packet finds it. `false` if it has ended
    /// already.
    pub fn end(&self, number: u32, record: &FlowRecord) -> bool {
        let [forward, reverse] = self.hashes(record);
        let payload = |direction| Payload::new(EntryKind::Flow, number, direction).0;
        remove(self, forward, payload(0));
        remove(self, reverse, payload(1));
        self.state(number).is_some_and(|state| {
            state.compare_exchange(LIVE, GONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Gives up what an ended flow holds of the table: its mapping loses a user. Returns the record
    /// as it was, for whoever reports or counts it; `None` if it is not [`GONE`]. Its number is free
    /// after [`Self::release`], which must not be called before all packets that may still see the
    /// record have passed.
    pub fn clear(&self, number: u32) -> Option<FlowRecord> {
        let state = self.state(number)?;
        // First of all: should this process end in between, nothing is given up twice.
        state.compare_exchange(GONE, CLEARED, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        let record = self.record(number)?;
        let mapping = self.field(number, |record| {
            // SAFETY: a field of the record that `field` found.
            unsafe { AtomicU32::from_ptr(&raw mut (*record).mapping) }
        })?;
        let mapping = mapping.swap(NO_MAPPING, Ordering::AcqRel);
        if mapping != NO_MAPPING {
            self.leave_mapping(mapping, record.last_seen);
        }
        Some(FlowRecord { mapping, ..record })
    }

    /// Frees the number of a record that was cleared; `false` if it is in another state.
    ///
    /// # Errors
    /// If the kernel does not take the number. It stays cleared then, for another try.
    pub fn release(&mut self, number: u32) -> Result<bool> {
        let Some(state) = self.state(number) else { return Ok(false) };
        if state.compare_exchange(CLEARED, FREE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Ok(false);
        }
        let waiting = self.taken.get(taken::WAITING_FLOWS);
        let pushed = Self::hand_back(&mut self.free_flows, waiting, number)
            .map_err(maps::failed(map::FREE_FLOWS));
        if pushed.is_err()
            && let Some(state) = self.state(number)
        {
            state.store(CLEARED, Ordering::Release);
        }
        pushed.map(|()| true)
    }

    fn leave_mapping(&self, number: u32, now: u32) {
        let Some((references, mapping)) =
            self.references(number).zip(self.mappings.pointer(number))
        else {
            return;
        };
        // SAFETY: a field of a mapping in mapped memory; others change it as an atomic.
        let idle_since = unsafe { AtomicU32::from_ptr(&raw mut (*mapping.as_ptr()).idle_since) };
        idle_since.store(now, Ordering::Relaxed);
        references.release();
        if references.count() == 0 {
            self.close_mapping(number);
        }
    }

    fn references(&self, number: u32) -> Option<References<'_>> {
        let mapping = self.mappings.pointer(number)?;
        // SAFETY: a field of a mapping in mapped memory; others change it as an atomic.
        let count = unsafe { AtomicU32::from_ptr(&raw mut (*mapping.as_ptr()).references) };
        Some(References(count))
    }

    fn mapping_state(&self, number: u32) -> Option<&AtomicU32> {
        let mapping = self.mappings.pointer(number)?;
        // SAFETY: as above.
        Some(unsafe { AtomicU32::from_ptr(&raw mut (*mapping.as_ptr()).state) })
    }

    /// Takes a mapping that no flow uses out of the index; `false` if one does. Its number is free
    /// after [`Self::release_mapping`].
    pub fn close_mapping(&self, number: u32) -> bool {
        let Some((references, state)) = self.references(number).zip(self.mapping_state(number))
        else {
            return false;
        };
        let live = u32::from(LIVE);
        if state.load(Ordering::Acquire) != live {
            return false;
        }
        let Some(mapping) = self.mapping(number) else { return false };
        // One that was closed already is being taken out when a process of ours was killed.
        if !references.close() && mapping.references & MAPPING_CLOSED == 0 {
            return false;
        }
        for (kind, key) in [
            (EntryKind::Internal, mapping.internal_key()),
            (EntryKind::External, mapping.external_key()),
        ] {
            let hash = hash16(self.config.seed, key.words(kind));
            remove(self, hash, Payload::new(kind, number, 0).0);
        }
        state.compare_exchange(live, GONE.into(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Frees the number of a mapping that was closed in an earlier pass; `false` if it is in another
    /// state.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub fn release_mapping(&mut self, number: u32) -> Result<bool> {
        let Some(state) = self.mapping_state(number) else { return Ok(false) };
        let [gone, free] = [GONE, FREE].map(u32::from);
        if state.compare_exchange(gone, free, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Ok(false);
        }
        let waiting = self.taken.get(taken::WAITING_MAPPINGS);
        let pushed = Self::hand_back(&mut self.free_mappings, waiting, number)
            .map_err(maps::failed(map::FREE_MAPPINGS));
        if pushed.is_err()
            && let Some(state) = self.mapping_state(number)
        {
            state.store(gone, Ordering::Release);
        }
        pushed.map(|()| true)
    }

    /// Whether a record that says it is a flow is found by neither of its keys.
    pub fn is_orphan(&self, number: u32, record: &FlowRecord) -> bool {
        self.hashes(record).into_iter().zip(0..).all(|(hash, direction)| {
            find(self, hash) != Some(Payload::new(EntryKind::Flow, number, direction).0)
        })
    }

    /// Hashes of the keys of both directions.
    fn hashes(&self, record: &FlowRecord) -> [Hash; 2] {
        let seed = self.config.seed;
        if record.flags & IPV6 != 0 {
            let key: FlowKey6 = record.ends6();
            [key, key.reverse()].map(|key| hash40(seed, key.words()))
        } else {
            record.ends4().keys.map(|key| hash16(seed, key.words(EntryKind::Flow)))
        }
    }

    fn state(&self, number: u32) -> Option<&AtomicU8> {
        self.field(number, |record| {
            // SAFETY: a field of the record that `field` found.
            unsafe { AtomicU8::from_ptr(&raw mut (*record).state) }
        })
    }

    /// A field of a record as an atomic: that is how the packet path and the service change it.
    fn field<'a, A>(
        &'a self,
        number: u32,
        project: impl FnOnce(*mut FlowRecord) -> &'a A,
    ) -> Option<&'a A> {
        self.flows.pointer(number).map(|record| project(record.as_ptr()))
    }
}

/// For making a table of another size from this one; see `carry_over.rs`.
impl FlowTable {
    /// Adds a flow with the mapping it uses, if it has one. `false` if there is no room, or packets
    /// have made the flow already.
    pub(crate) fn adopt(&mut self, flow: &FlowRecord, mapping: Option<u32>) -> bool {
        let Some(number) = self.take_flow() else { return false };
        let record = FlowRecord { mapping: mapping.unwrap_or(NO_MAPPING), ..*flow };
        self.flows.write(number, record);
        let [forward, reverse] = self.hashes(&record);
        let payload = |direction| Payload::new(EntryKind::Flow, number, direction).0;
        // The order of the packet path: whoever finds the first direction finds both.
        let entered = insert(self, reverse, payload(1)).is_ok();
        if entered && insert(self, forward, payload(0)).is_ok() {
            return true;
        }
        if entered {
            remove(self, reverse, payload(1));
        }
        // Nobody knows the record.
        self.flows.write(number, FlowRecord { state: CLEARED, ..FlowRecord::default() });
        if let Err(error) = self.release(number) {
            tracing::warn!(number, %error, "a flow record is lost");
        }
        false
    }

    /// Adds a mapping that `references` flows will use; `None` if there is no room or its ends are
    /// taken.
    pub(crate) fn adopt_mapping(&mut self, mapping: &Mapping) -> Option<u32> {
        let number = self.take_mapping()?;
        let mapping = Mapping { references: 0, state: LIVE.into(), ..*mapping };
        self.mappings.write(number, mapping);
        let entries = [
            (EntryKind::External, mapping.external_key()),
            (EntryKind::Internal, mapping.internal_key()),
        ];
        for (kind, key) in entries {
            let hash = hash16(self.config.seed, key.words(kind));
            if insert(self, hash, Payload::new(kind, number, 0).0).is_err() {
                // Takes out what is in, and makes it `GONE`: the next passes do the rest.
                self.close_mapping(number);
                return None;
            }
        }
        Some(number)
    }

    /// Number of the same flow, if it is in this table already.
    pub(crate) fn number_of(&self, flow: &FlowRecord) -> Option<u32> {
        let [forward, _] = self.hashes(flow);
        let number = Payload(find(self, forward)?).number();
        self.flow(number).filter(|known| known.ends == flow.ends).map(|_| number)
    }

    /// Brings the state of a connection to what another table knows of it, where that is later.
    pub(super) fn catch_up(&self, number: u32, later: &FlowRecord) {
        let Some(record) = self.flows.pointer(number) else { return };
        let is_later = |one: u32, other: u32| one.wrapping_sub(other) as i32 > 0;
        for (index, side) in later.sides.iter().enumerate() {
            // SAFETY: `index` is below the number of sides; fields of a record in mapped memory, which
            // others change as atomics.
            unsafe {
                let mine = (&raw mut (*record.as_ptr()).sides).cast::<Side>().add(index);
                for (field, value) in
                    [(&raw mut (*mine).end, side.end), (&raw mut (*mine).max_end, side.max_end)]
                {
                    let _ = AtomicU32::from_ptr(field).fetch_update(
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                        |known| is_later(value, known).then_some(value),
                    );
                }
                AtomicU16::from_ptr(&raw mut (*mine).window)
                    .fetch_max(side.window, Ordering::AcqRel);
                AtomicU8::from_ptr(&raw mut (*mine).seen).fetch_or(side.seen, Ordering::AcqRel);
            }
        }
    }

    /// Number of the mapping with the same ends.
    pub(crate) fn find_mapping(&self, mapping: &Mapping) -> Option<u32> {
        let hash = hash16(self.config.seed, mapping.external_key().words(EntryKind::External));
        let payload = Payload(find(self, hash)?);
        let known = self.mapping(payload.number())?;
        let same = payload.kind() == EntryKind::External as u32
            && known.external_key() == mapping.external_key()
            && known.internal_key() == mapping.internal_key();
        same.then(|| payload.number())
    }

    /// Counts a user of a mapping in; `false` if it is going away.
    pub(crate) fn join_mapping(&self, number: u32) -> bool {
        self.references(number).is_some_and(References::acquire)
    }

    /// Counts a user of a mapping out again.
    pub(super) fn forsake_mapping(&self, number: u32) {
        self.leave_mapping(number, 0);
    }

    pub(crate) fn take_flow(&mut self) -> Option<u32> {
        let taken = [taken::FLOWS, taken::WAITING_FLOWS].map(|at| self.taken.get(at));
        Self::take(&mut self.free_flows, taken, self.flows.len())
    }

    pub(crate) fn take_mapping(&mut self) -> Option<u32> {
        let taken = [taken::MAPPINGS, taken::WAITING_MAPPINGS].map(|at| self.taken.get(at));
        Self::take(&mut self.free_mappings, taken, self.mappings.len())
    }

    /// Puts a number into its queue.
    fn hand_back(
        free: &mut Queue<MapData, u32>,
        waiting: Option<&AtomicU32>,
        number: u32,
    ) -> std::result::Result<(), aya::maps::MapError> {
        // Before: a packet that sees none does not look for one.
        waiting.inspect(|waiting| {
            waiting.fetch_add(1, Ordering::AcqRel);
        });
        free.push(number, 0).inspect_err(|_| {
            waiting.inspect(|waiting| {
                waiting.fetch_sub(1, Ordering::AcqRel);
            });
        })
    }

    fn take(
        free: &mut Queue<MapData, u32>,
        [taken, waiting]: [Option<&AtomicU32>; 2],
        most: u32,
    ) -> Option<u32> {
        let fresh = taken?.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
            (taken < most).then(|| taken + 1)
        });
        match fresh {
            Ok(number) => Some(number),
            Err(_) => {
                let number = free.pop(0).ok()?;
                waiting?.fetch_sub(1, Ordering::AcqRel);
                Some(number)
            }
        }
    }

    /// Gives back locks that are held since before a process of ours was killed in an insertion. The
    /// packet path holds one for less than a microsecond.
    pub(super) fn break_stale_locks(&self) {
        let held = |lock: &&AtomicU32| lock.load(Ordering::Acquire) != 0;
        let mut stale: Vec<&AtomicU32> =
            (0..LOCKS).filter_map(|index| self.locks.get(index)).filter(held).collect();
        for _ in 0..20 {
            if stale.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_micros(200));
            stale.retain(held);
        }
        tracing::warn!(locks = stale.len(), "locks of the flow index were left held");
        for lock in stale {
            lock.store(0, Ordering::Release);
        }
    }
}

impl Memory for FlowTable {
    fn buckets(&self) -> u32 {
        self.config.buckets
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.index.get(index)
    }

    fn lock(&self, index: u32) -> Option<&AtomicU32> {
        self.locks.get(index)
    }
}
