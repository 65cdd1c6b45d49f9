//! The little of ext4 that init touches itself: is there one, how large is it, grow it.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use rustix::ioctl::{Setter, ioctl, opcode};

/// Offset of the superblock in bytes.
const SUPERBLOCK: u64 = 1024;

/// Bytes of it that are read.
const LENGTH: usize = 1024;

/// What of a superblock counts here (all little-endian, fs/ext4/ext4.h).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Superblock {
    /// Blocks.
    blocks: u64,
    /// Bytes of a block.
    block_size: u64,
}

impl Superblock {
    fn decode(bytes: &[u8; LENGTH]) -> Option<Self> {
        let u32_at = |at: usize| {
            bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
        };
        if bytes.get(56..58) != Some(&0xEF53_u16.to_le_bytes()) {
            return None;
        }
        // INCOMPAT_64BIT says whether the high half of the number counts.
        let high = if u32_at(96)? & 0x80 == 0 { 0 } else { u32_at(336)? };
        let block_size =
            1024_u64.checked_shl(u32_at(24)?).filter(|s| (1024..=65536).contains(s))?;
        Some(Self { blocks: u64::from(u32_at(4)?) | u64::from(high) << 32, block_size })
    }

    fn read(node: &Path) -> io::Result<Option<Self>> {
        let mut bytes = [0; LENGTH];
        File::open(node)?.read_exact_at(&mut bytes, SUPERBLOCK)?;
        Ok(Self::decode(&bytes))
    }
}

/// Whether `node` holds an ext4 file system, sound or not.
///
/// # Errors
/// If it cannot be read.
pub(super) fn is_there(node: &Path) -> io::Result<bool> {
    Superblock::read(node).map(|s| s.is_some())
}

/// Whether the file system of `node` says that it is larger than `node`: then its end is missing,
/// which says nothing about what is on the rest.
///
/// # Errors
/// If it cannot be read.
pub(super) fn is_cut_off(node: &Path) -> io::Result<bool> {
    let Some(superblock) = Superblock::read(node)? else { return Ok(false) };
    Ok(superblock.blocks.saturating_mul(superblock.block_size) > size(node)?)
}

fn size(node: &Path) -> io::Result<u64> {
    io::Seek::seek(&mut File::open(node)?, io::SeekFrom::End(0))
}

/// Grows the file system of `node`, mounted at `target`, to the size of `node`. Returns the new
/// size in bytes, or none if it could not become larger.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn grow(node: &Path, target: &Path) -> io::Result<Option<u64>> {
    let Some(superblock) = Superblock::read(node)? else {
        return Err(io::Error::other("no ext4"));
    };
    let blocks = size(node)? / superblock.block_size;
    if blocks <= superblock.blocks {
        return Ok(None);
    }
    let root = File::open(target)?;
    // SAFETY: EXT4_IOC_RESIZE_FS reads a 64-bit number of blocks.
    unsafe { ioctl(&root, Setter::<{ opcode::write::<u64>(b'f', 16) }, u64>::new(blocks))? };
    Ok(Some(blocks * superblock.block_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_as_mke2fs_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fs");
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        assert!(!is_there(&path).unwrap());
        let output = std::process::Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "64bit"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let superblock = Superblock::read(&path).unwrap().unwrap();
        assert_eq!(superblock, Superblock { blocks: 2048, block_size: 4096 });
        assert!(!is_cut_off(&path).unwrap());
        File::options().write(true).open(&path).unwrap().set_len((8 << 20) - 1).unwrap();
        assert!(is_cut_off(&path).unwrap());
    }

    #[test]
    fn nonsense_is_no_superblock() {
        let mut bytes = [0; LENGTH];
        assert_eq!(Superblock::decode(&bytes), None);
        bytes[56..58].copy_from_slice(&0xEF53_u16.to_le_bytes());
        bytes[24] = 200;
        assert_eq!(Superblock::decode(&bytes), None);
    }
}
