//! A first boot takes its configuration from a USB stick labelled PORTCULLIS.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_netns::execute;
use portcullis_qemu::Disk;

use crate::scene::Scene;

/// A stick that names the router `from-stick`.
pub fn stick(scene: &Scene) -> Result<Disk> {
    let stick = scene.folder().join("stick.img");
    let file = scene.folder().join("config.toml");
    std::fs::write(&file, "[system]\nhostname = \"from-stick\"\n")?;
    execute(Command::new("truncate").args(["-s", "16M"]).arg(&stick))?;
    execute(Command::new("mformat").arg("-i").arg(&stick).args(["-v", "PORTCULLIS", "::"]))?;
    execute(Command::new("mcopy").arg("-i").arg(&stick).arg(&file).arg("::config.toml"))?;
    Ok(Disk { path: stick, format: "raw" })
}

/// The router has the name that the stick gave it.
pub fn is_in_force(scene: &Scene) -> Result<()> {
    let answer = scene.host().run("dig +short +time=3 @192.168.77.1 from-stick.lan A")?;
    ensure!(answer.trim() == "192.168.77.1", "from-stick.lan: {answer}");
    Ok(())
}

pub fn is_taken(scene: &mut Scene) -> Result<()> {
    scene.lab.sticks = vec![stick(scene)?];
    scene.lab.boot()?;
    is_in_force(scene)?;

    // It is stored: the next boot, without the stick, has it still.
    scene.lab.sticks.clear();
    scene.lab.cut_power();
    scene.lab.boot()?;
    is_in_force(scene).context("after a reboot")
}
