//! A machine with the kernel of the image, for what this machine's kernel has not: the program that
//! calls [`Guest::run`] is packed with tools and kernel modules into an initial file system and
//! started there again as the first and only process, where [`is_init`] tells it so and [`init`]
//! takes what it has to report.
//!
//! QEMU translates (TCG); no accelerator is needed. The guest reports in one line of its console.
#![allow(clippy::print_stdout, reason = "the console is how the guest reports")]

mod inside;
mod pack;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use portcullis_netns::dies_with_us;
use serde::de::DeserializeOwned;

pub use inside::{init, is_init};
pub use pack::MODULE_FOLDER;

/// Begins the line in which the guest reports.
const RESULT: &str = "@result ";
/// Begins the line in which it says why it failed.
const FAILURE: &str = "@failure ";

/// The machine and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// Kernel modules, written as in `image/modules.list`; loaded before the program goes on.
    pub modules: &'a str,
    /// Programs that it calls, by name.
    pub tools: &'a [&'a str],
    /// Arguments for QEMU, beside those that every guest has: the processor, how it counts.
    pub machine: &'a [&'a str],
    /// Further words of the kernel's command line. `NAME=VALUE` that the kernel does not know is in
    /// the environment of the program.
    pub parameters: &'a str,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Longest life of the guest.
    pub patience: Duration,
}

/// Kills the machine when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest<'_> {
    /// Runs this very program in the guest and returns what it reports.
    ///
    /// # Errors
    /// If the guest cannot be built or started, or fails; with the end of what it said.
    pub fn run<T: DeserializeOwned>(&self) -> Result<T> {
        let folder = tempfile::tempdir()?;
        let (kernel, initrd) = pack::pack(folder.path(), self.modules, self.tools)?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-accel", "tcg", "-serial", "stdio"])
            .args(self.machine)
            .args(["-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 rdinit=/init {}", self.parameters));
        dies_with_us(&mut command);
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
        let end = Instant::now() + self.patience;
        let mut said: Vec<String> = Vec::new();
        loop {
            let line = receiver.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = match line {
                Ok(line) => line,
                Err(why) => {
                    let why = match why {
                        RecvTimeoutError::Timeout => format!("within {:?}", self.patience),
                        RecvTimeoutError::Disconnected => "before it ended".to_owned(),
                    };
                    let from = said.len().saturating_sub(120);
                    let last = said.get(from..).unwrap_or_default().join("\n");
                    bail!("the guest gave no result {why}:\n{last}");
                }
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
}
