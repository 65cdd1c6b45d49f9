//! The base `buildroot`: the kernel that Buildroot built from `buildroot/`, handed over in a folder.
//!
//! `buildroot/board/portcullis/post-image.sh` writes the folder `images/portcullis-base` of Buildroot's output:
//!
//! | file | what |
//! |---|---|
//! | `base.json` | [`Description`]; written last |
//! | `kernel` | the kernel, bootable by the EFI stub |
//! | `config`, `System.map` | how it was configured and its symbols: kept with a release, never in the image |
//! | `modules/` | `modules.builtin` and, if the kernel has loadable modules, `kernel/**/*.ko` |

use super::{Base, Origin, stub};
use crate::architecture::Architecture;
use crate::digest::Digest;
use crate::modules::list;
use crate::progress::stage;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The version of the folder's layout that this builder reads.
pub const FORMAT: u32 = 1;
/// The description's file name.
pub const DESCRIPTION: &str = "base.json";
/// The kernel's file name.
pub const KERNEL: &str = "kernel";
/// The folder of modules.
pub const MODULES: &str = "modules";

/// What `base.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Layout of the folder, [`FORMAT`].
    pub format: u32,
    /// Processor architecture as the kernel calls it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Kernel release.
    pub kernel_release: String,
    /// The Buildroot it was built with.
    pub buildroot: Pin,
    /// SHA-256 of the files beside the description, by name, hexadecimal.
    pub files: BTreeMap<String, String>,
    /// There are loadable modules.
    pub modules: bool,
    /// Versions of the tools it was compiled with, by name.
    pub toolchain: BTreeMap<String, String>,
    /// Where what goes into the image came from.
    pub origins: Vec<Origin>,
}

/// A version of Buildroot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its tag.
    pub version: String,
    /// Its commit id.
    pub commit: String,
}

/// Reads the description and checks that the folder is whole, for this processor and from this Buildroot.
///
/// # Errors
/// Names the file or field that is missing or wrong.
pub fn describe(folder: &Path, architecture: &Architecture, pin: &Pin) -> Result<Description> {
    let path = folder.join(DESCRIPTION);
    let text = fs::read(&path).with_context(|| {
        format!("cannot read {}: Buildroot has not come to its end there", path.display())
    })?;
    let description: Description =
        serde_json::from_slice(&text).with_context(|| format!("{} is wrong", path.display()))?;
    let Description { format, architecture: built_for, buildroot, files, .. } = &description;
    let shown = path.display();
    ensure!(*format == FORMAT, "{shown}: format {format}, this builder reads {FORMAT}");
    ensure!(
        built_for == architecture.name,
        "{shown}: it is for {built_for}, not {}",
        architecture.name
    );
    ensure!(
        buildroot == pin,
        "{shown}: it was built by Buildroot {} ({}), pinned is {} ({})",
        buildroot.version,
        buildroot.commit,
        pin.version,
        pin.commit
    );
    ensure!(files.contains_key(KERNEL), "{shown}: no SHA-256 of the file {KERNEL}");
    for (name, expected) in files {
        ensure!(
            !name.contains('/') && name != "..",
            "{shown}: {name:?} is not the name of a file beside it"
        );
        let file = folder.join(name);
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let found = Digest::of(&bytes).to_string();
        ensure!(
            found == *expected,
            "{} has the SHA-256 {found}, {shown} says {expected}",
            file.display()
        );
    }
    Ok(description)
}

/// Takes kernel and modules from the folder and the stub from the host; `modules_list` is the text of `modules.list`.
///
/// # Errors
/// As [`describe`], and when a wanted module is neither there nor built in.
pub fn load(
    architecture: &Architecture,
    folder: &Path,
    pin: &Pin,
    modules_list: &str,
) -> Result<Base> {
    let wanted = list::parse(modules_list)?;
    let description = stage("kernel of Buildroot", || describe(folder, architecture, pin))?;
    let kernel = fs::read(folder.join(KERNEL))?;
    let release = description.kernel_release;
    let (modules, built_in) =
        stage("kernel modules", || super::modules(&folder.join(MODULES), &wanted, &release))?;
    ensure!(
        description.modules || modules.is_empty(),
        "{}: it says that there are no modules, but there is {}",
        folder.join(DESCRIPTION).display(),
        modules.first().map_or("", |module| module.path.as_str())
    );
    let stub = stub::read(architecture)?;
    let mut origins = description.origins;
    origins.push(stub::origin(architecture)?);
    let notices = vec![stub::notice()?];
    Ok(Base { release, kernel, modules, built_in, stub, origins, built_by: Vec::new(), notices })
}

/// Lays out a base as Buildroot does, for tests of all that comes after.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, base: &Base, architecture: &Architecture, pin: &Pin) -> Result<()> {
    let modules = folder.join(MODULES);
    for module in &base.modules {
        let path = modules.join(&module.path);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        fs::write(path, &module.bytes)?;
    }
    fs::create_dir_all(&modules)?;
    let built_in: String = base.built_in.iter().map(|path| format!("{path}\n")).collect();
    fs::write(modules.join("modules.builtin"), built_in)?;
    fs::write(folder.join(KERNEL), &base.kernel)?;
    let description = Description {
        format: FORMAT,
        architecture: architecture.name.to_owned(),
        kernel_release: base.release.clone(),
        buildroot: pin.clone(),
        files: BTreeMap::from([(KERNEL.to_owned(), Digest::of(&base.kernel).to_string())]),
        modules: !base.modules.is_empty(),
        toolchain: BTreeMap::new(),
        origins: base
            .origins
            .iter()
            .filter(|origin| origin.role.contains("kernel"))
            .cloned()
            .collect(),
    };
    Ok(fs::write(folder.join(DESCRIPTION), serde_json::to_vec_pretty(&description)?)?)
}
