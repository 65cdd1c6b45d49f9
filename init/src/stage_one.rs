//! Stage one, `/init` of the initrd: from the kernel's first process to the verified root.
//!
//! No arguments, no environment and no word of the command line starts anything else. A failure
//! is said on the console, then the machine restarts, and the boot manager's rules act.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, mount, mount_move},
    system::{RebootCommand, reboot},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::since_start,
    command_line,
    console::{DEVICE, alarm},
    efi,
    modules::{Loader, ModuleError},
    places::{HANDOVER, MODULES},
    slots::{self, Candidate, Started},
    verity,
    watchdog::{Patience, Watchdog},
};

/// How long disks may take to appear: USB sticks and slow controllers need seconds.
const DISK_WAIT: Duration = Duration::from_secs(30);

/// Pause between two looks at the disks.
const LOOK: Duration = Duration::from_millis(20);

/// How long all of it may take: drivers that never come back, and disks that never answer, are no
/// reason to stand still for ever.
const LIMIT: Duration = Duration::from_secs(180);

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
    /// The disk that the boot manager started from did not appear; this slot is another's.
    #[serde(default)]
    pub other_disk: bool,
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
    // Ends with this program, when stage two takes its place.
    let _patience = Patience::new(Watchdog::default(), LIMIT, || {
        alarm(&format!("Portcullis: cannot start in {} s; restarting", LIMIT.as_secs()));
        let _ = reboot(RebootCommand::Restart);
    });
    let Err(failure) = run(started);
    alarm(&format!("Portcullis: cannot start: {failure}"));
    alarm(&format!("Portcullis: restarting in {} s", FAILURE_PAUSE.as_secs()));
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
    let mut slot_started = Started { root_hash, ..Started::default() };
    ask_boot_manager(&loader, &mut slot_started);
    let Candidate { slot, manifest, on_booted_disk } = find_slot(&loader, &slot_started)?;
    let other_disk = slot_started.boot_state.is_some() && !on_booted_disk;
    if other_disk {
        alarm(&format!(
            "Portcullis: the disk that was booted did not appear in {} s; going on with {}",
            DISK_WAIT.as_secs(),
            slot.device
        ));
    }
    let device =
        verity::open(&manifest, &slot.node().to_string_lossy()).map_err(Failure::Verity)?;
    wait_for(&device);
    fs::create_dir_all(NEW_ROOT).map_err(Failure::Switch)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount(&device, NEW_ROOT, c"erofs", flags, None).map_err(Failure::Root)?;
    let handover = Handover {
        started_us: microseconds(started),
        ended_us: microseconds(since_start()),
        slot_device: slot.device.clone(),
        version: manifest.version.as_str().to_owned(),
        other_disk,
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

/// What the boot manager says about the slot that it has started.
fn ask_boot_manager(loader: &Loader, slot: &mut Started) {
    if !Path::new(efi::EFIVARS).exists() {
        return;
    }
    let _ = loader.load("efivarfs");
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if mount("efivarfs", efi::EFIVARS, "efivarfs", flags, None).is_err() {
        return;
    }
    slot.name = efi::loader_variable("LoaderEntrySelected");
    slot.boot_state = efi::boot_state();
    let _ = rustix::mount::unmount(efi::EFIVARS, rustix::mount::UnmountFlags::empty());
}

/// Loads drivers and looks at disks until the slot that was started is there.
fn find_slot(loader: &Loader, started: &Started) -> Result<Candidate, Failure> {
    let sys = Path::new("/sys");
    let end = Instant::now() + DISK_WAIT;
    loop {
        let found = || slots::candidates(sys, started);
        // A driver that fails is not the end: the disk may be another's.
        let _ = loader.coldplug(sys, || slots::choose(found(), started, false).is_some());
        let over = Instant::now() >= end;
        if let Some(slot) = slots::choose(found(), started, over) {
            return Ok(slot);
        }
        if over {
            let found = slots::describe(sys);
            return Err(Failure::NoSlot { seconds: DISK_WAIT.as_secs(), found });
        }
        std::thread::sleep(LOOK);
    }
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
