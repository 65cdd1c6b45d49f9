//! One appliance in QEMU.

use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        unix::{net::UnixListener, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use portcullis_netns::dies_with_us;
use serde_json::{Value, json};

use crate::{Accelerator, Console, Disk, SOON, firmware, qmp::Qmp};

/// A network card of the machine. The order in [`VmSettings::nics`] is the bus order, so the first
/// one is the WAN of the default configuration.
#[derive(Debug)]
pub enum Nic {
    /// The other end of this tap (with `vnet_hdr`).
    Tap(File),
    /// QEMU's own network: NAT to what the host reaches, no privileges. The text is the option
    /// list of `-netdev user`.
    User(String),
}

/// What a machine is made of.
#[derive(Debug)]
pub struct VmSettings {
    /// Folder for firmware variables, sockets and the console log; survives the machine.
    pub folder: PathBuf,
    /// Main disk, which is booted.
    pub disk: Disk,
    /// Disks in front of it on the bus.
    pub other_disks: Vec<Disk>,
    /// Further disks, as USB sticks.
    pub sticks: Vec<Disk>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
}

/// A running machine; killed when dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    console: Console,
    qmp: Qmp,
    power_on: Instant,
    folder: PathBuf,
}

impl Vm {
    /// Switches a machine on.
    ///
    /// # Errors
    /// If the firmware or QEMU is missing or QEMU does not start; with what it said.
    pub fn start(settings: VmSettings) -> Result<Self> {
        let VmSettings { folder, disk, other_disks, sticks, nics, memory_mib, cpus } = settings;
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let variables = folder.join("firmware-variables.fd");
        let code = firmware::prepare(&variables)?;
        let qmp_path = folder.join("qmp.sock");
        let console_path = folder.join("serial.sock");
        for path in [&qmp_path, &console_path] {
            if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        // QEMU connects to us, so that not one byte of the console is lost.
        let console_listener = UnixListener::bind(&console_path)
            .with_context(|| console_path.display().to_string())?;

        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-name", "portcullis", "-machine", "q35", "-nodefaults", "-display", "none"])
            .args(Accelerator::choose()?.arguments())
            .args(["-m", &memory_mib.to_string(), "-smp", &cpus.to_string(), "-no-reboot"])
            .args(["-action", "panic=none"])
            .args([
                "-drive",
                &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", code.display()),
            ])
            .args(["-drive", &format!("if=pflash,unit=1,format=raw,file={}", variables.display())])
            .args(["-chardev", &format!("socket,id=serial,path={}", console_path.display())])
            .args(["-serial", "chardev:serial"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp_path.display())])
            .args(["-object", "rng-random,id=rng,filename=/dev/urandom"])
            .args(["-device", "virtio-rng-pci,rng=rng"])
            .args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        let drive = |disk: &Disk, id: &str| {
            format!(
                "if=none,id={id},format={},file={},discard=unmap",
                disk.format,
                disk.path.display()
            )
        };
        for (number, other) in other_disks.iter().enumerate() {
            let id = format!("other{number}");
            command
                .args(["-drive", &drive(other, &id)])
                .args(["-device", &format!("virtio-blk-pci,drive={id}")]);
        }
        command
            .args(["-drive", &drive(&disk, "disk")])
            .args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
        if !sticks.is_empty() {
            command.args(["-device", "qemu-xhci,id=usb"]);
        }
        for (number, stick) in sticks.iter().enumerate() {
            let id = format!("stick{number}");
            command
                .args(["-drive", &drive(stick, &id)])
                .args(["-device", &format!("usb-storage,drive={id}")]);
        }
        let mut inherited = Vec::new();
        for (number, nic) in nics.into_iter().enumerate() {
            let backend = match nic {
                Nic::Tap(file) => {
                    let backend = format!("tap,id=net{number},fd={}", file.as_raw_fd());
                    inherited.push(file);
                    backend
                }
                Nic::User(options) => format!("user,id=net{number},{options}"),
            };
            command.args(["-netdev", &backend]).args([
                "-device",
                &format!(
                    "virtio-net-pci,netdev=net{number},mac=52:54:00:77:00:{number:02x},romfile="
                ),
            ]);
        }
        let descriptors: Vec<_> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
        // Ctrl-C is for us, who may want to switch the machine off in an orderly way.
        command.process_group(0);
        dies_with_us(&mut command);
        // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe; the
        // descriptors stay open in the parent until after the spawn.
        unsafe {
            command.pre_exec(move || {
                for fd in &descriptors {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let errors = folder.join("qemu.log");
        let power_on = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors)?)
            .spawn()
            .context("qemu-system-x86_64 (package qemu-system-x86; make setup)")?;
        drop(inherited);
        let opened = accept(&console_listener, &mut child)
            .and_then(|stream| Console::new(stream, &folder.join("console.log"), power_on))
            .and_then(|console| Ok((console, Qmp::connect(&qmp_path, &mut child)?)));
        match opened {
            Ok((console, qmp)) => Ok(Self { child, console, qmp, power_on, folder }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(&errors).unwrap_or_default();
                Err(error.context(format!("QEMU did not start: {}", said.trim())))
            }
        }
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Time since power-on.
    pub fn uptime(&self) -> Duration {
        self.power_on.elapsed()
    }

    /// Takes the cable of NIC `number` out (`false`) or puts it in again.
    ///
    /// # Errors
    /// If there is no such NIC.
    pub fn set_link(&mut self, number: usize, up: bool) -> Result<()> {
        self.qmp.command("set_link", json!({ "name": format!("net{number}"), "up": up })).map(drop)
    }

    /// Whether the machine is still on.
    ///
    /// # Errors
    /// If its process cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Why QEMU has stopped the machine by itself: it does so when it has no room to write to a
    /// disk, and all that anybody else sees is that nothing answers any more.
    pub fn trouble(&mut self) -> Option<String> {
        let status = self.qmp.command("query-status", json!({})).ok()?;
        let stopped = status.get("status").and_then(Value::as_str) == Some("io-error");
        stopped.then(|| {
            let free = rustix::fs::statvfs(&self.folder).map(|fs| fs.f_bavail * fs.f_frsize);
            let free = free.map_or_else(|_| "?".to_owned(), |bytes| (bytes >> 20).to_string());
            format!(
                "QEMU has stopped the machine: it cannot write to its disk; {free} MiB are free at {}",
                self.folder.display()
            )
        })
    }

    /// Waits until the machine has switched itself off or asked for a reboot (QEMU ends then).
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the machine is still on after {limit:?}:\n{}", self.console.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cuts the power.
    pub fn cut_power(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// QEMU's connection to our console socket, or the fact that it ended.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<std::os::unix::net::UnixStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + SOON;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended: {status}");
        }
        if Instant::now() > end {
            bail!("no serial console within {} s", SOON.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
