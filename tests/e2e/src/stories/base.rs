//! The base `buildroot` without Buildroot: Debian's kernel, handed over in the same way.

use std::{path::Path, process::Command};

use anyhow::Result;
use portcullis_netns::execute;
use portcullis_qemu::addresses;

use super::reproducible::{builder, same};
use crate::scene::Scene;

/// The same kernel gives the same slot whichever base it comes by, and that boots and routes.
pub fn handed_over(scene: &mut Scene) -> Result<()> {
    let folder = scene.folder().join("portcullis-base");
    let out = scene.folder().join("image");
    let mut lay_out: Command = builder(Path::new("."));
    execute(lay_out.arg("lay-out-base").arg(&folder))?;
    let mut build = builder(Path::new("."));
    build.args(["build", "--base", "buildroot", "--base-folder"]).arg(&folder);
    execute(build.arg("--out").arg(&out))?;
    same(scene.image.parent().unwrap_or(Path::new(".")), &out)?;

    scene.use_image(&out.join("portcullis.raw"))?;
    scene.lab.boot()?;
    scene.host().get(&format!("http://{}/bytes/10000000", addresses::SITE)).map(drop)
}
