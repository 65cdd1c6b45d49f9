//! The flow table.

use core::{ptr::NonNull, sync::atomic::Ordering};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, Queue},
};
use portcullis_datapath::FlowTables;
use portcullis_datapath_abi::{FlowRecord, flow::taken};
use portcullis_flow_table::{AtomicU32, Bucket, LOCKS as LOCK_COUNT};

use super::Maps;

// User space sets the sizes when it loads the programs, and reads and writes them in its memory.
#[map]
static INDEX: Array<Bucket> = Array::pinned(1, BPF_F_MMAPABLE);
#[map]
static LOCKS: Array<AtomicU32> = Array::pinned(LOCK_COUNT, BPF_F_MMAPABLE);
#[map]
static FLOWS: Array<FlowRecord> = Array::pinned(1, BPF_F_MMAPABLE);
#[map]
static TAKEN: Array<AtomicU32> = Array::pinned(taken::COUNT, BPF_F_MMAPABLE);
#[map]
static FREE_FLOWS: Queue<u32> = Queue::pinned(1, 0);

/// A number that is free: one that was handed back, else one that was never taken; `None` if all are
/// in use.
#[inline(always)]
pub fn take(free: &Queue<u32>, taken: u32, waiting: u32, limit: u32) -> Option<u32> {
    // Looking into the queue takes its lock.
    if TAKEN.get(waiting)?.load(Ordering::Relaxed) != 0
        && let Some(number) = reuse(free, waiting)
    {
        return Some(number);
    }
    let taken = TAKEN.get(taken)?;
    // Looked at first, so that a flood does not count it round.
    if taken.load(Ordering::Relaxed) < limit {
        let number = taken.fetch_add(1, Ordering::SeqCst);
        if number < limit {
            return Some(number);
        }
    }
    reuse(free, waiting)
}

/// A number that was handed back.
#[inline(always)]
fn reuse(free: &Queue<u32>, waiting: u32) -> Option<u32> {
    let number = free.pop().ok().flatten()?;
    if let Some(waiting) = TAKEN.get(waiting) {
        waiting.fetch_sub(1, Ordering::SeqCst);
    }
    Some(number)
}

/// Hands a number back.
#[inline(always)]
pub fn hand_back(free: &Queue<u32>, waiting: u32, number: u32) {
    if let Some(waiting) = TAKEN.get(waiting) {
        waiting.fetch_add(1, Ordering::SeqCst);
    }
    let _ = free.push(number, 0);
}

impl FlowTables for Maps {
    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        INDEX.get(index)
    }

    #[inline(always)]
    fn lock(&self, index: u32) -> Option<&AtomicU32> {
        LOCKS.get(index)
    }

    #[inline(always)]
    fn record(&self, number: u32) -> Option<NonNull<FlowRecord>> {
        NonNull::new(FLOWS.get_ptr_mut(number)?)
    }

    #[inline(always)]
    fn take_record(&self, limit: u32) -> Option<u32> {
        take(&FREE_FLOWS, taken::FLOWS, taken::WAITING_FLOWS, limit)
    }

    #[inline(always)]
    fn return_record(&self, number: u32) {
        hand_back(&FREE_FLOWS, taken::WAITING_FLOWS, number);
    }
}
