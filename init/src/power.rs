//! The orderly end of the machine, after the services have ended.

use std::{path::Path, time::Duration};

use rustix::{
    mount::{MountFlags, UnmountFlags, mount_remount, unmount},
    system::{RebootCommand, reboot},
};

use crate::{api::Ending, seed};

/// How long the disk may take to become clean.
const DISK_LIMIT: Duration = Duration::from_secs(30);

/// Ends what is left, brings the data partition into a clean state and leaves. Returns only if
/// the kernel refuses.
pub fn end(ending: Ending, data: &Path, seed_path: &Path) {
    let command = match ending {
        Ending::Reboot => RebootCommand::Restart,
        Ending::PowerOff => RebootCommand::PowerOff,
    };
    // A disk that does not answer any more must not keep the machine from restarting, which may be
    // what cures it.
    let _ = std::thread::Builder::new().spawn(move || {
        std::thread::sleep(DISK_LIMIT);
        reboot(command)
    });
    if let Err(error) = seed::save(seed_path) {
        tracing::debug!(%error, "random seed not saved");
    }
    kill_everybody();
    std::thread::sleep(Duration::from_millis(50));
    rustix::fs::sync();
    if unmount(data, UnmountFlags::empty()).is_err() {
        let _ = mount_remount(data, MountFlags::RDONLY, c"");
    }
    rustix::fs::sync();
    if let Err(error) = reboot(command) {
        tracing::error!(%error, "the kernel does not end");
    }
}

/// SIGKILL to every process but PID 1.
fn kill_everybody() {
    // SAFETY: kill(2) touches no memory of this process.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}
