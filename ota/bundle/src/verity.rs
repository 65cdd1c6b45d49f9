//! dm-verity hash trees: format 1, SHA-256, blocks of 4096 bytes, no superblock, as
//! `veritysetup format --no-superblock` makes them and the kernel's `verity` target reads them.
//!
//! Every data block is hashed as SHA-256(salt, block); the hashes of 128 blocks fill a block of the
//! level above, and so on up to a single block, whose hash is the root hash. In the tree the
//! highest level comes first. A root of one block has no tree: its own hash is the root hash.
use crate::{BLOCK_SIZE, Manifest};
use core::fmt;

/// Hashes in one block of the tree.
const HASHES_PER_BLOCK: u64 = BLOCK_SIZE / 32;

/// Size in bytes of the hash tree over `data_size` bytes (a multiple of 4096).
#[must_use]
pub fn tree_size(data_size: u64) -> u64 {
    let mut blocks = data_size.div_ceil(BLOCK_SIZE);
    let mut tree_blocks: u64 = 0;
    while blocks > 1 {
        blocks = blocks.div_ceil(HASHES_PER_BLOCK);
        tree_blocks += blocks;
    }
    // Below 2^52 data blocks the sum of all levels is below 2^46 blocks.
    tree_blocks * BLOCK_SIZE
}

/// The device-mapper table of a slot's root file system.
///
/// `Display` gives the parameters of the kernel's `verity` target, which starts at sector 0 and is
/// [`sectors`](Self::sectors) long. Data and hash device are the slot partition itself. A block
/// that does not match its hash panics the kernel: refusing to run is the only safe answer, and
/// the boot-failure counter then leads to the other slot.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    manifest: &'a Manifest,
    device: &'a str,
}

/// The table of a slot's root; `device` is the slot partition, as a path or as `major:minor`.
#[must_use]
pub const fn table<'a>(manifest: &'a Manifest, device: &'a str) -> Table<'a> {
    Table { manifest, device }
}

impl Table<'_> {
    /// Length of the mapped device in sectors of 512 bytes.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.manifest.root.size / 512
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { root, tree, root_hash, salt, .. } = self.manifest;
        let device = self.device;
        write!(f, "1 {device} {device} {BLOCK_SIZE} {BLOCK_SIZE} ")?;
        write!(f, "{} {} sha256 ", root.size / BLOCK_SIZE, tree.offset / BLOCK_SIZE)?;
        write!(f, "{} {} 1 panic_on_corruption", Hex(root_hash), Hex(salt))
    }
}

/// Bytes as lower-case hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(feature = "std")]
pub use build::{Tree, VerityError, build};

#[cfg(feature = "std")]
mod build {
    use super::HASHES_PER_BLOCK;
    use sha2::{Digest, Sha256};
    use std::io::{self, Read};

    const BLOCK: usize = 4096;

    /// A hash tree and what it was made from.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Tree {
        /// The tree, highest level first; empty for a single data block.
        pub bytes: Vec<u8>,
        /// Hash of the highest block.
        pub root_hash: [u8; 32],
        /// The salt it was made with.
        pub salt: [u8; 32],
        /// Size of the data in bytes.
        pub data_size: u64,
    }

    /// Why no hash tree can be made.
    #[derive(Debug, thiserror::Error)]
    pub enum VerityError {
        /// Reading the data failed.
        #[error("cannot read the root file system: {0}")]
        Read(#[from] io::Error),
        /// The data is not a whole number of blocks.
        #[error("root file system has {0} bytes: it must be a multiple of 4096 and not 0")]
        Size(u64),
    }

    /// Reads the data to its end and makes its hash tree.
    ///
    /// # Errors
    /// If reading fails or the data is not a whole number of 4 KiB blocks.
    pub fn build(mut data: impl Read, salt: &[u8; 32]) -> Result<Tree, VerityError> {
        // The salt comes first, so every hash continues from this state.
        let salted = Sha256::new_with_prefix(salt);
        let mut hashes = Vec::new();
        let mut data_size = 0;
        let mut chunk = vec![0; 256 * BLOCK];
        loop {
            let filled = fill(&mut data, &mut chunk)?;
            data_size += filled as u64;
            let blocks = chunk.get(..filled).unwrap_or_default();
            if !filled.is_multiple_of(BLOCK) {
                return Err(VerityError::Size(data_size));
            }
            hash_blocks(&salted, blocks, &mut hashes);
            if filled < chunk.len() {
                break;
            }
        }
        if data_size == 0 {
            return Err(VerityError::Size(0));
        }
        // `hashes` are those of the level below; each turn packs them into blocks and hashes these.
        let mut levels = Vec::new();
        while hashes.len() > 32 {
            hashes.resize(hashes.len().next_multiple_of(BLOCK), 0);
            let mut above = Vec::with_capacity(hashes.len() / HASHES_PER_BLOCK as usize);
            hash_blocks(&salted, &hashes, &mut above);
            levels.push(std::mem::replace(&mut hashes, above));
        }
        levels.reverse();
        let root_hash = hashes.first_chunk().copied().ok_or(VerityError::Size(data_size))?;
        Ok(Tree { bytes: levels.concat(), root_hash, salt: *salt, data_size })
    }

    fn hash_blocks(salted: &Sha256, blocks: &[u8], hashes: &mut Vec<u8>) {
        for block in blocks.chunks(BLOCK) {
            hashes.extend_from_slice(&salted.clone().chain_update(block).finalize());
        }
    }

    /// Reads until the buffer is full or the data ends.
    fn fill(data: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match data.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}
