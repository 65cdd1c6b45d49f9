//! The little of ext4 that init touches itself: is there one, how large is it, grow it, mend its
//! superblock.

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

/// Where the kernel puts the first copy of the superblock when it grows the file system: the
/// beginning of the second group, with 32768 blocks of 4096 bytes in a group.
const COPY: u64 = 32768 * 4096;

/// Writes the superblock of `node` anew from its copy, if it is damaged and the copy is not.
/// Returns whether it did.
///
/// The kernel overwrites the first superblock in place, outside of its journal: a power cut between
/// its two sectors leaves one that does not mount, in a file system that is sound.
///
/// # Errors
/// If the disk fails.
pub(super) fn restore_superblock(node: &Path) -> io::Result<bool> {
    let disk = File::options().read(true).write(true).open(node)?;
    let (mut first, mut copy) = ([0; LENGTH], [0; LENGTH]);
    disk.read_exact_at(&mut first, SUPERBLOCK)?;
    match disk.read_exact_at(&mut copy, COPY) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    // s_block_group_nr: not the beginning of a file system that somebody keeps in a file.
    let is_copy = Superblock::decode(&copy).is_some() && copy.get(90..92) == Some(&[1, 0]);
    // s_uuid; half of a torn superblock is as good as new.
    let same = first.get(104..120) == copy.get(104..120);
    if checksum(&first).is_some_and(|sum| first.ends_with(&sum))
        || !checksum(&copy).is_some_and(|sum| copy.ends_with(&sum))
        || !(is_copy && same)
    {
        return Ok(false);
    }
    // It was written while the file system was in use: what the journal has is newer than the rest.
    // s_feature_incompat gets RECOVER; s_last_orphan is of that time.
    let patches: [(usize, &[u8]); 2] = [(90, &[0, 0]), (232, &[0; 4])];
    for (at, bytes) in patches {
        if let Some(place) = copy.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    if let Some(incompatible) = copy.get_mut(96) {
        *incompatible |= 4;
    }
    if let (Some(sum), Some(place)) = (checksum(&copy), copy.last_chunk_mut()) {
        *place = sum;
    }
    disk.write_all_at(&copy, SUPERBLOCK)?;
    disk.sync_all()?;
    Ok(true)
}

/// s_checksum: CRC-32C without the final inversion, over all that is before it.
fn checksum(superblock: &[u8; LENGTH]) -> Option<[u8; 4]> {
    let (summed, _) = superblock.split_last_chunk::<4>()?;
    let sum = summed.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    Some(sum.to_le_bytes())
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
    fn a_torn_superblock_is_mended_from_its_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (path, content) = (folder.path().join("fs"), folder.path().join("content"));
        std::fs::create_dir(&content).unwrap();
        std::fs::write(content.join("config.toml"), "version = 1\n").unwrap();
        File::create(&path).unwrap().set_len(200 << 20).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).arg(&path).output();
            let output = output.unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "64bit,metadata_csum", "-d"];
        let options = [options.as_slice(), &[content.to_str().unwrap()]].concat();
        assert_eq!(run("mke2fs", &options).0, Some(0));
        assert!(!restore_superblock(&path).unwrap(), "nothing is wrong with it");

        let file = File::options().read(true).write(true).open(&path).unwrap();
        for torn in [SUPERBLOCK + 30, SUPERBLOCK + 1000] {
            file.write_all_at(&[0xee], torn).unwrap();
            assert!(run("e2fsck", &["-n"]).0 != Some(0), "it is not damaged");
            assert!(restore_superblock(&path).unwrap());
            // 1: the journal, which is empty, was replayed.
            let (code, said) = run("e2fsck", &["-fp"]);
            assert!(matches!(code, Some(0 | 1)), "{code:?} {said}");
            let (_, said) = run("debugfs", &["-R", "cat config.toml"]);
            assert_eq!(said, "version = 1\n");
        }
        // A copy that is damaged as well, or another's, mends nothing.
        file.write_all_at(&[0xee], SUPERBLOCK + 1000).unwrap();
        file.write_all_at(&[0xee], COPY + 104).unwrap();
        assert!(!restore_superblock(&path).unwrap());
        file.set_len(8 << 20).unwrap();
        assert!(!restore_superblock(&path).unwrap());
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
