//! The datapath in the kernel: programs, maps and attachments, pinned so that packets flow on while
//! this service restarts.
//!
//! ```text
//! <pins>/maps-<layout>-<flows>/NAME   the maps; the folder says what fits into them
//! <pins>/links/<ifindex>-<hook>       the attachments
//! ```
//!
//! [`Datapath::open`] loads our programs over the pinned maps if their layout and size fit, else
//! over new ones (flows are carried over if only the size differs); what is attached goes on as it
//! is. [`Datapath::attach`] then replaces the program in each link atomically, so there is no
//! instant without a filter.

mod batch;
mod links;
mod maps;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use portcullis_datapath_abi::{LAYOUT, map};

pub use links::Hook;
pub use maps::{Maps, Walk};

/// Where the appliance pins.
pub const PINS: &str = "/sys/fs/bpf/portcullis";

/// The programs, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));

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
    /// A system call on a map.
    #[error("map {name}: {source}")]
    Batch {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Result with [`DatapathError`].
pub type Result<T> = std::result::Result<T, DatapathError>;

/// The loaded datapath.
pub struct Datapath {
    programs: Ebpf,
    maps: Maps,
    links: PathBuf,
    folder: PathBuf,
    pins: PathBuf,
    max_flows: u32,
}

impl Datapath {
    /// Loads the programs over the maps pinned under `pins`, a folder in a BPF file system, or makes
    /// these for `max_flows` flows. Nothing is attached or replaced yet.
    ///
    /// # Errors
    /// If the folder is not writable, memory does not suffice or the kernel refuses a program.
    pub fn open(pins: &Path, max_flows: u32) -> Result<Self> {
        let links = pins.join("links");
        let folder = pins.join(format!("maps-{LAYOUT:08x}-{max_flows}"));
        for path in [pins, &links, &folder] {
            fs::create_dir_all(path)
                .map_err(|source| DatapathError::Pin { path: path.to_owned(), source })?;
        }
        let mut programs = EbpfLoader::new()
            // Nothing is relocated by the kernel's types, and reading them costs 14 MB.
            .btf(None)
            .default_map_pin_directory(&folder)
            // Two entries for each flow.
            .map_max_entries(map::FLOWS, max_flows.saturating_mul(2))
            .load(OBJECT)
            .map_err(|source| DatapathError::Load { flows: max_flows, source: Box::new(source) })?;
        load_programs(&mut programs)?;
        let maps = Maps::open(&folder)?;
        let mut this = Self { programs, maps, links, folder, pins: pins.to_owned(), max_flows };
        this.carry_flows_over()?;
        Ok(this)
    }

    /// Most flows that the table holds.
    pub fn max_flows(&self) -> u32 {
        self.max_flows
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
        const NAME: &str = "xdp_ingress";
        let program: &mut Xdp = program(&mut self.programs, NAME)?;
        if program.fd().is_err() {
            program.load().map_err(|source| refused(NAME, source))?;
        }
        Ok(program)
    }

    /// The tcx program of a hook, loaded.
    ///
    /// # Errors
    /// If it is missing.
    pub fn tcx(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        program(&mut self.programs, hook.program())
    }

    /// Puts our programs on exactly these devices (name by index): replaces atomically what is
    /// attached, attaches what is not, detaches from all others. The devices that failed come back
    /// with the reason; the others are done.
    pub fn attach(&mut self, devices: &BTreeMap<u32, String>) -> Vec<DatapathError> {
        let mut failures = Vec::new();
        for (index, device) in devices {
            for hook in Hook::ALL {
                let attached = program(&mut self.programs, hook.program())
                    .and_then(|program| links::attach(&self.links, program, *index, device, hook));
                if let Err(error) = attached {
                    failures.push(error);
                }
            }
        }
        links::detach_others(&self.links, devices);
        if failures.is_empty() {
            // A second look: flows that were made between the first and the change of programs.
            if let Err(error) = self.carry_flows_over() {
                failures.push(error);
            }
            self.remove_other_maps();
        }
        failures
    }

    /// What is attached: device index, hook and program id.
    pub fn attachments(&self) -> Vec<(u32, Hook, u32)> {
        links::list(&self.links)
    }

    /// Copies the flows of tables of another size, with what gives them their meaning: the ids of
    /// zones, and the generation that their cached next hops are of.
    fn carry_flows_over(&mut self) -> Result<()> {
        for folder in self.other_map_folders() {
            let same_layout = folder.file_name().is_some_and(|name| {
                name.to_string_lossy().starts_with(&format!("maps-{LAYOUT:08x}-"))
            });
            if same_layout && let Ok(old) = Maps::open(&folder) {
                self.maps.adopt_zones_of(&old)?;
                let copied = self.maps.copy_flows_of(&old)?;
                tracing::info!(copied, from = %folder.display(), "flow entries carried over");
            }
        }
        Ok(())
    }

    fn remove_other_maps(&self) {
        for folder in self.other_map_folders() {
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(path = %folder.display(), %error, "old maps stay pinned");
            }
        }
    }

    fn other_map_folders(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.pins) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("maps-"))
            .map(|entry| entry.path())
            .filter(|path| *path != self.folder)
            .collect()
    }
}

/// Loads the programs of all hooks at the same time: the verifier's work is most of this service's
/// start, and there is a processor for each.
fn load_programs(programs: &mut Ebpf) -> Result<()> {
    let mut missing: Vec<&'static str> = Hook::ALL.iter().map(|hook| hook.program()).collect();
    std::thread::scope(|scope| {
        let mut loading = Vec::new();
        for (name, program) in programs.programs_mut() {
            let Some(at) = missing.iter().position(|wanted| *wanted == name) else { continue };
            let name = missing.swap_remove(at);
            let program: &mut SchedClassifier =
                program.try_into().map_err(|source| refused(name, source))?;
            loading.push((name, scope.spawn(move || program.load())));
        }
        loading.into_iter().try_for_each(|(name, thread)| match thread.join() {
            Ok(loaded) => loaded.map_err(|source| refused(name, source)),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    missing.first().map_or(Ok(()), |name| Err(DatapathError::Missing(name)))
}

fn refused(name: &'static str, source: ProgramError) -> DatapathError {
    DatapathError::Program { name, source: Box::new(source) }
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(DatapathError::Missing(name))
}
