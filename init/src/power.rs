//! The orderly end of the machine, after the services have ended.

use std::{path::Path, time::Duration};

use rustix::{
    mount::{MountFlags, UnmountFlags, mount_remount, unmount},
    system::{RebootCommand, reboot},
};

use crate::{
    api::Ending,
    seed,
    watchdog::{Patience, Watchdog},
};

/// How long the disk may take to become clean.
const DISK_LIMIT: Duration = Duration::from_secs(30);

/// Looks at the data partition until the processes that were killed have let go of it, and the pause
/// between two.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(50);

/// Ends what is left, brings the data partition into a clean state and leaves. Returns only if
/// the kernel refuses.
pub fn end(ending: Ending, data: &Path, seed_path: &Path, watchdog: Watchdog) {
    let command = match ending {
        Ending::Reboot => RebootCommand::Restart,
        Ending::PowerOff => RebootCommand::PowerOff,
    };
    // A disk that does not answer any more must not keep the machine from restarting, which may be
    // what cures it. Until then the watchdog must not take a disk that is slow for one that hangs:
    // its time-out may be the shorter one. From then on it guards the kernel's own end.
    let _patience = Patience::new(watchdog, DISK_LIMIT, move || {
        let _ = reboot(command);
    });
    if let Err(error) = seed::save(seed_path) {
        tracing::debug!(%error, "random seed not saved");
    }
    kill_everybody();
    let unmounted = (0..LOOKS).any(|_| {
        std::thread::sleep(LOOK);
        unmount(data, UnmountFlags::empty()) != Err(rustix::io::Errno::BUSY)
    });
    rustix::fs::sync();
    if !unmounted {
        let _ = mount_remount(data, MountFlags::RDONLY, c"");
        rustix::fs::sync();
    }
    if let Err(error) = reboot(command) {
        tracing::error!(%error, "the kernel does not end");
    }
}

/// SIGKILL to every process but PID 1.
fn kill_everybody() {
    // SAFETY: kill(2) touches no memory of this process.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}
