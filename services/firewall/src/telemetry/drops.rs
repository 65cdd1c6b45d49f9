//! The table of drops, for people.

use std::{cmp::Reverse, collections::BTreeMap};

use aya::maps::{MapData, PerCpuHashMap};
use portcullis_bus::firewall::DropCount;
use portcullis_datapath_abi::{Counter, counter::Count, event::DropKey, map};

use crate::datapath::{DatapathError, Maps, Result};

/// All cells, summed over CPUs.
///
/// # Errors
/// What the kernel says.
pub fn read(maps: &Maps) -> Result<Vec<(DropKey, Count)>> {
    let cells: PerCpuHashMap<MapData, DropKey, Count> = maps.map(map::DROPS)?;
    cells
        .iter()
        .map(|cell| cell.map(|(key, cpus)| (key, sum(cpus.iter()))))
        .collect::<std::result::Result<_, _>>()
        .map_err(|source| DatapathError::Map { name: map::DROPS, source: Box::new(source) })
}

/// The sum over all CPUs.
pub fn sum<'a>(counts: impl IntoIterator<Item = &'a Count>) -> Count {
    counts.into_iter().fold(Count::default(), |sum, count| Count {
        packets: sum.packets.wrapping_add(count.packets),
        bytes: sum.bytes.wrapping_add(count.bytes),
    })
}

/// The cells with names, most packets first.
pub fn table(
    cells: impl IntoIterator<Item = (DropKey, Count)>,
    zones: &BTreeMap<u8, String>,
) -> Vec<DropCount> {
    let zone = |id: u8| zones.get(&id).cloned().unwrap_or_default();
    let mut cells: Vec<_> = cells
        .into_iter()
        // Of a newer datapath.
        .filter_map(|(key, count)| Some((Counter::ALL.get(usize::from(key.reason))?, key, count)))
        .collect();
    cells.sort_by_key(|(_, key, count)| (Reverse(count.packets), *key));
    cells
        .into_iter()
        .map(|(reason, key, count)| DropCount {
            reason: reason.name().to_owned(),
            description: reason.description().to_owned(),
            from_zone: zone(key.from),
            to_zone: zone(key.to),
            packets: count.packets,
            bytes: count.bytes,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::event::UNKNOWN_ZONE;

    use super::*;

    #[test]
    fn most_come_first_and_unknown_zones_stay_empty() {
        let zones = BTreeMap::from([(0, "router".to_owned()), (2, "wan".to_owned())]);
        let key = |reason: u16, to| DropKey { reason, from: 2, to };
        let count = |packets| Count { packets, bytes: packets * 100 };
        let policy = Counter::DropPolicy as u16;
        let table = table(
            [
                (key(Counter::DropMalformed as u16, UNKNOWN_ZONE), count(3)),
                (key(policy, 0), count(9)),
                (key(9999, 0), count(100)),
            ],
            &zones,
        );
        assert_eq!(table.len(), 2);
        assert_eq!(table[0].reason, "drop.policy");
        assert_eq!((table[0].from_zone.as_str(), table[0].to_zone.as_str()), ("wan", "router"));
        assert_eq!((table[1].to_zone.as_str(), table[1].bytes), ("", 300));
    }

    #[test]
    fn cpus_are_added_up() {
        let cpus = [Count { packets: 1, bytes: 60 }, Count { packets: 2, bytes: 80 }];
        assert_eq!(sum(&cpus), Count { packets: 3, bytes: 140 });
    }
}
