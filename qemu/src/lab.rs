//! The appliance between a simulated internet and hosts on its LAN.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Console, Disk, Host, Internet, Nic, Vm, VmSettings};

/// How long a boot may take until the page answers, under emulation on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// The lab. The appliance has three NICs: WAN, and two on the LAN with one host each.
#[derive(Debug)]
pub struct Lab {
    /// What is behind the WAN.
    pub internet: Internet,
    /// The hosts on the LAN.
    pub hosts: [Host; 2],
    /// Memory of the appliance in MiB.
    pub memory_mib: u32,
    /// Further disks, as USB sticks.
    pub sticks: Vec<Disk>,
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
            sticks: Vec::new(),
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
        let mut nics = vec![Nic::Tap(self.internet.wan_cable()?)];
        for host in &self.hosts {
            nics.push(Nic::Tap(host.cable()?));
        }
        let vm = Vm::start(VmSettings {
            folder: self.folder.clone(),
            disk: self.disk.clone(),
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
        let outcome = self.wait_until_ready();
        let tail = self.console()?.tail();
        outcome.with_context(|| format!("the appliance did not get ready; console:\n{tail}"))
    }

    fn wait_until_ready(&self) -> Result<()> {
        let [host, _] = &self.hosts;
        host.lease_by_udhcpc("pc", BOOT_LIMIT)?;
        host.wait_for_status("healthy with a WAN lease", BOOT_LIMIT, |status| {
            status.pointer("/system/healthy").and_then(Value::as_bool) == Some(true)
                && status.pointer("/wan/0/state").and_then(Value::as_str) == Some("bound")
        })?;
        Ok(())
    }

    /// Executes a `pctl` command on the serial console and returns what it printed.
    ///
    /// # Errors
    /// If no prompt comes.
    pub fn pctl(&self, command: &str) -> Result<String> {
        const PROMPT: &str = "pctl>";
        let console = self.console()?;
        let mark = console.mark();
        console.send("\r")?;
        console.wait_after(mark, PROMPT, Duration::from_secs(10))?;
        // An odd word that is no command separates the output from what came before.
        let start = console.mark();
        console.send(&format!("{command}\r"))?;
        let end = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let lines = console.lines();
            let after: Vec<_> = lines.iter().skip(start).map(|line| line.text.as_str()).collect();
            let echo =
                after.iter().position(|text| text.contains(PROMPT) && text.contains(command));
            let done = after.iter().rposition(|text| text.trim() == PROMPT);
            if let (Some(echo), Some(done)) = (echo, done)
                && done > echo
            {
                return Ok(after.get(echo + 1..done).unwrap_or_default().join("\n"));
            }
            if std::time::Instant::now() > end {
                bail!("`pctl {command}` did not end:\n{}", console.tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
