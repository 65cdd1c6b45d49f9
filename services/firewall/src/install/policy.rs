//! The compiled rules, into one half of their tables.

use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use portcullis_datapath_abi::{
    classifier::{ClassKey, space_bank},
    map,
};
use portcullis_policy::Compiled;

use crate::datapath::{DatapathError, Maps, Result};

/// Fills a bank that is not in force.
///
/// # Errors
/// If there is no room, or what the kernel says.
pub(super) fn write(maps: &Maps, bank: u32, policy: &Compiled) -> Result<()> {
    maps.policy().write(bank, &policy.lines)?;
    let mut trie: LpmTrie<MapData, ClassKey, u32> = maps.map(map::CLASSES)?;
    let mut old = Vec::new();
    for key in trie.keys() {
        let key = key.map_err(failed)?;
        if space_bank(key.data().space) == bank {
            old.push(key);
        }
    }
    for key in &old {
        trie.remove(key).map_err(failed)?;
    }
    for (key, bits, line) in policy.class_entries(bank) {
        trie.insert(&Key::new(bits, key), line, 0).map_err(failed)?;
    }
    Ok(())
}

fn failed(source: MapError) -> DatapathError {
    DatapathError::Map { name: map::CLASSES, source: Box::new(source) }
}
