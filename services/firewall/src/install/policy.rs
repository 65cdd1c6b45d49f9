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

type Classes = LpmTrie<MapData, ClassKey, u32>;

/// Fills a bank that is not in force.
///
/// # Errors
/// If there is no room, or what the kernel says.
pub(super) fn write(maps: &Maps, bank: u32, policy: &Compiled) -> Result<()> {
    maps.policy().write(bank, &policy.lines)?;
    clear(maps, bank)?;
    let mut classes: Classes = maps.map(map::CLASSES)?;
    for (key, bits, line) in policy.class_entries(bank) {
        classes.insert(&Key::new(bits, key), line, 0).map_err(failed)?;
    }
    Ok(())
}

/// Takes the entries of a bank that is not in force out of the tries. Its lines stay as they are:
/// their memory is not theirs alone.
///
/// # Errors
/// What the kernel says.
pub(super) fn clear(maps: &Maps, bank: u32) -> Result<()> {
    let mut classes: Classes = maps.map(map::CLASSES)?;
    // First all keys: the kernel goes from one to the next, and would begin again behind a key that
    // is gone.
    let mut old = Vec::new();
    for key in classes.keys() {
        let key = key.map_err(failed)?;
        if space_bank(key.data().space) == bank {
            old.push(key);
        }
    }
    old.iter().try_for_each(|key| classes.remove(key).map_err(failed))
}

fn failed(source: MapError) -> DatapathError {
    DatapathError::Map { name: map::CLASSES, source: Box::new(source) }
}
