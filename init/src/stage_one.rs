//! Stage one, `/init` of the initrd: from the kernel's first process to the verified root.
//!
//! No arguments, no environment and no word of the command line starts anything else. A failure
//! is said on the console, then the machine restarts, and the boot manager's rules act.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use portcullis_bundle::Manifest;
use rustix::{
    mount::{MountFlags, mount, mount_move},
    system::{RebootCommand, reboot},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::since_start,
    command_line,
    console::{Console, DEVICE},
    disk::{self, Partition},
    efi,
    modules::{Loader, ModuleError},
    places::{HANDOVER, MODULES},
    verity,
};

/// How long disks may take to appear: USB sticks and slow controllers need seconds.
const DISK_WAIT: Duration = Duration::from_secs(30);

/// Pause between two looks at the disks.
const LOOK: Duration = Duration::from_millis(20);

/// How long a failure stays on the console.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// Where the new root is put together.
const NEW_ROOT: &str = "/root";

/// What stage two cannot find out itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Handover {
    /// When stage one began, microseconds since the kernel started.
    pub started_us: u64,
    /// When it handed over, likewise.
    pub ended_us: u64,
    /// Kernel device of the slot that runs: `vda3`.
    pub slot_device: String,
    /// Version in its manifest.
    pub version: String,
}

/// Why stage one could not go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("mounting {0}: {1}")]
    Mount(&'static str, rustix::io::Errno),
    #[error("{0}")]
    CommandLine(String),
    #[error("/proc/cmdline: {0}")]
    NoCommandLine(io::Error),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("no slot with the pinned root appeared in {seconds} s; found: {found}")]
    NoSlot { seconds: u64, found: String },
    #[error("{0}")]
    Verity(io::Error),
    #[error("root file system: {0}")]
    Root(rustix::io::Errno),
    #[error("switching to the root file system: {0}")]
    Switch(io::Error),
}

/// Does all of it; does not return.
pub fn main() -> std::process::ExitCode {
    let started = since_start();
    let Err(failure) = run(started);
    let console = Console::open(Path::new(DEVICE));
    console.say(&format!("Portcullis: cannot start: {failure}"));
    console.say(&format!("Portcullis: restarting in {} s", FAILURE_PAUSE.as_secs()));
    std::thread::sleep(FAILURE_PAUSE);
    let _ = reboot(RebootCommand::Restart);
    // Process 1 ends: the kernel panics, and restarts by panic=.
    std::process::ExitCode::FAILURE
}

fn run(started: Duration) -> Result<std::convert::Infallible, Failure> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount_kernel_tree(kind, target)?;
    }
    let line = fs::read_to_string("/proc/cmdline").map_err(Failure::NoCommandLine)?;
    let root_hash = command_line::root_hash(&line).map_err(Failure::CommandLine)?;
    let loader = Loader::new(Path::new(MODULES))?;
    for module in ["dm_mod", "dm_verity", "erofs"] {
        loader.load(module)?;
    }
    let selected = selected_slot(&loader);
    let (slot, manifest) = find_slot(&loader, &root_hash, selected.as_deref())?;
    let device =
        verity::open(&manifest, &slot.node().to_string_lossy()).map_err(Failure::Verity)?;
    wait_for(&device);
    fs::create_dir_all(NEW_ROOT).map_err(Failure::Switch)?;
    mount(&device, NEW_ROOT, c"erofs", MountFlags::RDONLY | MountFlags::NODEV, None)
        .map_err(Failure::Root)?;
    let handover = Handover {
        started_us: microseconds(started),
        ended_us: microseconds(since_start()),
        slot_device: slot.device.clone(),
        version: manifest.version.as_str().to_owned(),
    };
    switch_root(&handover).map_err(Failure::Switch)
}

fn mount_kernel_tree(kind: &'static str, target: &'static str) -> Result<(), Failure> {
    let _ = fs::create_dir_all(target);
    let flags = if kind == "devtmpfs" {
        MountFlags::NOSUID | MountFlags::NOEXEC
    } else {
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
    };
    match mount(kind, target, kind, flags, None) {
        // The kernel mounts /dev itself where it is configured to.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(errno) => Err(Failure::Mount(target, errno)),
    }
}

