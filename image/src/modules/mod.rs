//! The kernel modules of the image: which ones (`modules.list` and what they depend on) and the tables init reads.
//!
//! [`list`] says which modules are wanted where, [`info`] what a module says about itself, [`select`] follows the
//! dependencies, [`tables`] writes `modules.dep`, `modules.alias` and `modules.softdep`. What of the list is part of the kernel itself
//! stands in `modules.builtin`.

pub mod info;
pub mod list;
pub mod select;
pub mod tables;

use crate::tree::Tree;
use anyhow::Result;
use info::Info;

/// A kernel module, uncompressed, as it goes into the image.
///
/// The file systems around it compress better and decompress faster than xz inside the kernel does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name as the kernel shows it, with underscores: `virtio_net`.
    pub name: String,
    /// Path below `/usr/lib/modules/RELEASE`: `kernel/drivers/net/virtio_net.ko`.
    pub path: String,
    /// What it says about itself.
    pub info: Info,
    /// The ELF object with the distribution's signature at its end.
    pub bytes: Vec<u8>,
    /// Whether the initrd needs it.
    pub boot: bool,
}

/// The name the kernel knows a module by: dashes and underscores are the same to it.
pub fn canonical_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Adds modules, their tables and the list of those that are `built_in` under `usr/lib/modules/RELEASE`.
///
/// # Errors
/// When a path of a module is not a plain relative one.
pub fn install<'a>(
    tree: &mut Tree,
    release: &str,
    modules: impl Iterator<Item = &'a Module> + Clone,
    built_in: &[String],
) -> Result<()> {
    let folder = format!("usr/lib/modules/{release}");
    for module in modules.clone() {
        tree.file(&format!("{folder}/{}", module.path), module.bytes.clone())?;
    }
    tree.file(&format!("{folder}/modules.dep"), tables::dep(modules.clone()).into_bytes())?;
    tree.file(&format!("{folder}/modules.alias"), tables::alias(modules.clone()).into_bytes())?;
    tree.file(&format!("{folder}/modules.softdep"), tables::softdep(modules).into_bytes())?;
    let built_in: String = built_in.iter().map(|path| format!("{path}\n")).collect();
    tree.file(&format!("{folder}/modules.builtin"), built_in.into_bytes())
}
