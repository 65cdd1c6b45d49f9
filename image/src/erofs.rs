//! Packs the root file system as erofs.

use crate::tool::{MKFS_EROFS, Tools};
use crate::tree::Tree;
use anyhow::{Context, Result, ensure};
use std::fs;
use uuid::Uuid;

/// Size of a file system block, in bytes.
pub const BLOCK: usize = 4096;

/// The same for every image: a verified file system is named by its root hash.
const VOLUME: Uuid = Uuid::from_u128(0xfd41_a7b0_6b3c_5f0e_9d55_70c8_2f0e_8b11);

/// Makes an erofs of `tree` with all times set to `epoch` (seconds since 1970).
///
/// # Errors
/// When `mkfs.erofs` is missing or fails.
pub fn pack(tools: &Tools, tree: &Tree, epoch: u64) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let content = folder.path().join("root");
    fs::create_dir(&content)?;
    tree.write_to(&content)?;
    let image = folder.path().join("root.erofs");

    // LZ4 in clusters of up to 64 KiB: the fastest to read of all, on the slowest box we run on.
    let mut command = tools.command(
        MKFS_EROFS,
        ["-zlz4hc,12", "-C65536", "-Eztailpacking", "-x-1", "--all-root", "--quiet"],
    );
    command.arg(format!("-T{epoch}")).arg(format!("-U{VOLUME}")).arg(&image).arg(&content);
    // With the variable set mkfs.erofs falls back to per-file times, which are those of our temporary folder.
    command.env_remove("SOURCE_DATE_EPOCH");
    MKFS_EROFS.run(command)?;

    let bytes = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    ensure!(
        !bytes.is_empty() && bytes.len().is_multiple_of(BLOCK),
        "mkfs.erofs made {} bytes, not whole blocks of {BLOCK}",
        bytes.len()
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::pack;
    use crate::tool::Tools;
    use crate::tree::Tree;

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let mut tree = Tree::new();
        tree.program("usr/bin/portcullis", vec![1; 100_000]).unwrap();
        tree.link("usr/bin/pctl", "portcullis").unwrap();
        let first = pack(&Tools::default(), &tree, 1_700_000_000).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(first, pack(&Tools::default(), &tree, 1_700_000_000).unwrap());
        // The magic of erofs, little-endian at byte 1024.
        assert_eq!(first[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
    }
}
