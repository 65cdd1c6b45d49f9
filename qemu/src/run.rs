//! `make run`: the appliance on this machine, without privileges.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use portcullis_qemu::{Accelerator, Disk, Nic, Vm, VmSettings};

/// Time for an orderly shutdown before the power is cut.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// Time until the page must answer.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

#[derive(Args)]
pub struct Settings {
    /// Disk image that a new disk is made from.
    #[arg(long, default_value = "target/image/portcullis.qcow2")]
    image: PathBuf,
    /// Folder of the disk and the console log.
    #[arg(long, default_value = "target/run")]
    folder: PathBuf,
    /// Starts with a new disk.
    #[arg(long)]
    reset: bool,
    /// Port on this machine where the page is reachable.
    #[arg(long, default_value_t = 8443, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Memory in MiB; the firmware alone needs 160.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(192..))]
    memory: u32,
    /// Ends as soon as the page has answered (for tests).
    #[arg(long)]
    once: bool,
}

/// Boots, prints the URL, and stays until Ctrl-C or until the appliance switches itself off.
pub fn run(settings: &Settings) -> Result<()> {
    let Settings { image, folder, reset, port, memory, once } = settings;
    drop(TcpListener::bind(("127.0.0.1", *port)).with_context(|| {
        format!("port {port} of this machine is taken; choose another: make run PORT=9443")
    })?);
    std::fs::create_dir_all(folder)?;
    let disk = disk(image, &folder.join("disk.qcow2"), *reset)?;
    println!("Booting the appliance ({}) ...", Accelerator::choose()?);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut vm = Vm::start(VmSettings {
        folder: folder.clone(),
        disk: disk.clone(),
        other_disks: Vec::new(),
        sticks: Vec::new(),
        nics: vec![
            Nic::User("net=10.0.2.0/24".to_owned()),
            Nic::User(format!(
                "net=192.168.77.0/24,host=192.168.77.2,dns=192.168.77.3,dhcpstart=192.168.77.15,\
                 restrict=on,hostfwd=tcp:127.0.0.1:{port}-192.168.77.1:443"
            )),
        ],
        memory_mib: *memory,
        cpus: 2,
    })?;
    let url = format!("https://localhost:{port}");
    let end = Instant::now() + BOOT_LIMIT;
    while !answers(&url) {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(trouble) = vm.trouble() {
            bail!("{trouble}");
        }
        if !vm.is_running()? || Instant::now() > end {
            bail!("the page at {url} does not answer; the console said:\n{}", vm.console().tail());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    println!(
        "
Portcullis is up after {seconds:.0} s.

  Page      {url}   (its certificate is self-signed)
  Status    curl -k {url}/api/v1/status
  Console   {console}   (log)
  Disk      {disk}   (kept; start anew with: make run RESET=1)

Stop it with Ctrl-C.",
        seconds = vm.uptime().as_secs_f64(),
        console = folder.join("console.log").display(),
        disk = disk.path.display(),
    );
    while !*once && vm.is_running()? && !stop.load(Ordering::Relaxed) {
        if let Some(trouble) = vm.trouble() {
            bail!("{trouble}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    shut_down(&mut vm)
}

/// The kept disk, or a new one from the image.
fn disk(image: &Path, path: &Path, reset: bool) -> Result<Disk> {
    if !image.exists() {
        bail!("{} does not exist: run `make image` first", image.display());
    }
    // The builder's report beside the image says the version; a copy of it stays with the disk.
    let report = image.with_file_name("size.json");
    let installed = path.with_file_name("installed.json");
    if path.exists() && !reset {
        if std::fs::read(&report).ok() != std::fs::read(&installed).ok() {
            println!(
                "The image is of another version than the disk {}, which goes on with its own. \
                 Start anew with: make run RESET=1",
                path.display()
            );
        }
    } else {
        // A copy, not an overlay: the next build of the image must not change a disk in use. It gets
        // its name when it is whole: an interrupted one would be kept as the disk.
        let new = path.with_extension("new");
        std::fs::copy(image, &new)
            .with_context(|| format!("copy {} to {}", image.display(), new.display()))?;
        portcullis_netns::execute(
            Command::new("qemu-img").args(["resize", "-q", "-f", "qcow2"]).arg(&new).arg("4G"),
        )?;
        std::fs::rename(&new, path)?;
        if report.exists() {
            std::fs::copy(&report, &installed)?;
        }
    }
    Ok(Disk { path: path.to_owned(), format: "qcow2" })
}

fn answers(url: &str) -> bool {
    Command::new("curl")
        .args(["-ksSf", "--max-time", "5", "-o", "/dev/null"])
        .arg(format!("{url}/api/v1/status"))
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Asks the console for an orderly shutdown, then cuts the power.
fn shut_down(vm: &mut Vm) -> Result<()> {
    if vm.is_running()? {
        println!("Shutting down ...");
        let mark = vm.console().mark();
        vm.console().send("\r")?;
        if vm.console().wait_after(mark, "pctl>", Duration::from_secs(5)).is_ok() {
            vm.console().send("shutdown\r")?;
        }
        if vm.wait_for_end(SHUTDOWN_LIMIT).is_err() {
            println!("It did not switch itself off in time: cutting the power.");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_disk_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (image, path) = (folder.path().join("image"), folder.path().join("disk.qcow2"));
        std::fs::write(&image, "half an image").unwrap();
        assert!(disk(&image, &path, false).is_err());
        assert!(!path.exists(), "the next run would boot it");

        // Neither does a new start that fails cost the disk that was there.
        std::fs::write(&path, "the disk").unwrap();
        assert!(disk(&image, &path, true).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"the disk");
    }
}
