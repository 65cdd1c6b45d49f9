//! The data partition: grown to the end of the disk, made at first boot, mounted.
//!
//! What the image builder provides:
//! - the last partition of the disk, `data` (`portcullis_bootstate::disk::DATA`), of any size and
//!   with any content; it need not hold a file system;
//! - `/usr/lib/portcullis/data.ext4` ([`DATA_TEMPLATE`](crate::places::DATA_TEMPLATE)) in the
//!   root, an empty ext4, not larger than that partition, that the kernel can grow (`meta_bg` or
//!   `resize_inode`). It is copied where no ext4 is found, so that the image needs no mkfs.
//!
//! The order is safe at any instant: the table only ever grows the last partition and has two
//! copies; the template's superblock is written last, so that a copy that was cut off is no file
//! system and is made again.

mod ext4;
mod table;

pub use table::grow_partition;

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use rustix::mount::{MountFlags, mount};

use crate::disk::Partition;

/// What was done, for the journal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The partition was made larger.
    pub partition_grown: bool,
    /// A new, empty file system was made, and why.
    pub made: Option<String>,
}

/// The data partition cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The disk failed, or a file of the image.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Also a new file system cannot be mounted.
    #[error("mounting {device}: {source}")]
    Mount {
        /// Device.
        device: String,
        /// What the kernel said.
        source: rustix::io::Errno,
    },
}

fn context(what: impl Into<String>) -> impl FnOnce(io::Error) -> DataError {
    let what = what.into();
    |source| DataError::Io { what, source }
}

/// Makes the data partition usable and mounts it at `target`. Growing the file system to the size
/// of the partition is a step of its own ([`grow_file_system`]), as it takes time on large disks.
///
/// # Errors
/// If nothing can be mounted; the box then runs without persistent data, and says so.
pub fn open(partition: &Partition, template: &Path, target: &Path) -> Result<Outcome, DataError> {
    let mut outcome = Outcome::default();
    match grow_partition(partition) {
        Ok(grown) => outcome.partition_grown = grown,
        // A table that cannot be grown is no reason to do without what fits.
        Err(error) => tracing::warn!(%error, "data partition keeps its size"),
    }
    let node = partition.node();
    let device = node.to_string_lossy().into_owned();
    if !ext4::is_there(&node).map_err(context(device.clone()))? {
        outcome.made = Some("the partition held no file system".to_owned());
        copy_template(template, &node)?;
    }
    let mut result = mount_ext4(&node, target);
    if let Err(errno) = result
        && damaged(errno)
    {
        tracing::error!(device, error = %errno, "data partition is damaged beyond mounting: made anew, its content is lost");
        outcome.made = Some(format!("the old file system could not be mounted: {errno}"));
        copy_template(template, &node)?;
        result = mount_ext4(&node, target);
    }
    result.map_err(|source| DataError::Mount { device, source })?;
    Ok(outcome)
}

/// Whether a failed mount says something about what is on the disk, rather than about memory,
/// drivers or cables.
fn damaged(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::INVAL | Errno::UCLEAN | Errno::BADMSG)
}

fn mount_ext4(node: &Path, target: &Path) -> Result<(), rustix::io::Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    // Errors make it read-only: the router goes on, and nothing gets worse.
    mount(node, target, c"ext4", flags, c"errors=remount-ro")
}

/// Copies the template, its first block (with the superblock) last.
fn copy_template(template: &Path, node: &Path) -> Result<(), DataError> {
    const FIRST: u64 = 4096;
    let what = || format!("copying {} to {}", template.display(), node.display());
    let copy = || {
        let mut from = File::open(template)?;
        let mut to = File::options().write(true).open(node)?;
        let mut first = [0; FIRST as usize];
        from.read_exact(&mut first)?;
        // Not even half an old superblock may stand while the rest is written.
        to.write_all(&[0; FIRST as usize])?;
        to.sync_all()?;
        to.seek(SeekFrom::Start(FIRST))?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        to.seek(SeekFrom::Start(0))?;
        to.write_all(&first)?;
        to.sync_all()
    };
    copy().map_err(|source| DataError::Io { what: what(), source })
}

/// Grows the mounted file system to the size of its partition; returns its new size in bytes, or
/// none if it had that already. May take seconds: not for the supervisor's thread.
///
/// # Errors
/// With what the kernel said.
pub fn grow_file_system(partition: &Partition, target: &Path) -> Result<Option<u64>, DataError> {
    ext4::grow(&partition.node(), target)
        .map_err(context(format!("growing the file system on {}", partition.device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superblock_is_written_and_what_follows_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (template, node) = (folder.path().join("t"), folder.path().join("n"));
        let content: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&template, &content).unwrap();
        std::fs::write(&node, vec![0xff; 30_000]).unwrap();
        copy_template(&template, &node).unwrap();
        let result = std::fs::read(&node).unwrap();
        assert!(result[..20_000] == content && result[20_000..].iter().all(|&b| b == 0xff));
    }
}
