//! The EFI stub, which both bases take from the build host: Buildroot has it only with systemd as the init system.

use super::{Notice, Origin};
use crate::architecture::Architecture;
use crate::debian;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The Debian package of the stub.
const PACKAGE: &str = "systemd-boot-efi";

/// The installed stub.
///
/// # Errors
/// When it is not there; names the package.
pub fn read(architecture: &Architecture) -> Result<Vec<u8>> {
    fs::read(architecture.stub).with_context(|| {
        format!(
            "cannot read the EFI stub {}; it is in the Debian package {PACKAGE}: apt-get install {PACKAGE}",
            architecture.stub
        )
    })
}

/// Where it came from.
///
/// # Errors
/// When dpkg does not know the package.
pub fn origin(architecture: &Architecture) -> Result<Origin> {
    let file = Path::new(architecture.stub);
    debian::origin(architecture, PACKAGE, file, "LGPL-2.1-or-later", "EFI stub")
}

/// Its licence.
///
/// # Errors
/// When the package is not installed with its documentation.
pub fn notice() -> Result<Notice> {
    debian::notice(PACKAGE)
}
