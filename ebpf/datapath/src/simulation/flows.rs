//! The flow table in ordinary memory.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::BTreeMap,
    ptr::NonNull,
};

use portcullis_datapath_abi::{FlowKey, FlowKey6, FlowRecord, flow};
use portcullis_flow_table::{AtomicU32, Bucket, LOCKS};

use super::Simulation;
use crate::flow::FlowTables;

/// Records, and how they are found.
pub struct FlowMaps {
    buckets: Box<[Bucket]>,
    locks: Box<[AtomicU32]>,
    // Never moved or freed before the tables are: packets point to them.
    records: Box<[UnsafeCell<FlowRecord>]>,
    taken: Cell<u32>,
    free: RefCell<Vec<u32>>,
}

impl FlowMaps {
    /// For so many flows.
    pub(super) fn new(flows: u32) -> Self {
        let make = |count: u32| 0..count;
        Self {
            buckets: make(flows.div_ceil(2).max(4)).map(|_| Bucket::default()).collect(),
            locks: make(LOCKS).map(|_| AtomicU32::new(0)).collect(),
            records: make(flows).map(|_| UnsafeCell::default()).collect(),
            taken: Cell::new(0),
            free: RefCell::default(),
        }
    }

    /// Buckets of the index.
    pub(super) fn buckets(&self) -> u32 {
        u32::try_from(self.buckets.len()).unwrap_or(u32::MAX)
    }

    /// The flows now, by number.
    pub fn live(&self) -> BTreeMap<u32, FlowRecord> {
        (0..)
            .zip(self.records.iter())
            // SAFETY: no reference to a record is held.
            .map(|(number, record)| (number, unsafe { *record.get() }))
            .filter(|(_, record)| record.state == flow::LIVE)
            .collect()
    }

    /// Numbers in use: taken and not handed back.
    pub fn in_use(&self) -> usize {
        self.taken.get() as usize - self.free.borrow().len()
    }

    /// Ends the service's part: records that are gone are free again.
    pub fn clear_gone(&self) {
        for (number, record) in (0..).zip(self.records.iter()) {
            // SAFETY: as above.
            let record = unsafe { &mut *record.get() };
            if record.state == flow::GONE {
                record.state = flow::FREE;
                self.free.borrow_mut().push(number);
            }
        }
    }
}

impl Simulation {
    /// Keys of both directions of the IPv4 flows now.
    pub fn flows4(&self) -> Vec<[FlowKey; 2]> {
        let all = self.flows.live();
        let v4 = all.values().filter(|record| record.flags & flow::IPV6 == 0);
        v4.map(|record| record.ends4().keys).collect()
    }

    /// Keys of the original direction of the IPv6 flows now.
    pub fn flows6(&self) -> Vec<FlowKey6> {
        let all = self.flows.live();
        let v6 = all.values().filter(|record| record.flags & flow::IPV6 != 0);
        v6.map(FlowRecord::ends6).collect()
    }
}

impl FlowTables for Simulation {
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.flows.buckets.get(index as usize)
    }

    fn lock(&self, index: u32) -> Option<&AtomicU32> {
        self.flows.locks.get(index as usize)
    }

    fn record(&self, number: u32) -> Option<NonNull<FlowRecord>> {
        NonNull::new(self.flows.records.get(number as usize)?.get())
    }

    fn take_record(&self, limit: u32) -> Option<u32> {
        if let Some(number) = self.flows.free.borrow_mut().pop() {
            return Some(number);
        }
        let number = self.flows.taken.get();
        if number >= limit {
            return None;
        }
        self.flows.taken.set(number + 1);
        Some(number)
    }

    fn return_record(&self, number: u32) {
        self.flows.free.borrow_mut().push(number);
    }
}
