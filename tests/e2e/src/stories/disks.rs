//! Which disk is used, and what if a part of it is not there.

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use portcullis_netns::execute;
use portcullis_qemu::{Disk, SOON};
use serde_json::Value;

use super::config_volume;
use crate::scene::Scene;

/// How long a boot may take until the first lease, under emulation on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// First byte of a partition of `disk`.
pub fn start_of(disk: &Path, partition: &str) -> Result<u64> {
    let output = execute(Command::new("sfdisk").arg("--json").arg(disk))?;
    let table: Value = serde_json::from_slice(&output.stdout)?;
    let partitions = table.pointer("/partitiontable/partitions").and_then(Value::as_array);
    partitions
        .into_iter()
        .flatten()
        .find(|p| p.get("name").and_then(Value::as_str) == Some(partition))
        .and_then(|p| p.get("start").and_then(Value::as_u64))
        .map(|sector| sector * 512)
        .with_context(|| format!("no partition {partition}"))
}

/// A superblock that a power cut has torn does not cost what is in the data partition.
pub fn torn_superblock(scene: &mut Scene) -> Result<()> {
    let disk = scene.use_raw_disk()?;
    scene.lab.sticks = vec![config_volume::stick(scene)?];
    scene.lab.boot()?;
    config_volume::is_in_force(scene)?;
    scene.lab.sticks.clear();
    scene.lab.cut_power();

    // Of two sectors one is of another write than the other.
    let data = start_of(&disk, "data")?;
    let file = OpenOptions::new().write(true).open(&disk)?;
    file.write_all_at(&[0xee; 8], data + 1024 + 512 + 64)?;
    drop(file);
    scene.lab.boot()?;
    config_volume::is_in_force(scene)?;
    let said = scene.lab.pctl("log --service init --lines 200")?;
    ensure!(said.contains("superblock of the data partition was damaged"), "not damaged: {said}");
    Ok(())
}

/// A copy of the disk, with the same GUIDs, that the kernel finds first: neither its boot state nor
/// its data are touched.
pub fn copy_is_left_alone(scene: &mut Scene) -> Result<()> {
    let copy = Disk::raw_copy(&scene.image, &scene.folder().join("copy.raw"), None)?;
    let same = |scene: &Scene| {
        execute(Command::new("cmp").arg(&scene.image).arg(&copy.path))
            .context("the copy was written to")
            .map(drop)
    };
    scene.lab.other_disks = vec![copy.clone()];
    scene.lab.boot()?;
    let confirmed = |status: &Value| {
        status.pointer("/slots/0/confirmed").and_then(Value::as_bool) == Some(true)
    };
    scene.host().wait_for_status("a confirmed slot", SOON, confirmed)?;
    scene.lab.cut_power();
    same(scene)?;

    // And so again; the power cut has left the seed of random numbers for this boot.
    scene.lab.boot()?;
    let said = scene.lab.pctl("log --service init --lines 200")?;
    ensure!(said.contains("random seed restored"), "no seed was left: {said}");
    scene.lab.cut_power();
    same(scene)
}

/// Without a data partition the box routes by its defaults, and says that it keeps nothing.
pub fn no_data_partition(scene: &mut Scene) -> Result<()> {
    let disk = scene.use_raw_disk()?;
    execute(Command::new("sfdisk").arg("--delete").arg(&disk).arg("5"))?;
    scene.lab.power_on()?;
    let leased = scene.host().lease_by_udhcpc("pc", BOOT_LIMIT);
    leased.with_context(|| scene.lab.console().map(|c| c.tail()).unwrap_or_default())?;
    scene.host().wait_for_status("it keeps nothing, and all else is well", SOON, |status| {
        let problems = status.pointer("/system/problems").and_then(Value::as_array);
        problems.is_some_and(|problems| match problems.as_slice() {
            [Value::String(only)] => only.contains("nothing is kept over a restart"),
            _ => false,
        })
    })?;
    Ok(())
}
