//! A disk whose first partition table is damaged: with the image's command line the image's kernel
//! finds its partitions by the second, and init grows the last one and mends the first table. This
//! program is the first process of a machine with that kernel. Needs QEMU and sfdisk.
#![allow(clippy::print_stdout, reason = "a test harness of its own")]

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_guest::Guest;
use portcullis_image::{architecture::X86_64, slot};
use portcullis_init::{
    data,
    disk::{self, Partition},
};

const TEST: &str = "a_damaged_table_stops_neither_the_kernel_nor_growing";

const MIB: u64 = 1 << 20;

/// Names and sizes of the partitions before and after growing.
type Report = [Vec<(String, u64)>; 2];

fn main() -> ExitCode {
    if portcullis_guest::is_init() {
        portcullis_guest::init(grow);
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

fn grow() -> Result<Report> {
    let end = Instant::now() + Duration::from_secs(30);
    while !Path::new("/sys/class/block/vda").exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let partitions = || disk::partitions(Path::new("/sys"));
    let report = |all: &[Partition]| all.iter().map(|p| (p.name.clone(), p.size)).collect();
    let before = partitions()?;
    if let Some(data) = before.iter().find(|p| p.name == "data") {
        ensure!(data::grow_partition(data)?, "not grown");
    }
    Ok([report(&before), report(&partitions()?)])
}

fn on_the_host() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("disk");
    File::create(&path)?.set_len(100 * MIB)?;
    let mut sfdisk = Command::new("sfdisk")
        .arg("-q")
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .context("sfdisk (package fdisk)")?;
    let script = b"label: gpt\nstart=1MiB, size=8MiB, name=slot-a\nsize=16MiB, name=data\n";
    sfdisk.stdin.take().context("no pipe")?.write_all(script)?;
    ensure!(sfdisk.wait()?.success(), "sfdisk failed");
    let disk = OpenOptions::new().read(true).write(true).open(&path)?;
    disk.write_all_at(&[0xee], 512 + 40)?;

    let line = slot::command_line(&X86_64, &[0; 32]);
    // What is the guest's own business.
    let others = ["rdinit=", "roothash=", "console=", "panic=", "oops=", "loglevel="];
    let words: Vec<&str> = line
        .split(' ')
        .filter(|word| !others.iter().any(|other| word.starts_with(other)))
        .collect();
    let drive = format!("if=virtio,format=raw,file={}", path.display());
    let guest = Guest {
        modules: "boot virtio_pci\nboot virtio_blk\n",
        tools: &[],
        machine: &["-cpu", "max,la57=off,erms=off", "-smp", "1", "-drive", &drive],
        parameters: &words.join(" "),
        memory_mib: 512,
        patience: Duration::from_secs(300),
    };
    let [before, after]: Report = guest.run()?;
    let named = |size| [("slot-a".to_owned(), 8 * MIB), ("data".to_owned(), size)];
    ensure!(before == named(16 * MIB), "the kernel found {before:?}");
    ensure!(after == named((99 - 9) * MIB), "after growing there is {after:?}");
    let verify = Command::new("sfdisk").arg("--verify").arg(&path).output()?;
    let said = String::from_utf8_lossy(&verify.stdout);
    ensure!(said.contains("No errors") && verify.stderr.is_empty(), "{verify:?}");
    Ok(())
}
