//! A first boot takes its configuration from a USB stick labelled PORTCULLIS.

use std::process::Command;

use anyhow::{Result, ensure};
use portcullis_netns::execute;
use portcullis_qemu::Disk;

use crate::scene::Scene;

pub fn is_taken(scene: &mut Scene) -> Result<()> {
    let stick = scene.folder().join("stick.img");
    let file = scene.folder().join("config.toml");
    std::fs::write(&file, "[system]\nhostname = \"from-stick\"\n")?;
    execute(Command::new("truncate").args(["-s", "16M"]).arg(&stick))?;
    execute(Command::new("mformat").arg("-i").arg(&stick).args(["-v", "PORTCULLIS", "::"]))?;
    execute(Command::new("mcopy").arg("-i").arg(&stick).arg(&file).arg("::config.toml"))?;
    scene.lab.sticks = vec![Disk { path: stick, format: "raw" }];
    scene.lab.boot()?;
    let answer = scene.host().run("dig +short +time=3 @192.168.77.1 from-stick.lan A")?;
    ensure!(answer.trim() == "192.168.77.1", "from-stick.lan: {answer}");

    // It is stored: the next boot, without the stick, has it still.
    scene.lab.sticks.clear();
    scene.lab.cut_power();
    scene.lab.boot()?;
    let answer = scene.host().run("dig +short +time=3 @192.168.77.1 from-stick.lan A")?;
    ensure!(answer.trim() == "192.168.77.1", "after a reboot: {answer}");
    Ok(())
}
