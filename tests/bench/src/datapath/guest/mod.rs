//! Instructions per packet: the same measurements in an emulated machine with the appliance's kernel.
//!
//! QEMU translates the guest's code and counts its instructions; with `-icount shift=0` the guest's
//! clock advances by one nanosecond for each, and by nothing else while the guest is busy. So a
//! reading of its clock is a reading of its instructions, kernel and BPF programs included, and the
//! same run gives the same numbers on any machine.
//!
//! The guest is the kernel of the image and this same program as `/init` ([`inside`]), with the
//! tools that it calls ([`pack`]).

pub mod bounds;
pub mod inside;
mod pack;
pub mod profile;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::mode::Mode;

/// Begins the line in which the guest reports.
const RESULT: &str = "@result ";
/// Begins the line in which it says why it failed.
const FAILURE: &str = "@failure ";

/// The kernel passes on to its first process what it does not know. The clock of the CPU is taken as
/// it is, and interrupts' work counts as the thread's that they interrupt.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 rdinit=/init tsc=reliable tsc=noirqtime";

/// Longest life of the guest.
const PATIENCE: Duration = Duration::from_secs(1200);

/// What a packet cost.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figure {
    /// Under which circumstances.
    pub scene: String,
    /// Whom.
    pub mode: Mode,
    /// Instructions for each packet.
    pub instructions: f64,
}

/// What the guest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// Counts what the gate compares; its result are [`Figure`]s.
    Count,
    /// Says where the instructions go; its result are [`Profile`]s.
    Profile,
}

impl Task {
    /// In the environment of the guest's first process.
    const VARIABLE: &str = "bench_task";

    const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Profile => "profile",
        }
    }
}

/// Where the instructions of a packet go.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Profile {
    /// What a packet takes altogether.
    pub figure: Figure,
    /// By function.
    pub shares: Vec<profile::Share>,
}

/// Kills the machine when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the guest.
///
/// # Errors
/// If it cannot be built or started, or fails; with the end of what it said.
pub fn run<T: DeserializeOwned>(task: Task) -> Result<T> {
    let folder = tempfile::tempdir()?;
    let (kernel, initrd) = pack::pack(folder.path())?;
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-accel", "tcg", "-cpu", "max,la57=off,erms=off", "-icount", "shift=0,sleep=off"])
        .args(["-m", "2048", "-smp", "1", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg(format!("{COMMAND_LINE} {}={}", Task::VARIABLE, task.name()));
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("qemu-system-x86_64 (package qemu-system-x86; make setup)")?;
    let mut machine = Machine(child);
    let output = machine.0.stdout.take().context("standard output")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + PATIENCE;
    let mut said: Vec<String> = Vec::new();
    loop {
        let line = receiver.recv_timeout(end.saturating_duration_since(Instant::now()));
        let Ok(line) = line else {
            let from = said.len().saturating_sub(30);
            bail!("the guest gave no result:\n{}", said.get(from..).unwrap_or_default().join("\n"));
        };
        if let Some(text) = line.strip_prefix(RESULT) {
            return serde_json::from_str(text).context("the guest's result");
        }
        if let Some(text) = line.strip_prefix(FAILURE) {
            bail!("in the guest: {text}");
        }
        said.push(line);
    }
}
