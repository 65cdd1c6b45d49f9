//! The data partition is full: routing, leases and names go on.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use portcullis_netns::execute;
use portcullis_qemu::{SOON, addresses};
use serde_json::Value;

use crate::scene::Scene;

pub fn routing_goes_on(scene: &mut Scene) -> Result<()> {
    let disk = scene.use_raw_disk()?;
    // The first boot makes and grows the file system.
    scene.lab.boot()?;
    scene.lab.pctl("shutdown").ok();
    scene.lab.vm()?.wait_for_end(SOON)?;

    fill(&disk, scene.folder())?;

    scene.lab.boot()?;
    let status = scene.host().status()?;
    let free = status.pointer("/system/data_free_bytes").and_then(Value::as_u64);
    ensure!(free.is_some_and(|free| free < 1 << 20), "the data partition has {free:?} bytes free");
    let host = scene.second_host();
    host.lease_by_udhcpc("laptop", SOON)?;
    host.get(&format!("http://{}/", addresses::SITE_NAME))?;
    host.run(&format!("ping -c 2 -i 0.2 -W 2 {}", addresses::SITE))?;
    Ok(())
}

/// Fills the ext4 file system of the `data` partition of a raw disk to its last block.
fn fill(disk: &Path, folder: &Path) -> Result<()> {
    let output = execute(Command::new("sfdisk").arg("--json").arg(disk))?;
    let table: Value = serde_json::from_slice(&output.stdout)?;
    let partitions = table.pointer("/partitiontable/partitions").and_then(Value::as_array);
    let data = partitions
        .into_iter()
        .flatten()
        .find(|p| p.get("name").and_then(Value::as_str) == Some("data"))
        .context("no data partition")?;
    let number = |key: &str| data.get(key).and_then(Value::as_u64).context("partition");
    let (start, size) = (number("start")? * 512, number("size")? * 512);
    let device = format!("{}?offset={start}", disk.display());
    // Larger than what can be free: debugfs writes until the file system is full.
    let filler = folder.join("filler");
    let content = std::fs::File::create(&filler)?;
    drop(content);
    let mut out = std::io::BufWriter::new(std::fs::File::create(&filler)?);
    portcullis_qemu::Internet::write_content(size, &mut out)?;
    drop(out);
    let request = format!("write {} filler", filler.display());
    let status = Command::new("debugfs").args(["-w", "-R", &request, &device]).output()?;
    std::fs::remove_file(&filler)?;
    let said = String::from_utf8_lossy(&status.stderr);
    ensure!(
        said.contains("Could not allocate block")
            || said.contains("No space")
            || said.contains("allocate"),
        "the file system was not filled: {said}"
    );
    Ok(())
}
