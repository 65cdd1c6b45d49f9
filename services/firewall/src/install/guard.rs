//! The guard's maps: settings and unwanted prefixes.

use std::collections::BTreeMap;

use aya::maps::{
    Array, MapData,
    lpm_trie::{Key, LpmTrie},
};
use portcullis_datapath_abi::{guard::Guard, map};

use crate::{
    datapath::{DatapathError, Maps, Result},
    guard::{DesiredGuard, Prefix, Sources},
};

/// What is in the maps, as far as this process knows.
#[derive(Default)]
pub struct InstalledGuard {
    settings: Option<Guard>,
    /// What the table of prefixes was made of: comparing it is cheaper than making the table again.
    sources: Option<Sources>,
}

impl InstalledGuard {
    /// Writes what differs; returns whether anything did, and whether the prefixes did.
    ///
    /// # Errors
    /// If the kernel refuses a write; the next call goes on.
    pub fn install(
        &mut self,
        maps: &Maps,
        desired: &DesiredGuard,
        attacked: bool,
    ) -> Result<(bool, bool)> {
        let prefixes = self.sources.as_ref() != Some(&desired.sources);
        if prefixes {
            install_prefixes(maps, &desired.prefixes().entries)?;
            self.sources = Some(desired.sources.clone());
        }
        let settings = desired.settings(attacked);
        let changed = self.settings != Some(settings);
        if changed {
            let mut map: Array<MapData, Guard> = maps.map(map::GUARD)?;
            map.set(0, settings, 0).map_err(failed(map::GUARD))?;
            self.settings = Some(settings);
        }
        Ok((changed || prefixes, prefixes))
    }
}

fn failed(name: &'static str) -> impl Fn(aya::maps::MapError) -> DatapathError {
    move |source| DatapathError::Map { name, source: Box::new(source) }
}

/// New prefixes come before old ones go, so that an address that stays blocked is so all the time.
fn install_prefixes(maps: &Maps, wanted: &BTreeMap<Prefix, u32>) -> Result<()> {
    let mut trie: LpmTrie<MapData, [u8; 16], u32> = maps.map(map::PREFIXES)?;
    let mut present = BTreeMap::new();
    for entry in trie.iter() {
        let (key, flags) = entry.map_err(failed(map::PREFIXES))?;
        let length = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
        present.insert((u128::from_be_bytes(key.data()), length), flags);
    }
    for (prefix, flags) in wanted {
        if present.get(prefix) != Some(flags) {
            trie.insert(&key(*prefix), *flags, 0).map_err(failed(map::PREFIXES))?;
        }
    }
    for prefix in present.keys().filter(|prefix| !wanted.contains_key(prefix)) {
        trie.remove(&key(*prefix)).map_err(failed(map::PREFIXES))?;
    }
    Ok(())
}

fn key((bits, length): Prefix) -> Key<[u8; 16]> {
    Key::new(length.into(), bits.to_be_bytes())
}
