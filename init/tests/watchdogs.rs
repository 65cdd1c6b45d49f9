//! Which watchdogs init starts on a machine that has one and a kernel that came first with its own
//! timer, and that they are fed and end a machine that is patient no more. This program is the first
//! process of that machine. Needs QEMU.
#![allow(clippy::print_stdout, reason = "a test harness of its own")]

use std::{
    ffi::CString,
    fs,
    path::Path,
    process::ExitCode,
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_guest::Guest;
use portcullis_init::watchdog::{Patience, Watchdog};

const TEST: &str = "the_hardware_watchdog_is_started_and_fed_and_the_kernels_own_left_alone";

/// Identity, state and time-out in seconds of each, in the order of their numbers.
type Report = Vec<(String, String, String)>;

fn main() -> ExitCode {
    if portcullis_guest::is_init() {
        portcullis_guest::init(watch);
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("{TEST}: test");
        return ExitCode::SUCCESS;
    }
    match on_the_host() {
        Ok(()) => {
            println!("test {TEST} ... ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("test {TEST} ... FAILED\n{}", format!("{error:#}").replace(" | ", "\n"));
            ExitCode::FAILURE
        }
    }
}

/// Gives the kernel's own timer the first number.
fn number() -> Result<()> {
    let modules = ["softdog", "i6300esb"];
    for module in modules {
        rustix::system::delete_module(&CString::new(module)?, 0).context(module)?;
    }
    for module in modules {
        let files = fs::read_dir(portcullis_guest::MODULE_FOLDER)?.flatten();
        let mut paths = files.map(|entry| entry.path());
        let path = paths.find(|path| path.to_string_lossy().ends_with(&format!("-{module}")));
        let bytes = fs::read(path.context(module)?)?;
        rustix::system::init_module(&bytes, c"").context(module)?;
    }
    Ok(())
}

/// Lives longer than the watchdog's time-out, by patience alone.
fn watch() -> Result<Report> {
    number()?;
    let sys = Path::new("/sys");
    let watchdog = Watchdog::default();
    for _ in 0..2 {
        watchdog.start(sys, Path::new("/dev"));
    }
    let begin = Instant::now();
    let limit = Duration::from_secs(33);
    let (over, told) = channel();
    let _patience = Patience::new(watchdog, limit, move || {
        let _ = over.send(());
    })?;
    told.recv_timeout(2 * limit).context("its patience has no end")?;
    ensure!(begin.elapsed() >= limit, "{:?}", begin.elapsed());
    let about = |number: u32| {
        let folder = sys.join(format!("class/watchdog/watchdog{number}"));
        let read = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        (read("identity"), read("state"), read("timeout"))
    };
    Ok(vec![about(0), about(1)])
}

fn on_the_host() -> Result<()> {
    let guest = Guest {
        modules: "boot softdog\nboot i6300esb\n",
        tools: &[],
        machine: &[
            "-cpu",
            "max,la57=off,erms=off",
            "-smp",
            "1",
            "-device",
            "i6300esb",
            "-action",
            "watchdog=poweroff",
        ],
        parameters: "",
        memory_mib: 512,
        patience: Duration::from_secs(300),
    };
    let report: Report = guest.run()?;
    // 30 s is what it has lived through.
    let expected = [("Software Watchdog", "inactive", "60"), ("i6300ESB timer", "active", "30")];
    let named = |(identity, state, seconds): &(&str, &str, &str)| {
        (identity.to_string(), state.to_string(), seconds.to_string())
    };
    ensure!(report == expected.iter().map(named).collect::<Report>(), "{report:?}");
    Ok(())
}
