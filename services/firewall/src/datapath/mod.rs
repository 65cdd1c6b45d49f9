//! The datapath in the kernel: programs, maps and attachments, pinned so that packets flow on while
//! this service restarts.
//!
//! ```text
//! <pins>/maps-<layout>/NAME                    maps that have one size
//! <pins>/maps-<layout>/flows-<flows>/NAME      the flow table
//! <pins>/maps-<layout>/policy-<lines>/POLICY   the compiled rules
//! <pins>/maps-<layout>/stages-<flows>-<lines>/ the programs of later stages over these two
//! <pins>/links/<ifindex>-<hook>                the attachments
//! ```
//!
//! [`Datapath::open`] loads our programs over the pinned maps if their layout fits, else over new
//! ones; what is attached goes on as it is. [`Datapath::attach`] moves the flows of a table of
//! another size into the one of this size, and puts our programs into the tables of stages and after
//! that into the links, each atomically, so there is no instant without a filter.
//!
//! `maps` and `flow_table` (over `mapped`) are the data; `programs`, `hooks` (over `features`) and
//! `links` say what runs where; `carry_over` moves flows.

mod carry_over;
mod features;
mod flow_table;
mod hooks;
mod links;
mod mapped;
mod maps;
mod policy;
mod programs;
#[cfg(test)]
pub(crate) mod scratch;
mod tap;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use portcullis_datapath_abi::{
    Config, LAYOUT,
    classifier::LINES,
    map,
    policy::{INTERFACE_SLOTS, XDP_TRANSMIT},
};

pub use features::Features;
pub use flow_table::{FlowTable, Glance};
pub use hooks::{Choice, Device, Kind};
pub use links::Hook;
pub use maps::Maps;
pub use policy::PolicyLines;
pub use tap::Tap;

use links::Place;
use programs::Programs;

/// Where the appliance pins.
pub const PINS: &str = "/sys/fs/bpf/portcullis";

/// The programs, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));

/// Maps that are made anew with every size of the flow table.
const SIZED: [&str; 8] = [
    map::INDEX,
    map::LOCKS,
    map::FLOWS,
    map::MAPPINGS,
    map::TAKEN,
    map::FREE_FLOWS,
    map::FREE_MAPPINGS,
    map::CONFIG,
];

/// The hooks that are always used.
const TCX: [Hook; 2] = [Hook::Egress, Hook::Ingress];

/// What can go wrong with the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A folder or pin.
    #[error("{path}: {source}")]
    Pin {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The object file or its maps.
    #[error("datapath with {flows} flows: {source}")]
    Load {
        /// Most flows asked for.
        flows: u32,
        /// What aya said.
        source: Box<aya::EbpfError>,
    },
    /// A program was refused by the kernel.
    #[error("program {name}: {source}")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the verifier said.
        source: Box<ProgramError>,
    },
    /// A program or map that should be in the object file is not.
    #[error("no {0} in the datapath's object file")]
    Missing(&'static str),
    /// An attachment.
    #[error("{hook} of {device}: {message}")]
    Attach {
        /// The device.
        device: String,
        /// Where.
        hook: &'static str,
        /// What the kernel said.
        message: String,
    },
    /// A map.
    #[error("map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<aya::maps::MapError>,
    },
    /// The memory of a map.
    #[error("memory of map {name}: {source}")]
    Memory {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The flow table would take too much of the machine's memory.
    #[error("a table of {flows} flows takes {table_mib} MiB, more than half of the memory")]
    TooLarge {
        /// Most flows asked for.
        flows: u32,
        /// Its size.
        table_mib: u64,
    },
    /// No secret for a new flow table.
    #[error("random numbers: {0}")]
    Random(io::Error),
}

/// Result with [`DatapathError`].
pub type Result<T> = std::result::Result<T, DatapathError>;

/// How large the tables are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// Most flows.
    pub flows: u32,
    /// Lines of the compiled policy, of each bank.
    pub lines: u32,
}

/// The loaded datapath.
pub struct Datapath {
    programs: Programs,
    maps: Maps,
    folders: Folders,
    sizes: Sizes,
    choices: BTreeMap<u32, Choice>,
}

impl Datapath {
    /// Loads the programs over the maps pinned under `pins`, a folder in a BPF file system, or makes
    /// these for `max_flows` flows. Nothing is attached or replaced yet.
    ///
    /// # Errors
    /// If the folder is not writable, memory does not suffice or the kernel refuses a program.
    pub fn open(pins: &Path, max_flows: u32) -> Result<Self> {
        // What runs already has a policy of this size.
        let lines = Folders::policies(pins).map(|(lines, _)| lines).max();
        Self::with_sizes(pins, Sizes { flows: max_flows, lines: lines.unwrap_or(LINES) })
    }

