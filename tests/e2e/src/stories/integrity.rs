//! A changed root file system does not run.

use std::{fs::OpenOptions, os::unix::fs::FileExt, time::Duration};

use anyhow::{Result, ensure};

use super::disks::start_of;
use crate::scene::Scene;

/// Offset of the superblock in an erofs file system: read at every mount.
const SUPERBLOCK: u64 = 1024;

pub fn flipped_bit(scene: &mut Scene) -> Result<()> {
    let disk = scene.use_raw_disk()?;
    let slot = start_of(&disk, "slot-a")?;
    let file = OpenOptions::new().read(true).write(true).open(&disk)?;
    let at = slot + SUPERBLOCK + 100;
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at)?;
    drop(file);

    let vm = scene.lab.power_on()?;
    vm.console().wait("is corrupted", Duration::from_secs(60))?;
    // It ends in a reset by the kernel's panic, and nothing of stage two ever ran.
    let end = vm.wait_for_end(Duration::from_secs(60));
    let lines = scene.lab.console()?.lines();
    ensure!(end.is_ok(), "the machine went on:\n{}", scene.lab.console()?.tail());
    for line in lines {
        ensure!(!line.text.contains("pctl"), "the console service ran: {}", line.text);
    }
    Ok(())
}