/// The slot that the boot manager started: of two with the same content it is the right one.
fn selected_slot(loader: &Loader) -> Option<String> {
    Path::new(efi::EFIVARS).exists().then_some(())?;
    let _ = loader.load("efivarfs");
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("efivarfs", efi::EFIVARS, "efivarfs", flags, None).ok()?;
    let selected = efi::loader_variable("LoaderEntrySelected");
    let _ = rustix::mount::unmount(efi::EFIVARS, rustix::mount::UnmountFlags::empty());
    selected
}

/// Loads drivers and looks at disks until the slot with the pinned root hash is there.
fn find_slot(
    loader: &Loader,
    root_hash: &[u8; 32],
    selected: Option<&str>,
) -> Result<(Partition, Manifest), Failure> {
    let sys = Path::new("/sys");
    let end = Instant::now() + DISK_WAIT;
    loop {
        // A driver that fails is not the end: the disk may be another's.
        let _ = loader.coldplug(sys, || !slots(sys).is_empty());
        let mut fitting: Vec<(Partition, Manifest)> = slots(sys)
            .into_iter()
            .filter_map(|slot| {
                let manifest = slot.manifest().ok()?;
                (manifest.root_hash == *root_hash).then_some((slot, manifest))
            })
            .collect();
        fitting.sort_by_key(|(slot, _)| Some(slot.name.as_str()) != selected);
        if let Some(found) = fitting.into_iter().next() {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(Failure::NoSlot { seconds: DISK_WAIT.as_secs(), found: describe(sys) });
        }
        // There may be slots of another disk: the rest of the drivers, too.
        let _ = loader.coldplug(sys, || false);
        std::thread::sleep(LOOK);
    }
}

fn slots(sys: &Path) -> Vec<Partition> {
    let partitions = disk::partitions(sys).unwrap_or_default();
    partitions.into_iter().filter(|p| p.slot().is_some()).collect()
}

/// What there is instead, for the console.
fn describe(sys: &Path) -> String {
    let found: Vec<String> = slots(sys)
        .iter()
        .map(|slot| match slot.manifest() {
            Ok(_) => format!("{} ({}: another root)", slot.name, slot.device),
            Err(error) => format!("{} ({error})", slot.name),
        })
        .collect();
    if found.is_empty() { "no slots".to_owned() } else { found.join(", ") }
}

fn wait_for(device: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    while !device.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Frees the initrd's memory, makes the new root the root and becomes stage two.
fn switch_root(handover: &Handover) -> io::Result<std::convert::Infallible> {
    let new_root = Path::new(NEW_ROOT);
    mount(
        "tmpfs",
        new_root.join("run"),
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(c"mode=0755,size=10%"),
    )?;
    let path = new_root.join(HANDOVER.trim_start_matches('/'));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_vec(handover)?)?;
    for tree in ["dev", "proc", "sys"] {
        mount_move(Path::new("/").join(tree), new_root.join(tree))?;
    }
    remove_initrd(Path::new("/"));
    rustix::process::chdir(new_root)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    execute()
}

/// Removes the files of the initrd, which live in memory; stays on its file system.
fn remove_initrd(root: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(device) = fs::symlink_metadata(root).map(|m| m.dev()) else { return };
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            match fs::symlink_metadata(&path) {
                Ok(m) if m.dev() != device => {}
                Ok(m) if m.is_dir() => folders.push(path),
                Ok(_) => {
                    let _ = fs::remove_file(path);
                }
                Err(_) => {}
            }
        }
    }
}

fn execute() -> io::Result<std::convert::Infallible> {
    use std::os::unix::process::CommandExt;
    let console = fs::File::options().read(true).write(true).open(DEVICE)?;
    let mut command = std::process::Command::new("/sbin/init");
    command.env_clear().stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    Err(command.exec())
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
