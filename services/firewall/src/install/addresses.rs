//! The router's own addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
};

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use portcullis_datapath_abi::map;

use crate::{
    compile::Desired,
    datapath::{DatapathError, Maps, Result},
    purge::Gone,
};

/// Writes the addresses; those that the router has no longer are `gone`.
pub(super) fn install(maps: &Maps, desired: &Desired, gone: &mut Gone) -> Result<bool> {
    let (mut removed, mut removed6) = (Vec::new(), Vec::new());
    let written = write(maps, map::ADDRESSES, &desired.addresses, &mut removed).and_then(|four| {
        Ok(four | write(maps, map::ADDRESSES6, &desired.addresses6, &mut removed6)?)
    });
    gone.addresses.extend(&removed);
    gone.networks.extend(lost_networks(&removed6, desired.addresses6.keys()));
    written
}

/// Brings one table to what is wanted; whether anything changed. Addresses go before others come: the
/// table has room for as many as there may be, not for twice as many.
fn write<K: Copy + Eq + Hash + Ord + Pod>(
    maps: &Maps,
    name: &'static str,
    wanted: &BTreeMap<K, u32>,
    removed: &mut Vec<K>,
) -> Result<bool> {
    let failed = |source| DatapathError::Map { name, source: Box::new(source) };
    let mut table: HashMap<MapData, K, u32> = maps.map(name)?;
    let actual: BTreeMap<K, u32> =
        table.iter().collect::<std::result::Result<_, _>>().map_err(failed)?;
    for address in actual.keys().filter(|address| !wanted.contains_key(address)) {
        table.remove(address).map_err(failed)?;
        removed.push(*address);
    }
    let mut changed = !removed.is_empty();
    for (address, interface) in wanted {
        if actual.get(address) != Some(interface) {
            table.insert(address, interface, 0).map_err(failed)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Networks that the router was in by an address that it has no longer, and is in by no other. An
/// IPv6 network of hosts is 64 bits long (RFC 4291 section 2.5.4).
fn lost_networks<'a>(
    removed: &[[u32; 4]],
    kept: impl Iterator<Item = &'a [u32; 4]>,
) -> BTreeSet<[u32; 2]> {
    let network = |[a, b, ..]: &[u32; 4]| [*a, *b];
    let kept: BTreeSet<_> = kept.map(network).collect();
    removed.iter().map(network).filter(|network| !kept.contains(network)).collect()
}

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::policy::MAX_ADDRESSES;

    use super::*;

    #[test]
    fn all_addresses_may_be_others_at_once() {
        let pins = portcullis_site::Pins::new().unwrap_or_else(|error| panic!("{error}"));
        let sizes = crate::datapath::Sizes { flows: 1024, lines: 1024 };
        let datapath = crate::datapath::Datapath::begin(pins.path(), sizes, Default::default());
        let mut datapath = datapath.unwrap_or_else(|error| panic!("this test needs root: {error}"));
        datapath.hold_back();
        for first in [1, 1 + MAX_ADDRESSES] {
            let addresses = (first..first + MAX_ADDRESSES).map(|address| (address, 3)).collect();
            let desired = Desired { addresses, ..Desired::default() };
            let mut gone = Gone::default();
            let changed = install(datapath.maps(), &desired, &mut gone);
            assert!(changed.is_ok_and(|changed| changed), "from {first} on");
            let lost = if first == 1 { 0 } else { MAX_ADDRESSES as usize };
            assert_eq!(gone.addresses.len(), lost);
        }
    }

    #[test]
    fn a_network_is_lost_with_its_last_address() {
        let kept = [[1, 2, 0, 9], [7, 7, 0, 1]];
        let lost = lost_networks(&[[1, 2, 0, 1], [3, 4, 0, 1]], kept.iter());
        assert_eq!(lost, [[3, 4]].into(), "1:2 still has an address");
    }
}
