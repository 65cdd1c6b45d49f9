//! The configuration on a stick: `config.toml` of a volume labelled PORTCULLIS, left for the
//! config service, which may not mount.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::modules::Loader;

/// Label of the volume.
const LABEL: &[u8] = b"PORTCULLIS";

/// File on it.
const FILE: &str = "config.toml";

/// Longest document that is taken along: what the config service reads.
const LONGEST: u64 = 8 << 20;

/// Where the volume is mounted for as long as it takes.
const MOUNT_POINT: &str = "/run/portcullis/mnt";

/// How long after the drivers of its controller a USB stick may take to be recognized.
const STICK_WAIT: Duration = Duration::from_secs(2);

/// How long a recognized stick may take to become a disk: it has its own computer to start.
const DISK_WAIT: Duration = Duration::from_secs(8);

/// How long no disk or partition must have come for all to be there.
const QUIET: Duration = Duration::from_millis(300);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What a look at the USB devices found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Sticks {
    /// Whether sticks can be plugged in at all.
    controllers: bool,
    /// Mass storage that is no disk yet.
    without_disk: usize,
    /// Block devices of mass storage: disks and partitions.
    disks: usize,
}

/// Whether a stick may yet become a disk, `waited` after the drivers were loaded and `quiet` after
/// the last change of what was found.
fn more_may_come(sticks: Sticks, waited: Duration, quiet: Duration) -> bool {
    if !sticks.controllers {
        return false;
    }
    let limit = if sticks.without_disk > 0 { DISK_WAIT } else { STICK_WAIT };
    waited < limit || (sticks.disks > 0 && quiet < QUIET)
}

