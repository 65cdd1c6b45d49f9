//! The maps, typed: those of one size, the flow table, the policy.

use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use portcullis_datapath_abi::{
    Config, Counter, FlowRecord, Interface, Mapping, Zone,
    counter::{COUNT, Count},
    map,
};

use super::{DatapathError, FlowTable, PolicyLines, Result};

/// Places of the index for four flows. A flow has up to four entries: both directions, and both ends of
/// a mapping that it may have for itself alone. When the table is full of such flows the index is at 0.7
/// and refuses one new flow in 500, at seven eighths one in 20,000 (see its tests).
const SLOTS_FOR_FOUR: u64 = 23;

/// Buckets of the index for a number of flows.
pub(super) fn buckets(flows: u32) -> u32 {
    let slots = u64::from(flows) * SLOTS_FOR_FOUR / 4;
    u32::try_from(slots.div_ceil(portcullis_flow_table::SLOTS as u64)).unwrap_or(u32::MAX).max(1)
}

/// Memory that a table of a number of flows takes.
pub(super) fn bytes(flows: u32) -> u64 {
    // Numbers of free records and mappings stand in queues.
    let each = size_of::<FlowRecord>() + size_of::<Mapping>() + 2 * size_of::<u32>();
    u64::from(flows) * each as u64 + u64::from(buckets(flows)) * 64
}

/// Handles to the pinned maps.
pub struct Maps {
    folder: PathBuf,
    flows: FlowTable,
    policy: PolicyLines,
    config: Array<MapData, Config>,
    interfaces: Array<MapData, Interface>,
    zones: Array<MapData, Zone>,
    counters: PerCpuArray<MapData, Count>,
}

pub(super) fn failed(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { name, source: Box::new(source) }
}

pub(super) fn data(folder: &Path, name: &'static str) -> Result<MapData> {
    MapData::from_pin(folder.join(name)).map_err(failed(name))
}

pub(super) fn pinned<T>(folder: &Path, name: &'static str) -> Result<T>
where
    T: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(folder.join(name))
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(failed(name))
}

/// The settings of the table in a folder.
pub(super) fn config(sized: &Path) -> Result<Array<MapData, Config>> {
    pinned(sized, map::CONFIG)
}

impl Maps {
    /// Opens the maps pinned in three folders: those of one size, the flow table, the policy. The
    /// settings must have been made.
    pub(super) fn open(folder: &Path, flows: &Path, policy: &Path) -> Result<Self> {
        let config = config(flows)?;
        let settings = config.get(&0, 0).map_err(failed(map::CONFIG))?;
        Ok(Self {
            folder: folder.to_owned(),
            flows: FlowTable::open(flows, settings)?,
            policy: PolicyLines::open(policy)?,
            config,
            interfaces: pinned(folder, map::INTERFACES)?,
            zones: pinned(folder, map::ZONES)?,
            counters: pinned(folder, map::COUNTERS)?,
        })
    }

    /// Another map, of those that do not depend on the size of the flow table.
    ///
    /// # Errors
    /// If there is none of this name, or it is of another type.
    pub fn map<T>(&self, name: &'static str) -> Result<T>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        pinned(&self.folder, name)
    }

    /// The flow table.
    pub fn flows(&mut self) -> &mut FlowTable {
        &mut self.flows
    }

    /// The compiled rules.
    pub fn policy(&self) -> &PolicyLines {
        &self.policy
    }

    /// The global settings.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn config(&self) -> Result<Config> {
        self.config.get(&0, 0).map_err(failed(map::CONFIG))
    }

    /// Changes the global settings: all at once, as far as packets see.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_config(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = self.config()?;
        change(&mut config);
        self.config.set(0, config, 0).map_err(failed(map::CONFIG))
    }

    /// Has all cached next hops looked up again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn next_generation(&mut self) -> Result<()> {
        // 0 means "never looked up".
        self.change_config(|config| config.generation = config.generation.wrapping_add(1).max(1))
    }

    /// All interface slots.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        self.interfaces
            .iter()
            .collect::<std::result::Result<_, _>>()
            .map_err(failed(map::INTERFACES))
    }

    /// Replaces a slot.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_interface(&mut self, slot: u32, interface: &Interface) -> Result<()> {
        self.interfaces.set(slot, interface, 0).map_err(failed(map::INTERFACES))
    }

    /// All zones by id.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn zones(&self) -> Result<Vec<Zone>> {
        self.zones.iter().collect::<std::result::Result<_, _>>().map_err(failed(map::ZONES))
    }

    /// Replaces a zone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_zone(&mut self, id: u32, zone: &Zone) -> Result<()> {
        self.zones.set(id, zone, 0).map_err(failed(map::ZONES))
    }

    /// A counter, summed over the CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counter(&self, counter: Counter) -> Result<Count> {
        let cells = self.counters.get(&(counter as u32), 0).map_err(failed(map::COUNTERS))?;
        Ok(sum(cells.iter()))
    }

    /// All counters in the order of [`Counter::ALL`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self) -> Result<Vec<Count>> {
        let cells = self.counters.iter().take(COUNT);
        cells.map(|cells| Ok(sum(cells.map_err(failed(map::COUNTERS))?.iter()))).collect()
    }
}

fn sum<'a>(cells: impl Iterator<Item = &'a Count>) -> Count {
    cells.fold(Count::default(), |sum, cell| Count {
        packets: sum.packets.wrapping_add(cell.packets),
        bytes: sum.bytes.wrapping_add(cell.bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_as_large_as_the_design_says() {
        // 3 MB for 65,536 flows.
        assert_eq!(buckets(65_536) * 64, 3_014_656);
        assert_eq!(buckets(0), 1);
        assert_eq!(bytes(65_536) >> 20, 15);
        // The other maps take 9 MB.
        assert!(bytes(1 << 20) <= (256 << 20) - 9_500_000, "a million flows in 256 MiB");
    }
}
