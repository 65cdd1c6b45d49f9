//! The base: what an image takes from elsewhere. Kernel, modules and EFI stub.

pub mod buildroot;
pub mod debian;
pub mod stub;

use crate::modules::Module;
use crate::modules::list::Wanted;
use crate::modules::select::Library;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A kernel with its modules and the stub that starts it.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// Kernel release: `6.12.117+deb12-amd64`.
    pub release: String,
    /// The kernel, bootable by the stub.
    pub kernel: Vec<u8>,
    /// The modules of `modules.list` and what they need, sorted by name.
    pub modules: Vec<Module>,
    /// Those of `modules.list` that are part of the kernel itself, as lines of `modules.builtin`, sorted.
    pub built_in: Vec<String>,
    /// The EFI stub.
    pub stub: Vec<u8>,
    /// Where all that came from, for the SBOM.
    pub origins: Vec<Origin>,
    /// What it was built with, for the SBOM; a prebuilt one does not say.
    pub built_by: Vec<BuildTool>,
    /// Texts of licences that come with it.
    pub notices: Vec<Notice>,
}

/// Something that took part in the build and is not in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildTool {
    /// Its name where it was built.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licences in the words of who built it, which need not be an SPDX expression.
    pub licenses: Option<String>,
}

/// Copyright and licence of a package, as it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The package.
    pub package: String,
    /// The text.
    pub text: Vec<u8>,
}

/// A package that a part of the base came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    pub role: String,
}

/// The wanted modules of the folder `/lib/modules/RELEASE`, and those that are built in.
fn modules(folder: &Path, wanted: &[Wanted], release: &str) -> Result<(Vec<Module>, Vec<String>)> {
    let library = Library::open(folder)?;
    let modules = library.select(wanted)?;
    for module in &modules {
        let built_for = module.info.release.as_deref().unwrap_or_default();
        ensure!(
            built_for == release,
            "module {} is for kernel {built_for:?}, not {release}",
            module.name
        );
    }
    Ok((modules, library.built_in(wanted)))
}
