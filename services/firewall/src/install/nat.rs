//! Port forwards, 1:1 addresses and pools, into one half of their tables.

use std::collections::BTreeSet;

use aya::{
    Pod,
    maps::{
        Array, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use portcullis_datapath_abi::nat::{
    External, ExternalKey, Forward, ForwardKey, ForwardSourceKey, PoolBlockKey, PoolKey,
    RESERVED_WORDS, StaticKey, forward_index, map,
};
use portcullis_policy::{Nat, nat::Prefixes};

use crate::datapath::{DatapathError, Maps, Result};

/// Keys that say which bank they are of.
trait Banked: Pod {
    fn bank(&self) -> u32;
    fn in_bank(self, bank: u32) -> Self;
}

macro_rules! banked {
    ($($Key:ty),*) => { $(
        impl Banked for $Key {
            fn bank(&self) -> u32 {
                self.bank.into()
            }

            fn in_bank(self, bank: u32) -> Self {
                // 0 or 1.
                Self { bank: bank as _, ..self }
            }
        }
    )* };
}
banked!(ExternalKey, ForwardKey, ForwardSourceKey, StaticKey, PoolKey, PoolBlockKey);

/// Fills a bank that is not in force.
///
/// # Errors
/// If there is no room, or what the kernel says.
pub(super) fn write(maps: &Maps, bank: u32, nat: &Nat) -> Result<()> {
    fill(maps, map::ADDRESSES, bank, &nat.externals)?;
    fill(maps, map::FORWARD_PORTS, bank, &nat.forward_ports)?;
    fill(maps, map::FORWARD_SOURCES, bank, &nat.forward_sources)?;
    fill(maps, map::STATIC, bank, &nat.statics)?;
    fill(maps, map::POOLS, bank, &nat.pools)?;
    fill(maps, map::POOL_BLOCKS, bank, &nat.pool_blocks)?;
    let mut forwards: Array<MapData, Forward> = maps.map(map::FORWARDS)?;
    for (number, forward) in (0..).zip(&nat.forwards) {
        forwards.set(forward_index(bank, number), forward, 0).map_err(failed(map::FORWARDS))?;
    }
    let mut reserved: Array<MapData, u64> = maps.map(map::RESERVED)?;
    for (index, word) in (0..RESERVED_WORDS).zip(&nat.reserved) {
        reserved.set(bank * RESERVED_WORDS + index, word, 0).map_err(failed(map::RESERVED))?;
    }
    Ok(())
}

fn fill<K: Banked, V: Pod>(
    maps: &Maps,
    name: &'static str,
    bank: u32,
    wanted: &Prefixes<K, V>,
) -> Result<()> {
    let mut trie: LpmTrie<MapData, K, V> = maps.map(name)?;
    let mut old = Vec::new();
    for key in trie.keys() {
        let key = key.map_err(failed(name))?;
        if key.data().bank() == bank {
            old.push(key);
        }
    }
    for key in &old {
        trie.remove(key).map_err(failed(name))?;
    }
    for ((bits, key), value) in wanted {
        trie.insert(&Key::new(*bits, key.in_bank(bank)), value, 0).map_err(failed(name))?;
    }
    Ok(())
}

/// External addresses of a bank that are not among those of `nat`: their flows are to go.
///
/// # Errors
/// What the kernel says.
pub(super) fn lost(maps: &Maps, bank: u32, nat: &Nat) -> Result<BTreeSet<u32>> {
    let trie: LpmTrie<MapData, ExternalKey, External> = maps.map(map::ADDRESSES)?;
    let mut lost = BTreeSet::new();
    for key in trie.keys() {
        let key = key.map_err(failed(map::ADDRESSES))?;
        if key.data().bank() != bank {
            continue;
        }
        let first = u32::from_be(key.data().address);
        let more = u32::MAX.checked_shr(key.prefix_len().saturating_sub(ExternalKey::FIXED_BITS));
        for address in first..=first | more.unwrap_or(0) {
            if !is_external(nat, address) {
                lost.insert(address.to_be());
            }
        }
    }
    Ok(lost)
}

fn is_external(nat: &Nat, address: u32) -> bool {
    (0..=32).any(|bits| {
        let masked = address & u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let key = ExternalKey { bank: 0, address: masked.to_be() };
        nat.externals.contains_key(&(ExternalKey::FIXED_BITS + bits, key))
    })
}

fn failed(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { name, source: Box::new(source) }
}