    /// The same with room for a policy of any size.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_sizes(pins: &Path, sizes: Sizes) -> Result<Self> {
        let folders = Folders::of(pins, sizes);
        if !folders.flows.exists() {
            check_memory(sizes.flows)?;
        }
        let mut made = Vec::new();
        for path in folders.all() {
            if !path.exists() {
                made.push(path.to_owned());
            }
            fs::create_dir_all(path)
                .map_err(|source| DatapathError::Pin { path: path.to_owned(), source })?;
        }
        let opened = Self::load(folders, sizes);
        if opened.is_err() {
            // Not half a table, for which memory did not suffice.
            for folder in made.iter().rev() {
                let _ = fs::remove_dir_all(folder);
            }
        }
        opened
    }

    fn load(folders: Folders, sizes: Sizes) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader
            // Nothing is relocated by the kernel's types, and reading them costs 14 MB.
            .btf(None)
            .default_map_pin_directory(&folders.maps)
            .map_max_entries(map::INDEX, maps::buckets(sizes.flows))
            .map_max_entries(map::POLICY, sizes.lines.saturating_mul(2))
            .map_pin_path(map::POLICY, folders.policy.join(map::POLICY));
        for name in [map::FLOWS, map::MAPPINGS, map::FREE_FLOWS, map::FREE_MAPPINGS] {
            loader.map_max_entries(name, sizes.flows);
        }
        for name in SIZED {
            loader.map_pin_path(name, folders.flows.join(name));
        }
        for name in programs::TABLES {
            loader.map_pin_path(name, folders.stages.join(name));
        }
        let object = loader.load(OBJECT).map_err(|source| DatapathError::Load {
            flows: sizes.flows,
            source: Box::new(source),
        })?;
        let mut programs = Programs::of(object);
        programs.load(&TCX)?;
        let is_new = folders.settle(sizes.flows)?;
        let maps = Maps::open(&folders.maps, &folders.flows, &folders.policy)?;
        let mut this = Self { programs, maps, folders, sizes, choices: BTreeMap::new() };
        this.maps.flows().break_stale_locks();
        if is_new {
            this.adopt_settings()?;
        }
        this.adopt_policy();
        Ok(this)
    }

    /// How large the tables are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Most flows that the table holds.
    pub fn max_flows(&self) -> u32 {
        self.sizes.flows
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// The XDP program of the same core, loaded; the caller attaches or tests it.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        self.programs.load(&[Hook::Xdp])?;
        self.programs.link(Hook::Xdp)?;
        self.programs.xdp()
    }

    /// The tcx program of a hook, loaded, with its stages.
    ///
    /// # Errors
    /// If it is missing.
    pub fn tcx(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        self.programs.link(hook)?;
        self.programs.tcx(hook)
    }

    /// All programs of a hook with their names, the one where it begins first.
    pub fn programs(&self, hook: Hook) -> impl Iterator<Item = (&'static str, &Program)> {
        self.programs.all(hook)
    }

    /// Puts our programs on exactly these devices (by index): replaces atomically what is attached,
    /// attaches what is not, detaches from all others. The devices that failed come back with the
    /// reason; the others are done. What became of the wishes for XDP is in [`Self::choices`].
    pub fn attach(&mut self, devices: &BTreeMap<u32, Device>) -> Vec<DatapathError> {
        let features = features();
        self.choices = hooks::choose(devices, &features);
        let mut failures = Vec::new();
        if let Err(error) = self.link_stages() {
            // The old ones go on, all of them.
            failures.push(error);
            return failures;
        }
        failures.extend(self.carry_flows_over().err());
        // Before a device loses XDP, nobody sends to it by XDP any more.
        failures.extend(self.allow_transmission(devices, &features, true).err());
        for (index, device) in devices {
            let mut place = Place {
                folder: &self.folders.links,
                index: *index,
                device: &device.name,
                hook: Hook::Egress,
            };
            for hook in TCX {
                place.hook = hook;
                let attached =
                    self.programs.tcx(hook).and_then(|program| place.attach_tcx(program));
                failures.extend(attached.err());
            }
            if let Some(choice) = self.choices.get_mut(index).filter(|choice| choice.xdp) {
                place.hook = Hook::Xdp;
                let attached = self.programs.xdp().and_then(|program| place.attach_xdp(program));
                if let Err(error) = attached {
                    // tcx is there: it works, but not as chosen.
                    *choice = Choice { xdp: false, reason: format!("tcx: {error}"), refused: true };
                }
            }
        }
        let choices = &self.choices;
        links::detach_others(&self.folders.links, |index, hook| {
            choices.get(&index).is_some_and(|choice| choice.xdp || hook != Hook::Xdp)
        });
        failures.extend(self.confirm_transmission(devices).err());
        if failures.is_empty() {
            // A second look: what was made or changed between the first and the change of programs.
            failures.extend(self.carry_flows_over().err());
            self.folders.remove_others();
        }
        failures
    }

    /// The hook of each device, with the reason, since the last [`Self::attach`].
    pub fn choices(&self) -> &BTreeMap<u32, Choice> {
        &self.choices
    }

    /// Notes which devices send what XDP redirects to them: drivers change their mind when programs
    /// are attached, or when queues are.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn confirm_transmission(&mut self, devices: &BTreeMap<u32, Device>) -> Result<()> {
        if self.choices.values().any(|choice| choice.xdp) {
            self.allow_transmission(devices, &features(), false)
        } else {
            Ok(())
        }
    }

    /// What is attached: device index, hook and program id.
    pub fn attachments(&self) -> Vec<(u32, Hook, u32)> {
        links::list(&self.folders.links)
    }

    fn link_stages(&mut self) -> Result<()> {
        if self.choices.values().any(|choice| choice.xdp)
            && let Err(error) = self.programs.load(&[Hook::Xdp])
        {
            for choice in self.choices.values_mut().filter(|choice| choice.xdp) {
                *choice = Choice { xdp: false, reason: format!("tcx: {error}"), refused: true };
            }
        }
        TCX.into_iter().try_for_each(|hook| self.programs.link(hook))?;
        if self.choices.values().any(|choice| choice.xdp) {
            self.programs.link(Hook::Xdp)?;
        }
        Ok(())
    }

    /// Writes the flag of the devices that XDP may send by. `only_fewer` takes it away only.
    fn allow_transmission(
        &mut self,
        devices: &BTreeMap<u32, Device>,
        features: &BTreeMap<u32, Features>,
        only_fewer: bool,
    ) -> Result<()> {
        for interface in self.maps.interfaces()? {
            let index = &interface.index;
            let Some((device, choice)) = devices.get(index).zip(self.choices.get(index)) else {
                continue;
            };
            let features = features.get(index).copied().unwrap_or_default();
            let may = hooks::transmits(device, choice, features);
            let mut wanted = interface;
            if !may {
                wanted.flags &= !XDP_TRANSMIT;
            } else if !only_fewer {
                wanted.flags |= XDP_TRANSMIT;
            }
            if wanted != interface {
                self.maps.set_interface(interface.index % INTERFACE_SLOTS, &wanted)?;
                // Flows keep the flag with their next hop.
                self.maps.next_generation()?;
            }
        }
        Ok(())
    }

    /// Goes by the same half of the policy as the table of another size that is in use, if any.
    fn adopt_settings(&mut self) -> Result<()> {
        for folder in self.folders.other_tables() {
            if let Ok(old) = maps::config(&folder).and_then(|map| read_config(&map)) {
                self.maps.change_config(|mine| {
                    // Its flows' cached next hops are of its generations.
                    mine.generation = mine.generation.max(old.generation);
                    (mine.bank, mine.flags) = (old.bank, old.flags);
                })?;
            }
        }
        Ok(())
    }

    /// Copies the compiled rules of a policy of another size.
    fn adopt_policy(&mut self) {
        let others = self.folders.other_policies();
        let others = others.iter().filter_map(|folder| PolicyLines::open(folder).ok());
        if self.maps.policy().is_empty()
            && let Some(old) = others.into_iter().find(|old| !old.is_empty())
        {
            self.maps.policy().copy_of(&old);
        }
    }

    /// Copies the flows of tables of another size.
    fn carry_flows_over(&mut self) -> Result<()> {
        for folder in self.folders.other_tables() {
            let Ok(config) = maps::config(&folder).and_then(|map| read_config(&map)) else {
                continue;
            };
            let Ok(old) = FlowTable::open(&folder, config) else { continue };
            let flows = carry_over::carry_over(self.maps.flows(), &old);
            tracing::info!(flows, from = %folder.display(), "flows carried over");
        }
        Ok(())
    }
}

