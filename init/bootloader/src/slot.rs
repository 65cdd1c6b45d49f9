//! One slot: its manifest and its UKI, believed only after verification.
use crate::disk::{Buffer, Disk, DiskError, Partition};
use crate::gpt::Layout;
use portcullis_bootstate::Slot;
use portcullis_bundle::{
    Architecture, Manifest, ManifestError, PublicKey, TRAILER_SIZE, TrailerError, verify_trailer,
};
use sha2::{Digest, Sha256};

/// Why a slot is not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The disk has no partition of that name.
    #[error("no partition {0}")]
    NoPartition(&'static str),
    /// The partition is smaller than a trailer.
    #[error("partition is too small ({0} bytes)")]
    TooSmall(u64),
    /// The disk fails.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The trailer is not there or not trusted.
    #[error(transparent)]
    Trailer(#[from] TrailerError),
    /// The manifest does not fit the partition.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An image for another computer.
    #[error("image is for {found}, this computer is {}", Architecture::CURRENT.map_or("unknown", Architecture::name))]
    Architecture {
        /// Architecture of the image.
        found: &'static str,
    },
    /// The UKI changed after the blob was signed.
    #[error("UKI is damaged (its SHA-256 is not the one in the manifest)")]
    Uki,
    /// The firmware refuses the UKI.
    #[error("firmware refuses the UKI (status {0:#x})")]
    Load(usize),
    /// The UKI was started and came back.
    #[error("UKI came back (status {0:#x})")]
    CameBack(usize),
    /// A slot that is not confirmed yet, and its try cannot be written down: it could be started
    /// again and again.
    #[error("not confirmed, and its try cannot be recorded")]
    TryNotRecorded,
}

/// A slot with a trusted manifest.
#[derive(Debug, Clone, Copy)]
pub struct Trusted {
    /// Its manifest.
    pub manifest: Manifest,
    partition: Partition,
}

/// Reads the trailer of a slot and verifies its signature.
///
/// # Errors
/// Why the slot cannot be trusted.
pub fn open(
    disk: &mut impl Disk,
    layout: &Layout,
    slot: Slot,
    keys: &[PublicKey],
) -> Result<Trusted, SlotError> {
    let partition = layout.slot(slot).ok_or(SlotError::NoPartition(slot.partition()))?;
    let size = partition.size(disk);
    let start = size.checked_sub(TRAILER_SIZE as u64).ok_or(SlotError::TooSmall(size))?;
    let trailer = partition.read(disk, start, TRAILER_SIZE, |_| {})?;
    let manifest = verify_trailer(trailer.bytes(), keys)?;
    manifest.check_fits(size)?;
    if Architecture::CURRENT != Some(manifest.architecture) {
        return Err(SlotError::Architecture { found: manifest.architecture.name() });
    }
    Ok(Trusted { manifest, partition })
}

impl Trusted {
    /// Reads the UKI and verifies it. What is verified is the memory that is started afterwards.
    ///
    /// # Errors
    /// If it cannot be read or is not the one of the manifest.
    pub fn read_uki(&self, disk: &mut impl Disk) -> Result<Buffer, SlotError> {
        let uki = self.manifest.uki;
        let size = usize::try_from(uki.size).map_err(|_| SlotError::Uki)?;
        let mut sha256 = Sha256::new();
        let buffer = self.partition.read(disk, uki.offset, size, |part| sha256.update(part))?;
        if <[u8; 32]>::from(sha256.finalize()) == self.manifest.uki_sha256 {
            Ok(buffer)
        } else {
            Err(SlotError::Uki)
        }
    }
}
