//! The maps, typed.

use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use portcullis_datapath_abi::{
    Config, Counter, FlowEntry, FlowKey, Interface, Zone, counter::Count, map,
};

use super::{DatapathError, Result, batch};

/// Entries read at once. More than the fullest bucket of a hash map holds.
const BATCH: usize = 2048;

/// Handles to the pinned maps.
pub struct Maps {
    flows: HashMap<MapData, FlowKey, FlowEntry>,
    flows_data: MapData,
    config: Array<MapData, Config>,
    interfaces: Array<MapData, Interface>,
    zones: Array<MapData, Zone>,
    pairs: Array<MapData, u32>,
    addresses: HashMap<MapData, u32, u32>,
    counters: PerCpuArray<MapData, Count>,
}

fn failed(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { name, source: Box::new(source) }
}

fn pinned<T>(folder: &Path, name: &'static str) -> Result<T>
where
    T: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(folder.join(name))
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(failed(name))
}

impl Maps {
    /// Opens the maps pinned in a folder.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            flows: pinned(folder, map::FLOWS)?,
            flows_data: MapData::from_pin(folder.join(map::FLOWS)).map_err(failed(map::FLOWS))?,
            config: pinned(folder, map::CONFIG)?,
            interfaces: pinned(folder, map::INTERFACES)?,
            zones: pinned(folder, map::ZONES)?,
            pairs: pinned(folder, map::PAIRS)?,
            addresses: pinned(folder, map::ADDRESSES)?,
            counters: pinned(folder, map::COUNTERS)?,
        })
    }

    /// A flow entry; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says otherwise.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<FlowEntry>> {
        match self.flows.get(key, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed(map::FLOWS)(error)),
        }
    }

    /// Adds or replaces a flow entry.
    ///
    /// # Errors
    /// If the table is full.
    pub fn set_flow(&mut self, key: &FlowKey, entry: &FlowEntry) -> Result<()> {
        self.flows.insert(key, entry, 0).map_err(failed(map::FLOWS))
    }

    /// Removes a flow entry; it may be gone already.
    ///
    /// # Errors
    /// What the kernel says otherwise.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<()> {
        match self.flows.remove(key) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(failed(map::FLOWS)(error)),
        }
    }

    /// Reads the next entries of the flow table; see [`Walk`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn walk<'a>(&self, walk: &'a mut Walk) -> Result<Option<&'a [(FlowKey, FlowEntry)]>> {
        if walk.done {
            return Ok(None);
        }
        let mut keys = vec![FlowKey::default(); BATCH];
        let mut values = vec![FlowEntry::default(); BATCH];
        // SAFETY: the map of this name has these types (its folder is named after their layout).
        let (count, last) = unsafe {
            batch::lookup(&FlowsFd(&self.flows_data), &mut walk.cursor, &mut keys, &mut values)
        }
        .map_err(|source| DatapathError::Batch { name: map::FLOWS, source })?;
        walk.done = last;
        walk.entries.clear();
        walk.entries.extend(keys.into_iter().zip(values).take(count));
        Ok(Some(&walk.entries))
    }

    /// Takes over the zone ids and the route generation of another set of maps, where this one has
    /// none yet.
    pub(super) fn adopt_zones_of(&mut self, old: &Self) -> Result<()> {
        for ((id, mine), theirs) in (0_u32..).zip(self.zones()?).zip(old.zones()?) {
            if mine == Zone::default() && theirs != mine {
                self.set_zone(id, &theirs)?;
            }
        }
        let (mine, theirs) = (self.config()?, old.config()?);
        if mine.generation < theirs.generation {
            self.set_config(&theirs)?;
        }
        Ok(())
    }

    /// Copies all flows of another table that are not in this one yet; returns how many entries.
    pub(super) fn copy_flows_of(&self, old: &Self) -> Result<usize> {
        let mut flows: HashMap<MapData, FlowKey, FlowEntry> = {
            let fd = self.flows_data.fd();
            let data = std::os::fd::AsFd::as_fd(fd)
                .try_clone_to_owned()
                .map_err(|source| DatapathError::Batch { name: map::FLOWS, source })
                .and_then(|fd| MapData::from_fd(fd).map_err(failed(map::FLOWS)))?;
            Map::from_map_data(data).and_then(HashMap::try_from).map_err(failed(map::FLOWS))?
        };
        let mut copied = 0;
        let mut walk = Walk::default();
        while let Some(entries) = old.walk(&mut walk)? {
            for (key, entry) in entries {
                const NOEXIST: u64 = 1;
                // A smaller table takes what fits.
                if flows.insert(key, entry, NOEXIST).is_ok() {
                    copied += 1;
                }
            }
        }
        Ok(copied)
    }

    /// The global settings.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn config(&self) -> Result<Config> {
        self.config.get(&0, 0).map_err(failed(map::CONFIG))
    }

    /// Replaces the global settings.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_config(&mut self, config: &Config) -> Result<()> {
        self.config.set(0, config, 0).map_err(failed(map::CONFIG))
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

    /// All verdicts by pair index.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pairs(&self) -> Result<Vec<u32>> {
        self.pairs.iter().collect::<std::result::Result<_, _>>().map_err(failed(map::PAIRS))
    }

    /// Replaces a verdict.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_pair(&mut self, index: u32, verdict: u32) -> Result<()> {
        self.pairs.set(index, verdict, 0).map_err(failed(map::PAIRS))
    }

    /// The router's addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&self) -> Result<Vec<(u32, u32)>> {
        self.addresses.iter().collect::<std::result::Result<_, _>>().map_err(failed(map::ADDRESSES))
    }

    /// Adds or replaces an address.
    ///
    /// # Errors
    /// If there are too many.
    pub fn set_address(&mut self, address: u32, interface: u32) -> Result<()> {
        self.addresses.insert(address, interface, 0).map_err(failed(map::ADDRESSES))
    }

    /// Removes an address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_address(&mut self, address: u32) -> Result<()> {
        self.addresses.remove(&address).map_err(failed(map::ADDRESSES))
    }

    /// A counter, summed over the CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counter(&self, counter: Counter) -> Result<Count> {
        let cells = self.counters.get(&(counter as u32), 0).map_err(failed(map::COUNTERS))?;
        Ok(cells.iter().fold(Count::default(), |sum, cell| Count {
            packets: sum.packets.wrapping_add(cell.packets),
            bytes: sum.bytes.wrapping_add(cell.bytes),
        }))
    }
}

/// A walk through the flow table, in batches, while packets flow: an entry that is made or removed
/// meanwhile may or may not be seen.
#[derive(Debug, Default)]
pub struct Walk {
    cursor: batch::Cursor,
    done: bool,
    entries: Vec<(FlowKey, FlowEntry)>,
}

struct FlowsFd<'a>(&'a MapData);

impl std::os::fd::AsRawFd for FlowsFd<'_> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd;
        self.0.fd().as_fd().as_raw_fd()
    }
}