/// Refuses a table that the machine is too small for: the kernel would end a process for it.
fn check_memory(flows: u32) -> Result<()> {
    let table = maps::bytes(flows);
    let total = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
    if table > total / 2 {
        return Err(DatapathError::TooLarge { flows, table_mib: table >> 20 });
    }
    Ok(())
}

/// Features of all devices; none if the kernel cannot tell.
fn features() -> BTreeMap<u32, Features> {
    features::features().unwrap_or_else(|error| {
        tracing::info!(%error, "the kernel does not tell which devices have XDP");
        BTreeMap::new()
    })
}

fn read_config(map: &aya::maps::Array<aya::maps::MapData, Config>) -> Result<Config> {
    map.get(&0, 0).map_err(maps::failed(map::CONFIG))
}

/// Where what is pinned.
#[derive(Clone, Debug)]
struct Folders {
    pins: PathBuf,
    links: PathBuf,
    maps: PathBuf,
    flows: PathBuf,
    policy: PathBuf,
    stages: PathBuf,
}

const FLOWS_PREFIX: &str = "flows-";
const POLICY_PREFIX: &str = "policy-";
const STAGES_PREFIX: &str = "stages-";
const MAPS_PREFIX: &str = "maps-";

impl Folders {
    fn of(pins: &Path, Sizes { flows, lines }: Sizes) -> Self {
        let maps = Self::maps(pins);
        Self {
            pins: pins.to_owned(),
            links: pins.join("links"),
            flows: maps.join(format!("{FLOWS_PREFIX}{flows}")),
            policy: maps.join(format!("{POLICY_PREFIX}{lines}")),
            stages: maps.join(format!("{STAGES_PREFIX}{flows}-{lines}")),
            maps,
        }
    }