/// As [`fetch`], but gives USB sticks the time that they need: for a boot that would otherwise do
/// without any configuration.
///
/// # Errors
/// As [`fetch`].
pub fn wait_and_fetch(sys: &Path, target: &Path, loader: &Loader) -> io::Result<Option<String>> {
    let begin = Instant::now();
    let (mut seen, mut changed) = (Sticks::default(), begin);
    loop {
        if let Some(device) = fetch(sys, target, loader)? {
            return Ok(Some(device));
        }
        let sticks = look(sys);
        if sticks != seen {
            (seen, changed) = (sticks, Instant::now());
        }
        if !more_may_come(sticks, begin.elapsed(), changed.elapsed()) {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
        for error in loader.coldplug(sys, || false) {
            tracing::warn!(%error, "driver not loaded");
        }
    }
}

fn look(sys: &Path) -> Sticks {
    let list = |folder: &str| {
        let entries = fs::read_dir(sys.join(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::canonicalize(entry.path()).ok()).collect::<Vec<PathBuf>>()
    };
    let (usb, blocks) = (list("bus/usb/devices"), list("class/block"));
    let mass_storage = |path: &&PathBuf| {
        fs::read_to_string(path.join("bInterfaceClass")).is_ok_and(|class| class.trim() == "08")
    };
    let of = |interface: &PathBuf| blocks.iter().filter(|b| b.starts_with(interface)).count();
    let disks: Vec<usize> = usb.iter().filter(mass_storage).map(of).collect();
    Sticks {
        controllers: !usb.is_empty(),
        without_disk: disks.iter().filter(|&&count| count == 0).count(),
        disks: disks.iter().sum(),
    }
}

/// Copies the document into `target`, a folder that is made for it. Returns the device that it
/// was found on, none if there is no such volume.
///
/// # Errors
/// If there is a volume whose document cannot be read.
pub fn fetch(sys: &Path, target: &Path, loader: &Loader) -> io::Result<Option<String>> {
    for entry in fs::read_dir(sys.join("class/block"))? {
        let device = entry?.file_name().to_string_lossy().into_owned();
        let node = Path::new("/dev").join(&device);
        let mut head = vec![0; 64 * 1024];
        let read = File::open(&node).and_then(|file| file.read_at(&mut head, 0)).unwrap_or(0);
        let Some(kind) = head.get(..read).and_then(labelled) else { continue };
        for module in modules(kind) {
            if let Err(error) = loader.load(module) {
                tracing::warn!(%error, "volume PORTCULLIS");
            }
        }
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{device}: {FILE}: {e}"));
        copy(&node, kind, target).map_err(named)?;
        return Ok(Some(device));
    }
    Ok(None)
}

fn modules(kind: &str) -> &'static [&'static str] {
    match kind {
        "vfat" => &["vfat", "nls_cp437", "nls_ascii"],
        _ => &["ext4"],
    }
}

fn copy(node: &Path, kind: &str, target: &Path) -> io::Result<()> {
    fs::create_dir_all(MOUNT_POINT)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = if kind == "vfat" { c"iocharset=ascii,codepage=437" } else { c"" };
    mount(node, MOUNT_POINT, kind, flags, options)?;
    let copied = copy_file(&Path::new(MOUNT_POINT).join(FILE), target);
    let _ = unmount(MOUNT_POINT, UnmountFlags::DETACH);
    copied
}

fn copy_file(from: &Path, target: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    // A link would lead to a file of the box itself, and a pipe keep it waiting for ever.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(from)
        .map_err(|e| if e.raw_os_error() == Some(libc::ELOOP) { not_a_file() } else { e })?;
    if !file.metadata()?.is_file() {
        return Err(not_a_file());
    }
    let length = file.take(LONGEST + 1).read_to_end(&mut text)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > LONGEST {
        return Err(io::Error::other(format!("longer than {LONGEST} bytes")));
    }
    match fs::DirBuilder::new().mode(0o755).create(target) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let path = target.join(FILE);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
}

fn not_a_file() -> io::Error {
    io::Error::other("is not a regular file")
}

/// File system of a volume that has our label, from its first 64 KiB.
fn labelled(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, length: usize| head.get(offset..offset + length);
    let label = |offset: usize, length: usize| {
        at(offset, length).is_some_and(|l| l.trim_ascii_end().trim_suffix_zeros() == LABEL)
    };
    let signature = at(510, 2) == Some(&[0x55, 0xaa]);
    if signature && at(82, 5) == Some(b"FAT32") && label(71, 11) {
        return Some("vfat");
    }
    if signature && at(54, 3) == Some(b"FAT") && label(43, 11) {
        return Some("vfat");
    }
    if at(1080, 2) == Some(&0xEF53_u16.to_le_bytes()) && label(1144, 16) {
        return Some("ext4");
    }
    None
}

trait TrimZeros {
    fn trim_suffix_zeros(&self) -> &[u8];
}

impl TrimZeros for [u8] {
    fn trim_suffix_zeros(&self) -> &[u8] {
        let end = self.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        self.get(..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn volume(program: &str, arguments: &[&str], mib: u64) -> Option<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        File::create(&path).unwrap().set_len(mib << 20).unwrap();
        let made = Command::new(program).args(arguments).arg(&path).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut head = vec![0; 64 * 1024];
        File::open(&path).unwrap().read_exact_at(&mut head, 0).unwrap();
        labelled(&head)
    }

    #[test]
    fn waits_for_sticks_only_where_one_can_come() {
        let second = Duration::from_secs(1);
        let none = Sticks::default();
        assert!(!more_may_come(none, Duration::ZERO, Duration::ZERO));
        let plain = Sticks { controllers: true, ..none };
        assert!(more_may_come(plain, second, second));
        assert!(!more_may_come(plain, STICK_WAIT, STICK_WAIT));
        // Recognized, but not a disk yet; then a disk whose partitions may follow; then all.
        let starting = Sticks { without_disk: 1, ..plain };
        assert!(more_may_come(starting, STICK_WAIT, second));
        assert!(!more_may_come(starting, DISK_WAIT, second));
        let disk = Sticks { disks: 1, ..plain };
        assert!(more_may_come(disk, STICK_WAIT, Duration::ZERO));
        assert!(!more_may_come(disk, STICK_WAIT, QUIET));
    }

    #[test]
    fn sticks_are_found_in_sysfs() {
        let sys = tempfile::tempdir().unwrap();
        let bus = sys.path().join("bus/usb/devices");
        let class = sys.path().join("class/block");
        assert_eq!(look(sys.path()), Sticks::default());
        for folder in [&bus, &class] {
            fs::create_dir_all(folder).unwrap();
        }
        for (name, interface_class) in
            [("1-1:1.0", "08\n"), ("1-2:1.0", "08\n"), ("1-3:1.0", "03\n")]
        {
            let device = sys.path().join("devices/usb1").join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("bInterfaceClass"), interface_class).unwrap();
            std::os::unix::fs::symlink(device, bus.join(name)).unwrap();
        }
        assert_eq!(look(sys.path()), Sticks { controllers: true, without_disk: 2, disks: 0 });
        let disk = sys.path().join("devices/usb1/1-1:1.0/host6/block/sda");
        fs::create_dir_all(&disk).unwrap();
        std::os::unix::fs::symlink(disk, class.join("sda")).unwrap();
        assert_eq!(look(sys.path()), Sticks { controllers: true, without_disk: 1, disks: 1 });
    }

    #[test]
    fn only_a_file_of_the_volume_itself_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (from, target) = (folder.path().join("config.toml"), folder.path().join("taken"));
        let secret = folder.path().join("secret");
        fs::write(&secret, "of the box").unwrap();
        let refused = || {
            let (done, copied) = std::sync::mpsc::channel();
            std::thread::spawn({
                let (from, target) = (from.clone(), target.clone());
                move || done.send(copy_file(&from, &target))
            });
            let error =
                copied.recv_timeout(Duration::from_secs(60)).expect("it waits").unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
            assert!(!target.exists());
            fs::remove_file(&from).unwrap();
        };
        std::os::unix::fs::symlink(&secret, &from).unwrap();
        refused();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &from,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        refused();
        fs::write(&from, "version = 1\n").unwrap();
        copy_file(&from, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join(FILE)).unwrap(), "version = 1\n");
    }

    #[test]
    fn volumes_as_their_makers_label_them() {
        let ext4 = |label| volume("mke2fs", &["-q", "-F", "-t", "ext4", "-L", label], 8);
        assert_eq!(ext4("PORTCULLIS"), Some("ext4"));
        assert_eq!(ext4("PORTCULLIS2"), None);
        let fat = |size: &str, label, mib| volume("mkfs.fat", &["-F", size, "-n", label], mib);
        assert_eq!(fat("16", "PORTCULLIS", 16), Some("vfat"));
        assert_eq!(fat("32", "PORTCULLIS", 64), Some("vfat"));
        assert_eq!(fat("32", "OTHER", 64), None);
        assert_eq!(labelled(&[]), None);
    }
}
