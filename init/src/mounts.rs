//! The file systems of stage two that live in memory or in the kernel.

use std::{fs, path::Path};

use rustix::mount::{MountFlags, mount};

use crate::places::is_mount_point;

/// One mount.
struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static std::ffi::CStr,
    /// Whether the box cannot do its work without it.
    needed: bool,
}

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// In this order. Sizes bound what a service gone wrong can take from a machine of 256 MiB.
const MOUNTS: [Mount; 8] = [
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"",
        needed: true,
    },
    Mount { kind: "proc", target: "/proc", flags: QUIET, options: c"", needed: true },
    Mount { kind: "sysfs", target: "/sys", flags: QUIET, options: c"", needed: true },
    Mount {
        kind: "tmpfs",
        target: "/run",
        flags: QUIET,
        options: c"mode=0755,size=10%",
        needed: true,
    },
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        flags: QUIET,
        options: c"mode=1777,size=10%",
        needed: true,
    },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        flags: QUIET,
        options: c"nsdelegate",
        needed: true,
    },
    Mount { kind: "bpf", target: "/sys/fs/bpf", flags: QUIET, options: c"mode=0755", needed: true },
    // Only on machines that were started by UEFI.
    Mount {
        kind: "efivarfs",
        target: crate::efi::EFIVARS,
        flags: QUIET.union(MountFlags::RDONLY),
        options: c"",
        needed: false,
    },
];

/// Mounts all of them that are not there yet (stage one brings some along). Returns the problems
/// of those that the box needs.
pub fn mount_all() -> Vec<String> {
    let mut problems = Vec::new();
    for Mount { kind, target, flags, options, needed } in MOUNTS {
        let path = Path::new(target);
        if is_mount_point(path) {
            continue;
        }
        if !path.exists() {
            let _ = fs::create_dir_all(path);
        }
        match mount(kind, target, kind, flags, options) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) if needed => problems.push(format!("mounting {target}: {error}")),
            Err(error) => tracing::debug!(target, %error, "not mounted"),
        }
    }
    problems
}