    fn maps(pins: &Path) -> PathBuf {
        pins.join(format!("{MAPS_PREFIX}{LAYOUT:08x}"))
    }

    fn all(&self) -> [&Path; 6] {
        [&self.pins, &self.links, &self.maps, &self.flows, &self.policy, &self.stages]
    }

    /// Policies of our layout with their numbers of lines.
    fn policies(pins: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
        children(&Self::maps(pins), POLICY_PREFIX).into_iter().filter_map(|path| {
            let lines = path.file_name()?.to_str()?.strip_prefix(POLICY_PREFIX)?.parse().ok()?;
            Some((lines, path))
        })
    }

    /// Gives a new table its secret and its sizes, before any packet sees it. `false` if it has them.
    fn settle(&self, max_flows: u32) -> Result<bool> {
        let mut map = maps::config(&self.flows)?;
        if read_config(&map)?.buckets != 0 {
            return Ok(false);
        }
        let mut seed = [0; 16];
        let mut rest: &mut [u8] = &mut seed;
        while !rest.is_empty() {
            let got = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| DatapathError::Random(error.into()))?;
            rest = rest.get_mut(got..).unwrap_or_default();
        }
        let seed = u128::from_ne_bytes(seed);
        let config = Config {
            seed: [seed as u64, (seed >> 64) as u64],
            generation: 1,
            buckets: maps::buckets(max_flows),
            flows: max_flows,
            mappings: max_flows,
            ..Config::default()
        };
        map.set(0, config, 0).map_err(maps::failed(map::CONFIG))?;
        Ok(true)
    }

    /// Flow tables of another size with our layout.
    fn other_tables(&self) -> Vec<PathBuf> {
        self.others(FLOWS_PREFIX, &self.flows)
    }

    /// Policies of another size with our layout.
    fn other_policies(&self) -> Vec<PathBuf> {
        self.others(POLICY_PREFIX, &self.policy)
    }

    fn others(&self, prefix: &str, ours: &Path) -> Vec<PathBuf> {
        children(&self.maps, prefix).into_iter().filter(|path| path != ours).collect()
    }

    /// Removes the pins of what is not used any more.
    fn remove_others(&self) {
        let layouts = children(&self.pins, MAPS_PREFIX).into_iter();
        for layout in layouts.filter(|path| *path != self.maps) {
            tracing::info!(path = %layout.display(), "maps of another layout are given up");
            remove(&layout);
        }
        for others in
            [self.others(STAGES_PREFIX, &self.stages), self.other_policies(), self.other_tables()]
        {
            others.iter().for_each(|folder| remove(folder));
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(path = %folder.display(), %error, "old maps stay pinned");
    }
}

fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}
