//! The guest: this program as its first process.

use std::fs;

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};
use serde::Serialize;

use crate::{FAILURE, RESULT, pack::MODULE_FOLDER};

/// Whether this process is the first one of a machine.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Mounts the kernel's file systems, loads the modules, does `task`, reports its result on the
/// console and switches the machine off.
pub fn init<T: Serialize>(task: impl FnOnce() -> Result<T>) -> ! {
    let result = prepare().and_then(|()| task());
    match result.and_then(|value| Ok(serde_json::to_string(&value)?)) {
        Ok(result) => println!("{RESULT}{result}"),
        Err(error) => println!("{FAILURE}{}", format!("{error:#}").replace('\n', " | ")),
    }
    loop {
        // It does not return; if it does, the host's patience ends it.
        let _ = reboot(RebootMode::RB_AUTOBOOT);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

fn prepare() -> Result<()> {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {place}"))?;
    }
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin") };
    let mut modules: Vec<_> =
        fs::read_dir(MODULE_FOLDER)?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for path in modules {
        nix::kmod::init_module(&fs::read(&path)?, c"")
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}
