//! Boot by phase; time until a LAN client has a lease, until it reaches the internet, until the machine
//! is whole; memory in use when idle.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_qemu::{Accelerator, Disk, Lab, Scratch, addresses};
use serde_json::Value;

use crate::report::{Report, Row};

/// Boots, of which the median counts: the machine that measures does other things too.
const BOOTS: usize = 3;

/// How long the appliance is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(20);

/// How long a client may wait for a page, from power-on.
const PATIENCE: Duration = Duration::from_secs(180);

/// Most seconds for the services, from the start of the first until all are ready.
const SERVICES_BOUND_S: f64 = 1.5;

/// Most memory in use when idle, MiB, in a guest with 512 MiB.
const MEMORY_BOUND_MIB: f64 = 96.0;

/// Boots the image in the lab and reads what it says of itself.
pub fn measure(image: &Path) -> Result<Report> {
    let folder = Scratch::new("bench")?;
    let disk = Disk::overlay(
        &image.join("portcullis.raw"),
        &folder.path().join("disk.qcow2"),
        Some(1280),
    )?;
    let mut lab = Lab::new(folder.path(), disk)?;
    // The first boot makes the data file system, certificate and so on: not what is measured.
    lab.boot()?;
    lab.pctl("shutdown").ok();
    lab.vm()?.wait_for_end(Duration::from_secs(30))?;

    let (mut lease_seconds, mut page_seconds, mut whole_seconds) =
        (Vec::new(), Vec::new(), Vec::new());
    let mut phases: Vec<(String, Vec<f64>)> = Vec::new();
    let mut memory_mib = Vec::new();
    for _ in 0..BOOTS {
        let [host, _] = &lab.hosts;
        host.forget()?;
        lab.power_on()?;
        let start = Instant::now();
        let [host, _] = &lab.hosts;
        host.lease_by_udhcpc("pc", Duration::from_secs(120))?;
        lease_seconds.push(start.elapsed().as_secs_f64());
        // Services are ready before all of the firewall's programs are loaded: what that means for a
        // client is when a page comes through.
        while let Err(error) = host.get(&format!("http://{}/", addresses::SITE)) {
            ensure!(start.elapsed() < PATIENCE, "no page of the internet: {error:#}");
        }
        page_seconds.push(start.elapsed().as_secs_f64());
        host.wait_for_status("healthy", Duration::from_secs(60), |status| {
            status.pointer("/system/healthy").and_then(Value::as_bool) == Some(true)
        })?;
        whole_seconds.push(start.elapsed().as_secs_f64());
        std::thread::sleep(IDLE);
        let status = host.status()?;
        for phase in status.pointer("/boot").and_then(Value::as_array).into_iter().flatten() {
            let name = phase.get("name").and_then(Value::as_str).unwrap_or_default();
            let seconds = phase.get("seconds").and_then(Value::as_f64).context("phase")?;
            match phases.iter_mut().find(|(known, _)| known == name) {
                Some((_, all)) => all.push(seconds),
                None => phases.push((name.to_owned(), vec![seconds])),
            }
        }
        let bytes = |key: &str| {
            status.pointer(&format!("/system/{key}")).and_then(Value::as_f64).context("memory")
        };
        let used = bytes("memory_total_bytes")? - bytes("memory_available_bytes")?;
        memory_mib.push(used / f64::from(1 << 20));
        lab.cut_power();
    }
    let how = format!("{}, 2 CPUs, 512 MiB, median of {BOOTS}", Accelerator::choose()?);
    let mut rows = vec![Row {
        peer_name: how,
        ..Row::figure("power-on to first lease of a LAN client", "s", median(&mut lease_seconds))
    }];
    rows.extend([
        Row::figure("power-on to its first page of the internet", "s", median(&mut page_seconds)),
        Row::figure("power-on to healthy: all programs loaded", "s", median(&mut whole_seconds)),
    ]);
    for (name, mut seconds) in phases {
        let label = format!("boot: {name}");
        let median = median(&mut seconds);
        rows.push(if name == "services" {
            Row::at_most(&label, "s", median, SERVICES_BOUND_S)
        } else {
            Row::figure(&label, "s", median)
        });
    }
    rows.push(Row::at_most(
        "memory in use, idle",
        "MiB",
        median(&mut memory_mib),
        MEMORY_BOUND_MIB,
    ));
    Ok(Report { name: "boot", rows })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
