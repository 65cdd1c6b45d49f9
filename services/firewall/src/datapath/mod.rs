//! The datapath in the kernel: programs, maps and attachments, pinned so that packets flow on while
//! this service restarts.
//!
//! ```text
//! <pins>/maps-<layout>/NAME                       maps that have one size
//! <pins>/maps-<layout>/flows-<flows>/NAME         the flow table
//! <pins>/maps-<layout>/policy-<lines>/POLICY      the compiled rules
//! <pins>/maps-<layout>/programs-<build>-<flows>-<lines>/NAME
//!                                                 programs over these two, and their tables of stages
//! <pins>/links/<ifindex>-<hook>                   the attachments
//! ```
//!
//! [`Datapath::begin`] takes over the pinned maps if their layout fits, else makes new ones, and the
//! pinned programs if they are of this build, else has them loaded by threads of their own; what is
//! attached goes on as it is. [`Datapath::attach`] moves the flows of a table of another size into
//! the one of this size, and puts our programs into the links, each atomically, so there is no
//! instant without a filter.
//!
//! **Stages that are not loaded yet.** Where nothing was attached, as after a boot, the programs that
//! a hook begins with are attached as soon as known flows and the router's own services can pass
//! ([`Milestone::Filters`]). A packet that needs a stage that is not there is dropped and counted
//! (`drop.stage`); XDP passes it to tcx. Where programs are replaced, all of the new ones are loaded
//! first.
//!
//! `maps` and `flow_table` (over `mapped`) are the data in `folders`; `order` and `loading` bring
//! `programs` from the `object` file into the kernel; `hooks` (over `features`) and `links` say what
//! runs where; `carry_over` moves flows.

mod carry_over;
mod features;
mod flow_table;
mod folders;
mod hooks;
mod links;
mod loading;
mod mapped;
mod maps;
mod object;
mod order;
mod policy;
mod programs;
#[cfg(test)]
pub(crate) mod scratch;
mod tap;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use portcullis_datapath_abi::{
    Config,
    classifier::LINES,
    map,
    policy::{INTERFACE_SLOTS, XDP_TRANSMIT},
};
use tokio::sync::Notify;

pub use features::Features;
pub use flow_table::{FlowTable, Glance};
pub use hooks::{Choice, Device, Kind};
pub use links::Hook;
pub use maps::Maps;
pub use order::Milestone;
pub use policy::PolicyLines;
pub use programs::Progress;
pub use tap::Tap;

use folders::Folders;
use links::Place;
use programs::Programs;

