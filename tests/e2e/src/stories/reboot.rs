//! What must survive a reboot and a power cut.

use anyhow::{Result, ensure};
use portcullis_qemu::SOON;
use serde_json::Value;

use crate::scene::Scene;

pub fn keeps_leases(scene: &mut Scene) -> Result<()> {
    scene.lab.boot()?;
    let before = leases_of_both(scene)?;
    scene.lab.pctl("reboot").ok();
    // QEMU ends when the guest asks for a reset, so that a reboot is told from a crash.
    let status = scene.lab.vm()?.wait_for_end(SOON)?;
    ensure!(status.success(), "QEMU: {status}");
    scene.lab.boot()?;
    // However soon a person ends a healthy boot, it does not cost the slot a try.
    let status = scene.host().status()?;
    let confirmed = status.pointer("/slots/0/confirmed").and_then(Value::as_bool);
    ensure!(confirmed == Some(true), "the slot is not confirmed: {status:#}");
    same(scene, &before)
}

pub fn power_cut_keeps_leases(scene: &mut Scene) -> Result<()> {
    scene.lab.boot()?;
    let before = leases_of_both(scene)?;
    scene.lab.cut_power();
    scene.lab.boot()?;
    same(scene, &before)
}

fn leases_of_both(scene: &Scene) -> Result<[String; 2]> {
    let pc = scene.host().address()?;
    let laptop = scene.second_host().lease_by_udhcpc("laptop", SOON)?;
    ensure!(pc != laptop, "both hosts have {pc}");
    Ok([pc, laptop])
}

/// Both leases are still listed, and both clients get their former addresses, the second first.
fn same(scene: &Scene, before: &[String; 2]) -> Result<()> {
    let status = scene.host().status()?;
    let listed = status.pointer("/leases").map(Value::to_string).unwrap_or_default();
    for address in before {
        ensure!(listed.contains(address.as_str()), "{address} is not in {listed}");
    }
    let [pc, laptop] = before;
    scene.second_host().forget()?;
    let now = scene.second_host().lease_by_udhcpc("laptop", SOON)?;
    ensure!(now == *laptop, "laptop had {laptop} and got {now}");
    let now = scene.host().address()?;
    ensure!(now == *pc, "pc had {pc} and got {now}");
    Ok(())
}
