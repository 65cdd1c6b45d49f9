//! Maps of fragments.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, LruHashMap},
};
use portcullis_datapath::fragments::FragmentTables;
use portcullis_datapath_abi::{
    Datagram, FragmentKey, HeldFrame,
    fragment::{HELD_COLUMNS, HELD_ROWS, MAX_DATAGRAMS, RANGES, Range},
};
use portcullis_flow_table::AtomicU32;

use super::Maps;

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Datagram> = LruHashMap::pinned(MAX_DATAGRAMS, 0);
#[map]
pub static HELD: Array<HeldFrame> = Array::pinned(HELD_ROWS * HELD_COLUMNS, 0);
#[map]
static HELD_COUNTS: Array<u32> = Array::pinned(HELD_ROWS, 0);

impl FragmentTables for Maps {
    #[inline(always)]
    fn datagram(&self, key: &FragmentKey) -> Option<NonNull<Datagram>> {
        NonNull::new(FRAGMENTS.get_ptr_mut(key)?)
    }

    #[inline(always)]
    fn add_datagram(&self, key: &FragmentKey) -> Option<NonNull<Datagram>> {
        insert(key);
        // Also if another processor was faster.
        NonNull::new(FRAGMENTS.get_ptr_mut(key)?)
    }

    #[inline(always)]
    fn forget_datagram(&self, key: &FragmentKey) {
        let _ = FRAGMENTS.remove(key);
    }

    #[inline(always)]
    fn held(&self, index: u32) -> Option<NonNull<HeldFrame>> {
        NonNull::new(HELD.get_ptr_mut(index)?)
    }

    #[inline(always)]
    fn held_count(&self, row: u32) -> Option<&AtomicU32> {
        // SAFETY: map memory stays valid while the program runs, and is aligned; the words are changed
        // by atomic operations only.
        Some(unsafe { AtomicU32::from_ptr(HELD_COUNTS.get_ptr_mut(row)?) })
    }
}

/// A function of its own, with a stack frame of its own for the new value.
#[inline(never)]
fn insert(key: &FragmentKey) {
    let empty = Datagram {
        held: 0,
        lock: 0,
        since: 0,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        flags: 0,
        total: 0,
        passed: [Range { start: 0, end: 0 }; RANGES],
        search: [0; 4],
    };
    let _ = FRAGMENTS.insert(key, &empty, u64::from(BPF_NOEXIST));
}