/// Where the appliance pins.
pub const PINS: &str = "/sys/fs/bpf/portcullis";

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
    /// A program was refused by the kernel while it was loaded behind others.
    #[error("{name}: {message}")]
    Refused {
        /// Its name.
        name: &'static str,
        /// What the verifier said.
        message: String,
    },
    /// A program that is still being loaded.
    #[error("program {0} is not loaded yet")]
    NotYet(&'static str),
    /// No thread for loading.
    #[error("a thread that loads programs: {0}")]
    Thread(io::Error),
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

/// The datapath, loaded or being loaded.
pub struct Datapath {
    programs: Programs,
    maps: Maps,
    folders: Folders,
    sizes: Sizes,
    choices: BTreeMap<u32, Choice>,
    /// Nothing goes by these tables yet, but by others whose state they take over.
    is_new: bool,
    /// Loading is waited for.
    patient: bool,
    /// The last [`Self::attach`] found programs missing.
    waiting: bool,
    /// These programs were attached before.
    in_force: bool,
}

impl Datapath {
    /// Loads the programs over the maps pinned under `pins`, a folder in a BPF file system, or makes
    /// these for `max_flows` flows. Nothing is attached or replaced yet. Returns when all programs
    /// of tcx are loaded.
    ///
    /// # Errors
    /// If the folder is not writable, memory does not suffice or the kernel refuses a program.
    pub fn open(pins: &Path, max_flows: u32) -> Result<Self> {
        Self::with_sizes(pins, Sizes { flows: max_flows, lines: Self::lines_in_use(pins) })
    }

    /// The same with room for a policy of any size.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_sizes(pins: &Path, sizes: Sizes) -> Result<Self> {
        let mut this = Self::begin(pins, sizes, Arc::default())?;
        this.wait()?;
        this.take_over()?;
        Ok(this)
    }

    /// The same, but returns when there are maps: programs are loaded behind it, in the order of their
    /// importance. `news` is notified of each, and of a failure. What other tables say is not taken
    /// over: [`Self::take_over`].
    ///
    /// # Errors
    /// If the folder is not writable or memory does not suffice.
    pub fn begin(pins: &Path, sizes: Sizes, news: Arc<Notify>) -> Result<Self> {
        let folders = Folders::of(pins, sizes);
        if !folders.flows.exists() {
            check_memory(sizes.flows)?;
        }
        let made = folders.make()?;
        let opened = Self::make(folders, sizes, news);
        if opened.is_err() {
            // Not half a table, for which memory did not suffice.
            for folder in made.iter().rev() {
                let _ = fs::remove_dir_all(folder);
            }
        }
        opened
    }

    fn make(folders: Folders, sizes: Sizes, news: Arc<Notify>) -> Result<Self> {
        let programs = Programs::pinned(&folders, sizes, news);
        let object = programs.needs_object().then(|| object::read(&folders, sizes)).transpose()?;
        let is_new = folders.settle(sizes.flows)?;
        let mut maps = Maps::open(&folders.maps, &folders.flows, &folders.policy)?;
        maps.flows().break_stale_locks();
        if let Some(object) = object {
            programs.begin(object)?;
        }
        Ok(Self {
            programs,
            maps,
            folders,
            sizes,
            choices: BTreeMap::new(),
            is_new,
            patient: false,
            waiting: false,
            in_force: false,
        })
    }

    /// Whether there are tables, of whatever sizes.
    pub fn has_tables(pins: &Path) -> bool {
        Folders::has_tables(pins)
    }

    /// Lines of the policy that is in force, or of a new one.
    pub fn lines_in_use(pins: &Path) -> u32 {
        Folders::policies(pins).map(|(lines, _)| lines).max().unwrap_or(LINES)
    }

    /// Waits until all programs of tcx are loaded, and from now on also for others as they are needed.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub fn wait(&mut self) -> Result<()> {
        self.patient = true;
        self.programs.wait()
    }

    /// Has all programs but the first wait until these are attached, though not for long.
    pub fn hold_back(&self) {
        self.programs.hold_back();
    }

    /// How many programs are loaded.
    pub fn progress(&self) -> Progress {
        self.programs.progress()
    }

    /// Whether packets can do that much, once the programs are attached.
    pub fn has(&self, milestone: Milestone) -> bool {
        match milestone {
            Milestone::Complete => self.programs.is_complete(),
            _ => self.programs.tcx_has(milestone),
        }
    }

    /// The program that the kernel refused, if it did.
    pub fn failure(&self) -> Option<DatapathError> {
        self.programs.failure()
    }

    /// Whether [`Self::attach`] is to be called again when [`Self::may_go_on`].
    pub fn is_waiting(&self) -> bool {
        self.waiting
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

    /// The XDP program of the same core, with its stages; the caller attaches or tests it.
    ///
    /// # Errors
    /// If the kernel refuses one of them.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        self.programs.want_xdp()?;
        self.programs.wait_for_xdp()?;
        self.programs.xdp()
    }

    /// The tcx program of a hook, with its stages.
    ///
    /// # Errors
    /// If it is not loaded.
    pub fn tcx(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        self.programs.tcx(hook)
    }

    /// Any program.
    ///
    /// # Errors
    /// If it is not loaded, or there is none of this name.
    pub fn program(&mut self, name: &'static str) -> Result<&Program> {
        self.programs.any(name)
    }

    /// All programs of a hook with their names, the one where it begins first.
    ///
    /// # Errors
    /// If one is not loaded.
    pub fn programs(&mut self, hook: Hook) -> Result<Vec<(&'static str, &Program)>> {
        self.programs.all(hook)
    }

    /// Puts our programs on exactly these devices (by index): replaces atomically what is attached,
    /// attaches what is not, detaches from all others. The devices that failed come back with the
    /// reason; the others are done. What became of the wishes for XDP is in [`Self::choices`]. If
    /// programs are missing for that, [`Self::is_waiting`] is true afterwards.
    pub fn attach(&mut self, devices: &BTreeMap<u32, Device>) -> Vec<DatapathError> {
        let features = features();
        self.choices = hooks::choose(devices, &features);
        self.prepare_xdp();
        self.waiting = self.must_wait();
        if self.waiting {
            return Vec::new();
        }
        self.in_force = true;
        let mut failures = Vec::new();
        failures.extend(self.carry_flows_over().err());
        // Before a device loses XDP, nobody sends to it by XDP any more.
        failures.extend(self.allow_transmission(devices, &features, true).err());
        let xdp = self.programs.xdp_has(Milestone::Filters);
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
                if !xdp {
                    self.waiting = true;
                    continue;
                }
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
        self.programs.release();
        if failures.is_empty() && !self.waiting {
            // A second look: what was made or changed between the first and the change of programs.
            failures.extend(self.carry_flows_over().err());
            self.folders.remove_others();
        }
        failures
    }

    fn must_wait(&self) -> bool {
        if self.replaces_others() {
            !self.programs.is_complete()
        } else {
            !self.programs.tcx_has(Milestone::Filters)
        }
    }

    /// Whether what [`Self::attach`] waited for is there.
    pub fn may_go_on(&self) -> bool {
        let xdp = self.choices.values().any(|choice| choice.xdp);
        !self.must_wait()
            && (!xdp
                || self.programs.xdp_has(Milestone::Filters)
                || self.programs.xdp_failure().is_some())
    }

    /// Whether [`Self::attach`] has put these programs in force.
    pub fn is_in_force(&self) -> bool {
        self.in_force
    }

    /// Has XDP's programs loaded too: what these replace has them.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn want_xdp(&mut self) -> Result<()> {
        self.programs.want_xdp()
    }

    /// Whether other programs are attached, of another size, build or run of this service: they must
    /// not be replaced by something that has less to offer.
    pub fn replaces_others(&self) -> bool {
        !self.in_force && !links::list(&self.folders.links).is_empty()
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

    /// Sees to it that XDP's programs are loaded, if a device was chosen for it.
    fn prepare_xdp(&mut self) {
        if !self.choices.values().any(|choice| choice.xdp) {
            return;
        }
        let wanted = self.programs.want_xdp();
        let waited =
            if self.patient { wanted.and_then(|()| self.programs.wait_for_xdp()) } else { wanted };
        if let Some(error) = waited.err().or_else(|| self.programs.xdp_failure()) {
            for choice in self.choices.values_mut().filter(|choice| choice.xdp) {
                *choice = Choice { xdp: false, reason: format!("tcx: {error}"), refused: true };
            }
        }
    }

    /// Takes over what tables of another size say, before packets go by these: to be called once,
    /// before anything is written into the new ones.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_over(&mut self) -> Result<()> {
        if self.is_new {
            self.adopt_settings()?;
            self.is_new = false;
        }
        self.adopt_policy();
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
