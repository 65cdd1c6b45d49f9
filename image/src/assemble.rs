//! From parts to a slot and an ESP. Looks at nothing but what it is given: the same parts give the same bytes.

use crate::architecture::Architecture;
use crate::base::Base;
use crate::progress::stage;
use crate::slot::{self, Slot};
use crate::tool::Tools;
use crate::tree::Tree;
use crate::{data, erofs, esp, initrd, root};
use anyhow::Result;
use portcullis_bundle::{SigningKey, Version};

/// Everything that an image is made of.
#[derive(Debug)]
pub struct Parts {
    /// The processor it is for.
    pub architecture: &'static Architecture,
    /// Programs that go before those of the host.
    pub tools: Tools,
    /// Kernel, modules and stub.
    pub base: Base,
    /// The multi-call binary.
    pub program: Vec<u8>,
    /// Stage one of init.
    pub stage_one: Vec<u8>,
    /// The boot manager.
    pub boot_manager: Vec<u8>,
    /// Version of the image.
    pub version: Version,
    /// The oldest version that may be installed over this one.
    pub min_version: Option<Version>,
    /// The time that every file has, in seconds since 1970.
    pub epoch: u64,
}

/// What [`assemble`] makes.
#[derive(Debug)]
pub struct Assembly {
    /// Content of the initrd.
    pub initrd_tree: Tree,
    /// The packed initrd.
    pub initrd: Vec<u8>,
    /// Content of the root file system.
    pub root_tree: Tree,
    /// The signed slot.
    pub slot: Slot,
    /// The EFI system partition.
    pub esp: Vec<u8>,
}

/// Makes slot and ESP.
///
/// # Errors
/// When a tool is missing or fails, or the parts do not fit together.
pub fn assemble(parts: &Parts, key: &SigningKey) -> Result<Assembly> {
    let Parts { architecture, tools, base, version, epoch, .. } = parts;
    let initrd_tree = initrd::layout(parts.stage_one.clone(), base)?;
    let initrd = stage("initrd (cpio, zstd)", || initrd::pack(&initrd_tree))?;

    let data_template = stage("data partition template (ext4)", || data::template(tools, *epoch))?;
    let root_tree = root::layout(parts.program.clone(), data_template, base, version.as_str())?;
    let root = stage("root file system (erofs)", || erofs::pack(tools, &root_tree, *epoch))?;

    let slot = stage("slot (verity, UKI, signature)", || {
        let slot_parts = slot::Parts {
            architecture,
            stub: &base.stub,
            kernel: &base.kernel,
            release: &base.release,
            initrd: &initrd,
            root: &root,
            version: *version,
            min_version: parts.min_version,
        };
        slot::build(&slot_parts, key)
    })?;
    let esp = stage("EFI system partition (FAT32)", || {
        esp::build(tools, &parts.boot_manager, architecture.removable_boot_path, *epoch)
    })?;
    Ok(Assembly { initrd_tree, initrd, root_tree, slot, esp })
}
