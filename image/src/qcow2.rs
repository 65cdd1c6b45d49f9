//! The disk image for QEMU and everything that reads its format.

use crate::tool::QEMU_IMG;
use anyhow::Result;
use std::path::Path;

/// Converts the raw image at `raw` to a compressed qcow2 at `target`.
///
/// # Errors
/// When `qemu-img` is missing or fails.
pub fn convert(raw: &Path, target: &Path) -> Result<()> {
    let mut command =
        QEMU_IMG.command(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compat=1.1"]);
    command.arg(raw).arg(target);
    QEMU_IMG.run(command)?;
    Ok(())
}
