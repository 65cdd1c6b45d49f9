//! The slot: root file system, hash tree and UKI, in one signed blob.

use crate::architecture::Architecture;
use crate::digest::Digest;
use crate::root;
use crate::uki::{self, Section};
use anyhow::{Context, Result};
use portcullis_bundle::blob::{self, Meta, Summary};
use portcullis_bundle::{SigningKey, Version, verity};

/// What goes into a slot.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The processor it is for.
    pub architecture: &'a Architecture,
    /// The EFI stub.
    pub stub: &'a [u8],
    /// The kernel.
    pub kernel: &'a [u8],
    /// Release of the kernel.
    pub release: &'a str,
    /// The packed initrd.
    pub initrd: &'a [u8],
    /// The packed root file system.
    pub root: &'a [u8],
    /// Version of the image.
    pub version: Version,
    /// The oldest version that may be installed over this one.
    pub min_version: Option<Version>,
}

/// A finished slot.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The blob as it is published.
    pub blob: Vec<u8>,
    /// Its manifest and hash.
    pub summary: Summary,
    /// Command line of the kernel.
    pub command_line: String,
}

/// Hashes the root file system, puts the UKI together and signs both.
///
/// # Errors
/// When the stub cannot take the sections or the parts do not fit the blob's format.
pub fn build(parts: &Parts<'_>, key: &SigningKey) -> Result<Slot> {
    // Any salt will do, since what it keeps apart are hashes of secrets; one that follows from the content keeps the
    // build reproducible.
    let salt = Digest::of_parts([&b"portcullis verity salt"[..], parts.root]).0;
    let tree = verity::build(parts.root, &salt)?;
    let command_line = command_line(parts.architecture, &tree.root_hash);
    let os_release = root::os_release(parts.version.as_str());
    let uki = uki::build(
        parts.stub,
        parts.architecture.pe_machine,
        &[
            Section { name: ".osrel", data: os_release.as_bytes() },
            Section { name: ".cmdline", data: command_line.as_bytes() },
            Section { name: ".uname", data: parts.release.as_bytes() },
            Section { name: ".linux", data: parts.kernel },
            Section { name: ".initrd", data: parts.initrd },
        ],
    )
    .context("cannot put the unified kernel image together")?;

    let mut blob = Vec::new();
    let meta = Meta {
        version: parts.version,
        min_version: parts.min_version,
        architecture: parts.architecture.bundle,
    };
    let summary = blob::write(parts.root, &tree, &uki, &meta, key, &mut blob)?;
    Ok(Slot { blob, summary, command_line })
}

/// The kernel's command line. Nothing in it can start a shell, and init takes the first occurrence of each key.
pub fn command_line(architecture: &Architecture, root_hash: &[u8; 32]) -> String {
    let mut words = vec![
        "rdinit=/init".to_owned(),
        format!("roothash={}", hex::encode(root_hash)),
        // With the first partition table damaged the kernel takes the second, as firmware and boot manager do.
        "gpt".to_owned(),
        // Warnings and worse on the console; all of it goes to the journal.
        "loglevel=4".to_owned(),
        // A kernel that has lost its footing restarts, and the boot-failure counter sees it.
        "oops=panic".to_owned(),
        "panic=10".to_owned(),
        // Root cannot change the running kernel, and only modules of the kernel's own build load.
        "lockdown=integrity".to_owned(),
        "module.sig_enforce=1".to_owned(),
        // The security modules that something here uses; each of the others costs memory and start time.
        "lsm=landlock,lockdown,yama,bpf".to_owned(),
        "randomize_kstack_offset=on".to_owned(),
        "slab_nomerge".to_owned(),
        // Free memory is handed out in an order that nobody can guess.
        "page_alloc.shuffle=1".to_owned(),
        "debugfs=off".to_owned(),
        // Drivers built into the kernel make devices that nobody asked for: sit0, tunl0, gre0, bond0, dummy0, ifb0.
        "fb_tunnels=none".to_owned(),
        "bonding.max_bonds=0".to_owned(),
        "dummy.numdummies=0".to_owned(),
        "ifb.numifbs=0".to_owned(),
        // Huge pages waste memory on a box with 256 MB.
        "transparent_hugepage=madvise".to_owned(),
    ];
    words.extend(architecture.kernel_options.iter().map(|&option| option.to_owned()));
    words.extend(architecture.consoles.iter().map(|console| format!("console={console}")));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::command_line;
    use crate::architecture::X86_64;

    #[test]
    fn a_damaged_partition_table_stops_the_kernel_no_more_than_the_boot_manager() {
        let line = command_line(&X86_64, &[0xab; 32]);
        assert!(line.split(' ').any(|word| word == "gpt"), "{line}");
    }

    #[test]
    fn the_command_line_pins_the_root_and_starts_no_shell() {
        let line = command_line(&X86_64, &[0xab; 32]);
        assert!(line.contains(&format!("roothash={}", "ab".repeat(32))), "{line}");
        assert!(line.is_ascii() && line.len() < 2048, "{line}");
        for word in line.split(' ') {
            let key = word.split('=').next().unwrap();
            assert!(
                !["init", "single", "emergency", "rescue", "debug", "shell"].contains(&key),
                "{word}"
            );
            assert_eq!(
                line.matches(&format!("{key}=")).count(),
                if key == "console" { 2 } else { usize::from(word.contains('=')) }
            );
        }
    }
}
