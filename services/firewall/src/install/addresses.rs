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
    let four = write(maps, map::ADDRESSES, &desired.addresses)?;
    let six = write(maps, map::ADDRESSES6, &desired.addresses6)?;
    gone.addresses.extend(&four.removed);
    gone.networks.extend(lost_networks(&six.removed, desired.addresses6.keys()));
    Ok(four.changed || six.changed)
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Changes<K> {
    removed: Vec<K>,
    changed: bool,
}

/// Brings one table to what is wanted.
fn write<K: Copy + Eq + Hash + Ord + Pod>(
    maps: &Maps,
    name: &'static str,
    wanted: &BTreeMap<K, u32>,
) -> Result<Changes<K>> {
    let failed = |source| DatapathError::Map { name, source: Box::new(source) };
    let mut table: HashMap<MapData, K, u32> = maps.map(name)?;
    let actual: BTreeMap<K, u32> =
        table.iter().collect::<std::result::Result<_, _>>().map_err(failed)?;
    let mut changes = Changes { removed: Vec::new(), changed: false };
    for (address, interface) in wanted {
        if actual.get(address) != Some(interface) {
            table.insert(address, interface, 0).map_err(failed)?;
            changes.changed = true;
        }
    }
    for address in actual.keys().filter(|address| !wanted.contains_key(address)) {
        table.remove(address).map_err(failed)?;
        changes.removed.push(*address);
        changes.changed = true;
    }
    Ok(changes)
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
    use super::*;

    #[test]
    fn a_network_is_lost_with_its_last_address() {
        let kept = [[1, 2, 0, 9], [7, 7, 0, 1]];
        let lost = lost_networks(&[[1, 2, 0, 1], [3, 4, 0, 1]], kept.iter());
        assert_eq!(lost, [[3, 4]].into(), "1:2 still has an address");
    }
}
