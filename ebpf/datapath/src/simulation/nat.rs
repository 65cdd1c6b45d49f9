//! Tables of the translation in ordinary memory.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{BTreeMap, HashMap},
    ptr::NonNull,
};

use portcullis_datapath_abi::{
    Mapping,
    flow::LIVE,
    nat::{
        External, ExternalKey, Forward, ForwardKey, ForwardList, ForwardSourceKey, Pool, PoolBlock,
        PoolBlockKey, PoolKey, StaticKey,
    },
};

use super::Simulation;
use crate::nat::NatTables;

/// A longest-prefix-match trie: values by the bytes of a prefix and its length in bits.
#[derive(Clone, Debug)]
pub struct Trie<V>(HashMap<(u32, Vec<u8>), V>);

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V: Copy> Trie<V> {
    /// Adds the first `bits` of `key`.
    pub fn insert(&mut self, bits: u32, key: &[u8], value: V) {
        self.0.insert((bits, masked(key, bits)), value);
    }

    /// The value of the longest prefix of the first `bits` of `key`.
    pub fn get(&self, bits: u32, key: &[u8]) -> Option<V> {
        (0..=bits).rev().find_map(|bits| self.0.get(&(bits, masked(key, bits))).copied())
    }
}

fn masked(key: &[u8], bits: u32) -> Vec<u8> {
    (0_u32..)
        .zip(key)
        .map(|(index, byte)| {
            let here = bits.saturating_sub(index * 8).min(8);
            byte & !(0xff_u32 >> here) as u8
        })
        .collect()
}

/// Contents of the tables, and the mappings made. Keys of tries as in [`bytes`].
#[derive(Default)]
pub struct NatMaps {
    /// External addresses.
    pub externals: Trie<External>,
    /// Port forwards by external port.
    pub forward_ports: Trie<ForwardList>,
    /// Port forwards by place.
    pub forwards: BTreeMap<u32, Forward>,
    /// Sources of port forwards.
    pub forward_sources: Trie<u32>,
    /// 1:1 translations.
    pub statics: Trie<u32>,
    /// Pools by source.
    pub pools: Trie<Pool>,
    /// Addresses of pools.
    pub pool_blocks: Trie<PoolBlock>,
    /// Bits of reserved ports.
    pub reserved: BTreeMap<u32, u64>,
    // Never moved or freed before the tables are.
    mappings: RefCell<HashMap<u32, Box<UnsafeCell<Mapping>>>>,
    taken: Cell<u32>,
    free: RefCell<Vec<u32>>,
}

/// A key as the kernel's trie reads it.
pub fn bytes<K: Copy>(key: &K) -> Vec<u8> {
    // SAFETY: the keys are plain integers without padding, and the slice ends with its key.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(key).cast(), size_of::<K>()) }.to_vec()
}

impl NatMaps {
    /// The mappings that are in use, by number.
    pub fn mappings(&self) -> BTreeMap<u32, Mapping> {
        self.mappings
            .borrow()
            .iter()
            // SAFETY: mappings live as long as the tables; no reference to one is held.
            .map(|(number, mapping)| (*number, unsafe { *mapping.get() }))
            .filter(|(_, mapping)| mapping.state == u32::from(LIVE))
            .collect()
    }

    /// Hands a number back, as the service does once the mapping is out of the index.
    pub fn recycle(&self, number: u32) {
        if let Some(mapping) = self.mappings.borrow().get(&number) {
            // SAFETY: as above.
            unsafe { *mapping.get() = Mapping::default() };
        }
        self.free.borrow_mut().push(number);
    }
}

impl NatTables for Simulation {
    fn external(&self, key: &ExternalKey) -> Option<External> {
        self.nat.externals.get(ExternalKey::BITS, &bytes(key))
    }

    fn forwards(&self, key: &ForwardKey) -> Option<ForwardList> {
        self.nat.forward_ports.get(ForwardKey::BITS, &bytes(key))
    }

    fn forward(&self, index: u32) -> Option<Forward> {
        self.nat.forwards.get(&index).copied()
    }

    fn is_forward_source(&self, key: &ForwardSourceKey) -> bool {
        self.nat.forward_sources.get(ForwardSourceKey::BITS, &bytes(key)).is_some()
    }

    fn static_nat(&self, key: &StaticKey) -> Option<u32> {
        self.nat.statics.get(StaticKey::BITS, &bytes(key))
    }

    fn pool(&self, key: &PoolKey) -> Option<Pool> {
        self.nat.pools.get(PoolKey::BITS, &bytes(key))
    }

    fn pool_block(&self, key: &PoolBlockKey) -> Option<PoolBlock> {
        self.nat.pool_blocks.get(PoolBlockKey::BITS, &bytes(key))
    }

    fn reserved(&self, index: u32) -> u64 {
        self.nat.reserved.get(&index).copied().unwrap_or_default()
    }

    fn mapping(&self, number: u32) -> Option<NonNull<Mapping>> {
        NonNull::new(self.nat.mappings.borrow().get(&number)?.get())
    }

    fn take_mapping(&self, limit: u32) -> Option<u32> {
        if let Some(number) = self.nat.free.borrow_mut().pop() {
            return Some(number);
        }
        let number = self.nat.taken.get();
        if number >= limit {
            return None;
        }
        self.nat.taken.set(number + 1);
        self.nat.mappings.borrow_mut().insert(number, Box::default());
        Some(number)
    }

    fn return_mapping(&self, number: u32) {
        self.nat.free.borrow_mut().push(number);
    }

    fn chance(&self) -> u32 {
        self.random_number()
    }
}
