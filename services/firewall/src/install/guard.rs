//! The guard's maps: settings and unwanted prefixes.

use std::{collections::BTreeMap, io};

use aya::maps::{
    Array, MapData,
    lpm_trie::{Key, LpmTrie},
};
use portcullis_datapath_abi::{
    guard::{Guard, MAX_PREFIXES},
    map,
};

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
    /// If there is no room for the prefixes: those of before stay then. Or if the kernel refuses a write;
    /// the next call goes on.
    pub fn install(
        &mut self,
        maps: &Maps,
        desired: &DesiredGuard,
        attacked: bool,
    ) -> Result<(bool, bool)> {
        let prefixes = self.sources.as_ref() != Some(&desired.sources);
        if prefixes {
            let wanted = desired.prefixes().entries;
            check_room(wanted.len())?;
            // Should it fail halfway, nothing is known of the table, whatever is wanted next.
            self.sources = None;
            install_prefixes(maps, &wanted)?;
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

fn check_room(prefixes: usize) -> Result<()> {
    if prefixes <= MAX_PREFIXES as usize {
        return Ok(());
    }
    let message = format!(
        "blocklist, exemptions and bogons come to {prefixes} prefixes, {MAX_PREFIXES} are possible; \
         those of before stay in force"
    );
    let source = io::Error::new(io::ErrorKind::OutOfMemory, message);
    Err(DatapathError::Memory { name: map::PREFIXES, source })
}

/// New prefixes come before old ones go, so that an address that stays blocked is so all the time; only
/// where the table has no room for both it is the other way round.
fn install_prefixes(maps: &Maps, wanted: &BTreeMap<Prefix, u32>) -> Result<()> {
    let mut trie: LpmTrie<MapData, [u8; 16], u32> = maps.map(map::PREFIXES)?;
    let mut present = BTreeMap::new();
    for entry in trie.iter() {
        let (key, flags) = entry.map_err(failed(map::PREFIXES))?;
        let length = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
        present.insert((u128::from_be_bytes(key.data()), length), flags);
    }
    let stale: Vec<Prefix> =
        present.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
    let no_room = wanted.len() + stale.len() > MAX_PREFIXES as usize;
    if no_room {
        remove(&mut trie, &stale)?;
    }
    for (prefix, flags) in wanted {
        if present.get(prefix) != Some(flags) {
            trie.insert(&key(*prefix), *flags, 0).map_err(failed(map::PREFIXES))?;
        }
    }
    if no_room { Ok(()) } else { remove(&mut trie, &stale) }
}

fn remove(trie: &mut LpmTrie<MapData, [u8; 16], u32>, prefixes: &[Prefix]) -> Result<()> {
    prefixes.iter().try_for_each(|prefix| trie.remove(&key(*prefix)).map_err(failed(map::PREFIXES)))
}

fn key((bits, length): Prefix) -> Key<[u8; 16]> {
    Key::new(length.into(), bits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use ipnet::IpNet;
    use portcullis_site::Pins;

    use super::*;
    use crate::datapath::{Datapath, Sizes};

    /// Addresses that no two of are one prefix.
    fn blocking(first: Ipv4Addr, count: u32) -> DesiredGuard {
        let address = |number: u32| IpAddr::from(Ipv4Addr::from(first.to_bits() + 2 * number));
        let blocked = (0..count).map(|number| IpNet::from(address(number))).collect();
        DesiredGuard { sources: Sources { blocked, ..Sources::default() }, ..Default::default() }
    }

    /// The table, however it was filled before.
    fn present(maps: &Maps) -> BTreeMap<Prefix, u32> {
        let trie: LpmTrie<MapData, [u8; 16], u32> =
            maps.map(map::PREFIXES).unwrap_or_else(|error| panic!("{error}"));
        let entries = trie.iter().map(|entry| {
            let (key, flags) = entry.unwrap_or_else(|error| panic!("{error}"));
            ((u128::from_be_bytes(key.data()), key.prefix_len() as u8), flags)
        });
        entries.collect()
    }

    #[test]
    fn a_large_list_takes_the_place_of_another_and_one_without_room_leaves_no_trace() {
        let pins = Pins::new().unwrap_or_else(|error| panic!("this test needs root: {error}"));
        let sizes = Sizes { flows: 1024, lines: 1024 };
        let datapath = Datapath::begin(pins.path(), sizes, std::sync::Arc::default());
        let mut datapath = datapath.unwrap_or_else(|error| panic!("{error}"));
        datapath.hold_back();
        let maps = datapath.maps();
        let mut installed = InstalledGuard::default();
        let [one, other] = [Ipv4Addr::new(20, 0, 0, 0), Ipv4Addr::new(40, 0, 0, 0)]
            .map(|first| blocking(first, MAX_PREFIXES / 2 + 1000));
        for list in [&one, &other] {
            let (_, changed) =
                installed.install(maps, list, false).unwrap_or_else(|error| panic!("{error}"));
            assert!(changed);
        }
        let expected = other.prefixes().entries;
        assert!(present(maps) == expected, "exactly the second list");

        let too_long = blocking(Ipv4Addr::new(60, 0, 0, 0), MAX_PREFIXES + 1);
        assert!(installed.install(maps, &too_long, false).is_err());
        assert!(installed.install(maps, &other, false).is_ok());
        assert!(present(maps) == expected, "nothing of the list without room");
    }
}
