//! An index in ordinary memory.

use std::sync::atomic::{AtomicU32, Ordering};

use portcullis_flow_table::{Bucket, LOCKS, Memory};

/// Secret of the tests' tables: any will do.
pub const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

pub struct Index {
    buckets: Vec<Bucket>,
    locks: Vec<AtomicU32>,
}

impl Index {
    pub fn new(buckets: u32) -> Self {
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            locks: (0..LOCKS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// All payloads that are in it, with as many copies as there are entries.
    pub fn payloads(&self) -> Vec<u32> {
        let slots = self.buckets.iter().flat_map(|bucket| &bucket.0);
        slots
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|entry| *entry != 0)
            .map(|entry| entry as u32)
            .collect()
    }

    /// Entries in each bucket.
    pub fn occupancy(&self) -> Vec<usize> {
        let used = |bucket: &Bucket| {
            bucket.0.iter().filter(|slot| slot.load(Ordering::Relaxed) != 0).count()
        };
        self.buckets.iter().map(used).collect()
    }

    pub fn is_unlocked(&self) -> bool {
        self.locks.iter().all(|lock| lock.load(Ordering::SeqCst) == 0)
    }

    /// Holds all locks, as an insertion on another CPU that never ends would.
    pub fn lock_all(&self) {
        for lock in &self.locks {
            lock.store(1, Ordering::SeqCst);
        }
    }
}

impl Memory for Index {
    fn buckets(&self) -> u32 {
        self.buckets.len() as u32
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.buckets.get(index as usize)
    }

    fn lock(&self, index: u32) -> Option<&AtomicU32> {
        self.locks.get(index as usize)
    }
}
