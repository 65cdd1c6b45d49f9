//! A new document is applied at run time; what did not change is not touched.

use anyhow::{Context, Result, ensure};
use portcullis_qemu::{SOON, addresses};
use serde_json::Value;

use crate::scene::Scene;

pub fn at_run_time(scene: &mut Scene) -> Result<()> {
    let host = scene.host();
    let shown = scene.lab.pctl("config show")?;
    ensure!(shown.contains("hostname = \"portcullis\""), "config show:\n{shown}");

    let bad = scene.lab.pctl_with_document(
        "config check -",
        "[dhcp.lan]\npool = { start = \"10.0.0.1\", end = \"10.0.0.9\" }\n",
    )?;
    ensure!(bad.contains("dhcp.lan.pool"), "the check names no field:\n{bad}");

    let firewall_before = scene.pid("firewall")?;
    let generation = |status: &Value| status.pointer("/config/generation").and_then(Value::as_u64);
    let before = generation(&host.status()?).context("no generation of the configuration")?;
    let document = "[system]\nhostname = \"gate\"\n[dhcp.lan]\npool = { start = \"192.168.77.200\", end = \"192.168.77.210\" }\n";
    let said = scene.lab.pctl_with_document("config apply -", document)?;
    let applied = |status: &Value| generation(status) > Some(before);
    let status = host
        .wait_for_status("document applied", SOON, applied)
        .with_context(|| format!("apply said:\n{said}"))?;
    let answer = host.run("dig +short +time=3 @192.168.77.1 gate.lan A")?;
    ensure!(answer.trim() == "192.168.77.1", "gate.lan: {answer}; apply said:\n{said}\n{status:#}");
    host.forget()?;
    let address = host.lease_by_udhcpc("pc", SOON)?;
    let last: u8 = address.rsplit('.').next().unwrap_or_default().parse().context("address")?;
    ensure!((200..=210).contains(&last), "{address} is not of the new pool");
    ensure!(scene.pid("firewall")? == firewall_before, "the firewall was restarted");
    host.get(&format!("http://{}/", addresses::SITE_NAME))?;

    // Back to the defaults for the stories that follow.
    scene.lab.pctl_with_document("config apply -", "version = 1\n")?;
    host.forget()?;
    host.lease_by_udhcpc("pc", SOON)?;
    Ok(())
}
