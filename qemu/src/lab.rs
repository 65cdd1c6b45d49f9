//! The appliance between a simulated internet and hosts on its LAN.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Console, Disk, Host, Internet, Nic, SOON, Vm, VmSettings};

/// How long a boot may take until the page answers, under emulation on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long the console says nothing before it is taken to wait for input.
const QUIET: Duration = Duration::from_millis(400);

/// What the kernel says when QEMU's multi-threaded translator executes an instruction that another
/// processor is just replacing (jump labels at boot): seen about once in a hundred boots, not the
/// appliance's fault, so that the machine is switched on once more.
const EMULATOR_FAULT: &str = "Oops: int3";

/// Prompt of the appliance's console.
const PROMPT: &str = "pctl>";

/// The lab. The appliance has three NICs: WAN, and two on the LAN with one host each.
#[derive(Debug)]
pub struct Lab {
    /// What is behind the WAN.
    pub internet: Internet,
    /// The hosts on the LAN.
    pub hosts: [Host; 2],
    /// Memory of the appliance in MiB.
    pub memory_mib: u32,
    /// Disks in front of the appliance's own on the bus.
    pub other_disks: Vec<Disk>,
    /// Further disks, as USB sticks.
    pub sticks: Vec<Disk>,
    /// How often [`Self::boot`] had to switch on again because of a fault of the emulator.
    pub emulator_faults: u32,
    disk: Disk,
    folder: PathBuf,
    vm: Option<Vm>,
}

impl Lab {
    /// Builds the lab around `disk`, with all its files in `folder`; the appliance is off.
    ///
    /// # Errors
    /// Not root, or a program is missing.
    pub fn new(folder: &Path, disk: Disk) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        Ok(Self {
            internet: Internet::new(folder)?,
            hosts: [Host::new("pc", folder)?, Host::new("laptop", folder)?],
            memory_mib: 512,
            other_disks: Vec::new(),
            sticks: Vec::new(),
            emulator_faults: 0,
            disk,
            folder: folder.to_owned(),
            vm: None,
        })
    }

    /// The appliance's disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Folder of the lab's files: console log, provider's log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Switches the appliance on, without waiting for anything.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub fn power_on(&mut self) -> Result<&mut Vm> {
        self.vm = None;
        // What it said before is what a failure may be about.
        let log = self.folder.join("console.log");
        let _ = std::fs::rename(&log, self.folder.join("console-before.log"));
        let mut nics = vec![Nic::Tap(self.internet.wan_cable()?)];
        for host in &self.hosts {
            nics.push(Nic::Tap(host.cable()?));
        }
        let vm = Vm::start(VmSettings {
            folder: self.folder.clone(),
            disk: self.disk.clone(),
            other_disks: self.other_disks.clone(),
            sticks: self.sticks.clone(),
            nics,
            memory_mib: self.memory_mib,
            cpus: 2,
        })?;
        Ok(self.vm.insert(vm))
    }

    /// The running appliance.
    ///
    /// # Errors
    /// If it is off.
    pub fn vm(&mut self) -> Result<&mut Vm> {
        self.vm.as_mut().context("the appliance is off")
    }

    /// Its serial console.
    ///
    /// # Errors
    /// If it is off.
    pub fn console(&self) -> Result<&Console> {
        self.vm.as_ref().map(Vm::console).context("the appliance is off")
    }

    /// Cuts the power.
    pub fn cut_power(&mut self) {
        self.vm = None;
    }

    /// Switches the appliance on and waits until the first host has a lease, all essential
    /// services are ready and the WAN has an address.
    ///
    /// # Errors
    /// If that does not happen in two minutes; with the end of the console.
    pub fn boot(&mut self) -> Result<()> {
        self.power_on()?;
        let mut outcome = self.wait_until_ready();
        if outcome.is_err()
            && self.console()?.lines().iter().any(|l| l.text.contains(EMULATOR_FAULT))
        {
            self.emulator_faults += 1;
            self.power_on()?;
            outcome = self.wait_until_ready();
        }
        let tail = self.console()?.tail();
        outcome.with_context(|| format!("the appliance did not get ready; console:\n{tail}"))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + BOOT_LIMIT;
        loop {
            let leased = self.hosts[0].lease_by_udhcpc("pc", Duration::from_secs(5));
            match leased {
                Ok(_) => break,
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => ensure!(self.vm()?.is_running()?, "the machine ended while it booted"),
            }
        }
        self.hosts[0].wait_for_status("healthy with a WAN lease", BOOT_LIMIT, |status| {
            status.pointer("/system/healthy").and_then(Value::as_bool) == Some(true)
                && status.pointer("/wan/0/state").and_then(Value::as_str) == Some("bound")
        })?;
        Ok(())
    }

    /// Executes a `pctl` command on the serial console and returns what it printed, among what
    /// else came on the console meanwhile.
    ///
    /// # Errors
    /// If no prompt comes.
    pub fn pctl(&self, command: &str) -> Result<String> {
        let console = self.console()?;
        self.prompt()?;
        let start = console.mark();
        console.send(&format!("{command}\r"))?;
        self.output_after(start, command)
    }

    /// Executes a `pctl` command that reads a document from the console (`config apply -`).
    ///
    /// # Errors
    /// If the command does not ask for a document, or no prompt comes.
    pub fn pctl_with_document(&self, command: &str, document: &str) -> Result<String> {
        let console = self.console()?;
        self.prompt()?;
        let start = console.mark();
        console.send(&format!("{command}\r"))?;
        console.wait_after(start, "a line with a single .", SOON)?;
        let start = console.mark();
        console.send(&document.replace('\n', "\r"))?;
        console.send(".\r")?;
        self.output_after(start, ".")
    }

    /// Makes the console show its prompt, and waits until nothing more comes: an echo that a
    /// prompt breaks into could not be found again.
    fn prompt(&self) -> Result<()> {
        let console = self.console()?;
        let mark = console.mark();
        console.send("\r")?;
        console.wait_after(mark, PROMPT, SOON)?;
        let end = Instant::now() + Duration::from_secs(5);
        let (mut seen, mut since) = (console.length(), Instant::now());
        while since.elapsed() < QUIET && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            if console.length() != seen {
                (seen, since) = (console.length(), Instant::now());
            }
        }
        Ok(())
    }

    /// What came after the echo of `typed`, once a prompt has come and nothing more follows it.
    fn output_after(&self, start: usize, typed: &str) -> Result<String> {
        let console = self.console()?;
        let end = Instant::now() + SOON;
        let (mut seen, mut since) = (String::new(), Instant::now());
        loop {
            let lines = console.lines();
            let mut after = lines.iter().skip(start).map(|line| line.text.as_str());
            let output = match after.find(|text| text.contains(typed)) {
                Some(_echo) => after.collect::<Vec<_>>().join("\n"),
                None => String::new(),
            };
            if output != seen {
                (seen, since) = (output, Instant::now());
            } else if since.elapsed() > QUIET && seen.lines().any(|text| text.starts_with(PROMPT)) {
                return Ok(seen);
            }
            if Instant::now() > end {
                bail!("`{typed}` on the console did not end:\n{}", console.tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
