//! Kernel modules: those that the hardware asks for, in an order that does not depend on chance.
//!
//! The kernel gives every device it finds a `modalias`; [`Index`] knows from `modules.alias` and
//! `modules.dep` which modules that means and what they need first; [`Loader`] walks /sys in the
//! order of the devices' paths, which is the order of PCI addresses, and loads until nothing new
//! appears.

mod index;
mod on_request;
mod pattern;

pub use index::{Index, canonical};
pub use on_request::OnRequest;

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// MODULE_INIT_COMPRESSED_FILE: the kernel decompresses (linux/module.h).
const COMPRESSED: libc::c_int = 4;

/// Modules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A table of the module folder cannot be read.
    #[error("{path}: {source}")]
    Table {
        /// The table.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The name is neither that of a module nor an alias.
    #[error("no kernel module `{0}` in the image")]
    Unknown(String),
    /// The kernel did not take a module.
    #[error("kernel module {path}: {source}")]
    Refused {
        /// File of the module.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Loads modules of one kernel release.
#[derive(Debug)]
pub struct Loader {
    folder: PathBuf,
    index: Index,
    coldplugged: Mutex<Coldplugged>,
}

/// What coldplug has dealt with.
#[derive(Debug, Default)]
struct Coldplugged {
    /// Paths of modules that need no further attempt.
    paths: BTreeSet<String>,
    /// Aliases of devices.
    aliases: BTreeSet<String>,
}

impl Loader {
    /// A loader for the running kernel from `modules` (a folder per release).
    ///
    /// # Errors
    /// If the tables of this release cannot be read.
    pub fn new(modules: &Path) -> Result<Self, ModuleError> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = modules.join(release);
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|source| ModuleError::Table { path, source })
        };
        let index = Index::parse(
            &read("modules.dep")?,
            &read("modules.alias")?,
            &read("modules.softdep").unwrap_or_default(),
        )
        .with_built_in(&read("modules.builtin").unwrap_or_default());
        Ok(Self { folder, index, coldplugged: Mutex::default() })
    }

    /// Loads a module, by its name or an alias of its, and what it needs. One that is built into
    /// the kernel or loaded already is no error.
    ///
    /// # Errors
    /// If the image has no such module or the kernel does not take it.
    pub fn load(&self, name: &str) -> Result<(), ModuleError> {
        if self.is_there(name) {
            return Ok(());
        }
        let order = self.index.resolve(name);
        if order.is_empty() {
            return Err(ModuleError::Unknown(name.to_owned()));
        }
        order.iter().try_for_each(|path| insert(&self.folder, path))
    }

    /// Loads what devices below `sys` (normally /sys) ask for and is not loaded yet, until no
    /// device with a new alias appears or `enough` says so; it is asked after each module.
    /// Returns the modules that the kernel did not take.
    pub fn coldplug(&self, sys: &Path, mut enough: impl FnMut() -> bool) -> Vec<ModuleError> {
        let mut dealt_with = self.coldplugged();
        let mut refused = Vec::new();
        loop {
            let new: Vec<String> =
                aliases(sys).into_iter().filter(|a| !dealt_with.aliases.contains(a)).collect();
            if new.is_empty() {
                return refused;
            }
            for alias in new {
                for path in self.index.matching(&alias) {
                    if !dealt_with.paths.insert(path.clone()) {
                        continue;
                    }
                    refused.extend(insert(&self.folder, &path).err());
                    if enough() {
                        return refused;
                    }
                }
                dealt_with.aliases.insert(alias);
            }
        }
    }

    /// Loads all that devices below `sys` ask for and the modules `others` by their names, several
    /// at the same time: most of the work is the kernel's, checking signatures and linking.
    /// Returns what failed.
    pub fn coldplug_and(&self, sys: &Path, others: &[String]) -> Vec<ModuleError> {
        let mut dealt_with = self.coldplugged();
        let mut failed = Vec::new();
        let mut jobs: Vec<Vec<String>> = Vec::new();
        for name in others.iter().filter(|name| !self.is_there(name)) {
            let order = self.index.resolve(name);
            if order.is_empty() {
                failed.push(ModuleError::Unknown(name.clone()));
            }
            jobs.push(order);
        }
        loop {
            for alias in aliases(sys) {
                if dealt_with.aliases.insert(alias.clone()) {
                    jobs.push(self.index.matching(&alias));
                }
            }
            jobs.iter_mut().for_each(|job| job.retain(|path| !dealt_with.paths.contains(path)));
            jobs.retain(|job| !job.is_empty());
            if jobs.is_empty() {
                return failed;
            }
            failed.extend(insert_all(&self.folder, &jobs));
            dealt_with.paths.extend(std::mem::take(&mut jobs).into_iter().flatten());
        }
    }

    fn is_there(&self, name: &str) -> bool {
        self.index.is_built_in(name) || present(name)
    }

    fn coldplugged(&self) -> MutexGuard<'_, Coldplugged> {
        self.coldplugged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that load drivers. More than most boxes have processors: half of the time they wait,
