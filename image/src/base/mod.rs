//! The base: what an image takes from elsewhere. Kernel, modules and EFI stub.

pub mod debian;

use crate::modules::Module;

/// A kernel with its modules and the stub that starts it.
#[derive(Debug, Clone)]
pub struct Base {
    /// Kernel release: `6.12.117+deb12-amd64`.
    pub release: String,
    /// The kernel, bootable by the stub.
    pub kernel: Vec<u8>,
    /// The modules of `modules.list` and what they need, sorted by name.
    pub modules: Vec<Module>,
    /// The EFI stub.
    pub stub: Vec<u8>,
    /// Where all that came from, for the SBOM.
    pub origins: Vec<Origin>,
}

/// A package that a part of the base came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name of the package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SPDX licence expression.
    pub license: String,
    /// Package URL (purl).
    pub purl: String,
    /// SHA-256 of the package or, where only that is known, of the file taken from it; hexadecimal.
    pub sha256: String,
    /// What it gives to the image.
    pub role: &'static str,
}
