//! The guest: this program as its first and only process.
#![allow(clippy::print_stdout, reason = "the console is how the guest reports")]

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

use super::{FAILURE, RESULT, Task, pack::MODULE_FOLDER};
use crate::datapath::{clock::Meter, instructions};

/// Whether this process is the first one of a machine.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Measures, reports on the console and switches the machine off.
pub fn main() -> ! {
    match prepare().and_then(|()| perform()) {
        Ok(result) => println!("{RESULT}{result}"),
        Err(error) => println!("{FAILURE}{}", format!("{error:#}").replace('\n', " | ")),
    }
    loop {
        // It does not return; if it does, the host's patience ends it.
        let _ = reboot(RebootMode::RB_AUTOBOOT);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

fn perform() -> Result<String> {
    let meter = Meter::new()?;
    calibrate(meter)?;
    let wanted = std::env::var(Task::VARIABLE).unwrap_or_default();
    Ok(if wanted == Task::Profile.name() {
        serde_json::to_string(&instructions::profile(meter)?)?
    } else {
        serde_json::to_string(&instructions::measure(meter)?)?
    })
}

/// Holds the meter against a loop of a known number of instructions.
fn calibrate(meter: Meter) -> Result<()> {
    const TURNS: u64 = 10_000_000;
    const EACH: u64 = 2;
    let before = meter.read()?;
    // SAFETY: counts a register down to zero and touches nothing else.
    unsafe {
        std::arch::asm!("2: dec {turns}", "jnz 2b", turns = inout(reg) TURNS => _, options(nomem, nostack));
    }
    let counted = meter.read()? - before;
    let ratio = counted as f64 / (TURNS * EACH) as f64;
    ensure!((0.99..1.01).contains(&ratio), "the clock counts {ratio:.3} for each instruction");
    Ok(())
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
