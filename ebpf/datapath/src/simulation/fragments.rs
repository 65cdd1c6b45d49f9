//! The maps of fragments in ordinary memory.

use std::{
    cell::{RefCell, UnsafeCell},
    collections::{BTreeMap, HashMap},
    ptr::NonNull,
};

use portcullis_datapath_abi::{
    Datagram, FragmentKey, HeldFrame,
    fragment::{HELD_BYTES, HELD_COLUMNS, HELD_ROWS, held_index},
};
use portcullis_flow_table::AtomicU32;

use super::{Bytes, Simulation};
use crate::{
    fragments::FragmentTables,
    hold::{Held, Slot},
};

/// Fragments. Elements never move: they are boxed.
#[derive(Default)]
pub struct FragmentMaps {
    datagrams: RefCell<HashMap<FragmentKey, Box<UnsafeCell<Datagram>>>>,
    held: RefCell<BTreeMap<u32, Box<UnsafeCell<HeldFrame>>>>,
    counts: [AtomicU32; HELD_ROWS as usize],
    /// Frames that were released and come in again.
    pub queue: RefCell<Vec<Bytes>>,
}

impl FragmentMaps {
    /// Datagrams that something is known of.
    pub fn datagrams(&self) -> usize {
        self.datagrams.borrow().len()
    }

    /// Frames that are held.
    pub fn held(&self) -> usize {
        // SAFETY: nobody has a reference into an element now.
        self.held.borrow().values().filter(|frame| unsafe { (*frame.get()).tag } != 0).count()
    }

    /// Copies a frame to its place, as the hook does.
    pub fn hold(&self, slot: Slot, frame: &Bytes) {
        if let Some(held) = self.held.borrow_mut().get_mut(&slot.0) {
            for (to, from) in held.get_mut().bytes.iter_mut().zip(&frame.0) {
                *to = *from;
            }
        }
    }

    /// Takes the frames that waited, in the order in which the hook queues them.
    pub fn release(&self, held: Held) -> Vec<Bytes> {
        let mut frames = self.held.borrow_mut();
        (0..HELD_COLUMNS)
            .filter(|column| held.columns >> column & 1 != 0)
            .filter_map(|column| {
                let frame = frames.get_mut(&held_index(held.row, column))?.get_mut();
                frame.tag = 0;
                frame.bytes.get(..frame.length as usize).map(|bytes| Bytes(bytes.to_vec()))
            })
            .collect()
    }
}

impl FragmentMaps {
    /// Releases frames into the queue.
    pub(super) fn requeue(&self, held: Held) {
        let frames = self.release(held);
        self.queue.borrow_mut().extend(frames);
    }
}

impl FragmentTables for Simulation {
    fn datagram(&self, key: &FragmentKey) -> Option<NonNull<Datagram>> {
        self.fragments.datagrams.borrow().get(key).and_then(|datagram| NonNull::new(datagram.get()))
    }

    fn add_datagram(&self, key: &FragmentKey) -> Option<NonNull<Datagram>> {
        self.fragments.datagrams.borrow_mut().entry(*key).or_default();
        self.datagram(key)
    }

    fn forget_datagram(&self, key: &FragmentKey) {
        self.fragments.datagrams.borrow_mut().remove(key);
    }

    fn held(&self, index: u32) -> Option<NonNull<HeldFrame>> {
        if index >= HELD_ROWS * HELD_COLUMNS {
            return None;
        }
        let empty = HeldFrame { tag: 0, since: 0, length: 0, bytes: [0; HELD_BYTES] };
        let mut held = self.fragments.held.borrow_mut();
        let frame = held.entry(index).or_insert_with(|| Box::new(UnsafeCell::new(empty)));
        NonNull::new(frame.get())
    }

    fn held_count(&self, row: u32) -> Option<&AtomicU32> {
        self.fragments.counts.get(row as usize)
    }
}