/// for hardware and for the other processors to take note of changed kernel code.
const THREADS: usize = 4;

/// Inserts the modules of all jobs, those of each job in its order. Two jobs may name the same
/// module: the kernel then lets the second wait for the first.
fn insert_all(folder: &Path, jobs: &[Vec<String>]) -> Vec<ModuleError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failed = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            failed.extend(job.iter().filter_map(|path| insert(folder, path).err()));
        }
        failed
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..THREADS).map(|_| scope.spawn(work)).collect();
        let mut failed = work();
        failed.extend(others.into_iter().filter_map(|thread| thread.join().ok()).flatten());
        failed
    })
}

fn insert(folder: &Path, path: &str) -> Result<(), ModuleError> {
    if present(index::name_of(path)) {
        return Ok(());
    }
    let file = folder.join(path);
    let refused = |source| ModuleError::Refused { path: file.clone(), source };
    let handle = File::open(&file).map_err(refused)?;
    let plain = Path::new(path).extension().is_some_and(|e| e == "ko");
    let flags = if plain { 0 } else { COMPRESSED };
    match rustix::system::finit_module(handle, &CString::default(), flags) {
        // ENODEV: the driver looked and found that the hardware is not its own after all.
        Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NODEV) => Ok(()),
        Err(errno) => Err(refused(errno.into())),
    }
}

/// Whether /sys shows a module as ready under this name; one that is built in shows only if it has
/// parameters or a version. One that another thread is
/// loading is not ready: who needs it asks the kernel for it, which waits.
fn present(name: &str) -> bool {
    let folder = Path::new("/sys/module").join(canonical(name));
    match std::fs::read_to_string(folder.join("initstate")) {
        Ok(state) => state.trim() == "live",
        Err(_) => folder.exists(),
    }
}

/// All aliases of devices below `sys/devices`, in the order of the devices' paths.
fn aliases(sys: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![sys.join("devices")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut inner = Vec::new();
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                inner.push(entry.path());
            } else if entry.file_name() == "modalias"
                && let Ok(alias) = std::fs::read_to_string(entry.path())
            {
                found.push(alias.trim().to_owned());
            }
        }
        // Last in, first out: the smallest path is visited next.
        inner.sort_unstable_by(|a, b| b.cmp(a));
        folders.append(&mut inner);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_come_in_the_order_of_pci_addresses() {
        let sys = tempfile::tempdir().unwrap();
        for (path, alias) in [
            ("pci0000:00/0000:00:10.0/virtio3", "virtio:d00000001"),
            ("pci0000:00/0000:00:02.0", "pci:two\n"),
            ("pci0000:00/0000:00:10.0", "pci:sixteen\n"),
            ("pci0000:00/0000:00:0a.0/0000:01:00.0", "pci:behind ten\n"),
        ] {
            let folder = sys.path().join("devices").join(path);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("modalias"), alias).unwrap();
        }
        assert_eq!(
            aliases(sys.path()),
            ["pci:two", "pci:behind ten", "pci:sixteen", "virtio:d00000001"]
        );
    }
}
