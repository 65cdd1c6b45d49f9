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
//! copies, of which one is whole at any time; the template's superblock is written last, so that a copy that was cut off is no file
//! system and is made again.

mod ext4;
mod staged;
mod table;

pub use table::grow_partition;

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

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
    /// The partition is smaller than the file system in it.
    #[error(
        "{device}: its file system is larger than the partition; nothing was changed: a partition \
         table with the partition in its former size brings it back"
    )]
    CutOff {
        /// Device.
        device: String,
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
        // The partition table has lost what was grown: with it the data is there again.
        if ext4::is_cut_off(&node).map_err(context(device.clone()))? {
            return Err(DataError::CutOff { device });
        }
        if ext4::restore_superblock(&node).map_err(context(device.clone()))? {
            tracing::warn!(device, "superblock of the data partition was damaged and is mended");
            result = mount_ext4(&node, target);
        }
    }
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

/// A place for the files of this run where there is no partition for them: nothing is kept.
///
/// # Errors
/// If the kernel refuses.
pub fn in_memory(target: &Path) -> Result<(), rustix::io::Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", target, c"tmpfs", flags, c"mode=0755,size=10%")
}

fn mount_ext4(node: &Path, target: &Path) -> Result<(), rustix::io::Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    // Errors make it read-only: the router goes on, and nothing gets worse.
    mount(node, target, c"ext4", flags, c"errors=remount-ro")
}

/// Unit of copying, in bytes.
const PIECE: usize = 64 * 1024;

/// Copies the template, its first piece (with the superblock) last.
fn copy_template(template: &Path, node: &Path) -> Result<(), DataError> {
    let what = || format!("copying {} to {}", template.display(), node.display());
    let copy = || {
        let from = File::open(template)?;
        let length = from.metadata()?.len();
        let to = File::options().write(true).open(node)?;
        // Not even half an old superblock may stand while the rest is written. The kernel zeroes
        // without moving data where the disk can do it, and most of the template is zeros.
        rustix::fs::fallocate(&to, rustix::fs::FallocateFlags::ZERO_RANGE, 0, length)?;
        let mut first = [0; PIECE];
        let mut piece = [0; PIECE];
        let mut offset = 0;
        let first_length = read_piece(&from, &mut first, offset)?;
        offset += first_length as u64;
        loop {
            let count = read_piece(&from, &mut piece, offset)?;
            let bytes = piece.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|&b| b != 0) {
                to.write_all_at(bytes, offset)?;
            }
            offset += count as u64;
        }
        to.sync_all()?;
        to.write_all_at(first.get(..first_length).unwrap_or_default(), 0)?;
        to.sync_all()
    };
    copy().map_err(|source| DataError::Io { what: what(), source })
}

/// Fills `piece` from `offset`; less only at the end of the file.
fn read_piece(from: &File, piece: &mut [u8; PIECE], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read_at(rest, offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
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
    fn the_template_is_copied_whole_and_what_follows_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (template, node) = (folder.path().join("t"), folder.path().join("n"));
        let mut content: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
        // Zeros in the template replace what was there, too.
        content[PIECE..3 * PIECE].fill(0);
        std::fs::write(&template, &content).unwrap();
        std::fs::write(&node, vec![0xff; 500_000]).unwrap();
        copy_template(&template, &node).unwrap();
        let result = std::fs::read(&node).unwrap();
        assert!(result[..400_000] == content && result[400_000..].iter().all(|&b| b == 0xff));
    }
}
