//! The file system a new data partition starts as: an empty ext4 that the image carries, so that no program that makes
//! file systems needs to be in it. Init copies it and lets the kernel grow it to the size of the partition.

use crate::tool::{MKE2FS, Tools};
use anyhow::{Context, Result};
use std::fs::{self, File};

/// Size in bytes. Small, because all of it is copied at first boot.
const SIZE: u64 = 16 << 20;

/// Block groups are described where they are (`meta_bg`) instead of in a reserved area, so that it may grow without an
/// end. A whole group of 128 MiB will have as many inodes as this beginning of one. Inode tables and journal are
/// written out: nothing is left for the kernel to do in the background.
const OPTIONS: [&str; 19] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-I",
    "256",
    "-i",
    "4096",
    "-m",
    "1",
    "-J",
    "size=4",
    "-L",
    "data",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,meta_bg,extent,64bit,flex_bg,sparse_super,large_file,huge_file,\
     dir_nlink,extra_isize,metadata_csum",
    "-U",
];
const VOLUME: &str = "fd41a7b0-6b3c-5f0e-9d55-70c82f0e8b12";
const EXTENDED: &str = "hash_seed=fd41a7b0-6b3c-5f0e-9d55-70c82f0e8b13,lazy_itable_init=0,lazy_journal_init=0,\
                        nodiscard,root_owner=0:0";

/// Makes the file system, with all times set to `epoch` (seconds since 1970).
///
/// # Errors
/// When `mke2fs` is missing or fails.
pub fn template(tools: &Tools, epoch: u64) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let image = folder.path().join("data.ext4");
    File::create(&image)?.set_len(SIZE)?;
    let mut command = tools.command(MKE2FS, OPTIONS);
    command.args([VOLUME, "-E", EXTENDED]).arg(&image);
    // The distribution's defaults must not decide, nor the clock. e2fsprogs before 1.47.1 knows only its own variable.
    command.env("MKE2FS_CONFIG", "/dev/null");
    command
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
        .env("SOURCE_DATE_EPOCH", epoch.to_string());
    MKE2FS.run(command)?;
    fs::read(&image).with_context(|| format!("cannot read {}", image.display()))
}

#[cfg(test)]
mod tests {
    use super::template;
    use crate::tool::{Tool, Tools};

    #[test]
    fn is_a_sound_ext4_and_always_the_same() {
        let first = template(&Tools::default(), 1_700_000_000).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(first == template(&Tools::default(), 1_700_000_000).unwrap());
        // s_inode_size of the superblock: smaller inodes cannot hold a time after 2038.
        assert_eq!(first[1024 + 88..][..2], 256_u16.to_le_bytes());

        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("data");
        std::fs::write(&image, first).unwrap();
        let fsck = Tool { program: "/usr/sbin/e2fsck", package: "e2fsprogs" };
        fsck.run(fsck.command(["-fn", image.to_str().unwrap()])).unwrap();
    }
}
