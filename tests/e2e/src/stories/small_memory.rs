//! A guest with 256 MB does what one with more does.

use anyhow::Result;
use portcullis_qemu::addresses;

use crate::scene::Scene;

pub fn works(scene: &mut Scene) -> Result<()> {
    scene.lab.memory_mib = 256;
    scene.lab.boot()?;
    scene.host().get(&format!("http://{}/bytes/10000000", addresses::SITE)).map(drop)
}
