//! Whole blobs: writing, opening and checking them.
use crate::manifest::{Architecture, Extent, Manifest, ManifestError};
use crate::trailer::{PublicKey, TRAILER_SIZE, TrailerError, key_id, sign_trailer, verify_trailer};
use crate::verity::{self, Tree, VerityError};
use crate::{BLOCK_SIZE, SigningKey, Version};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Seek, SeekFrom, Write};

/// What the builder decides about a blob; the rest follows from its parts.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// Version of the image.
    pub version: Version,
    /// See [`Manifest::min_version`].
    pub min_version: Option<Version>,
    /// Architecture of the image.
    pub architecture: Architecture,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The manifest in the trailer.
    pub manifest: Manifest,
    /// Size of the whole blob in bytes; a multiple of 4096.
    pub size: u64,
    /// SHA-256 of the whole blob.
    pub sha256: [u8; 32],
}

/// Why a blob cannot be written, opened or trusted.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Reading or writing failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The blob is shorter than a trailer.
    #[error("blob has {0} bytes, a trailer alone has {TRAILER_SIZE}")]
    TooShort(u64),
    /// The hash tree given was made for other data.
    #[error("hash tree is of {tree} bytes of data, the root file system has {root}")]
    TreeOfOtherData {
        /// What the tree covers.
        tree: u64,
        /// What was given as root file system.
        root: u64,
    },
    /// The trailer is not there or not trusted.
    #[error("trailer: {0}")]
    Trailer(#[from] TrailerError),
    /// The manifest does not fit the blob.
    #[error("manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The UKI is not the one of the manifest.
    #[error("UKI does not match its SHA-256 in the manifest")]
    Uki,
    /// The hash tree cannot be made.
    #[error(transparent)]
    Verity(#[from] VerityError),
    /// The root file system is not the one of the manifest.
    #[error("root file system does not match the verity root hash in the manifest")]
    Root,
    /// The stored hash tree is not that of the root file system.
    #[error("hash tree does not match the root file system")]
    Tree,
}

/// Writes a blob: `root` (erofs), its hash `tree`, the `uki` and the signed trailer.
///
/// The tree is made first, by [`verity::build`], because its root hash also stands in the command
/// line of the UKI. Same input, same bytes.
///
/// # Errors
/// If the parts do not belong together or writing fails.
pub fn write(
    root: &[u8],
    tree: &Tree,
    uki: &[u8],
    meta: &Meta,
    key: &SigningKey,
    out: impl Write,
) -> Result<Summary, BlobError> {
    if tree.data_size != root.len() as u64 {
        return Err(BlobError::TreeOfOtherData { tree: tree.data_size, root: root.len() as u64 });
    }
    let root_extent = Extent { offset: 0, size: root.len() as u64 };
    let tree_extent = Extent { offset: root_extent.size, size: tree.bytes.len() as u64 };
    let uki_extent =
        Extent { offset: tree_extent.offset + tree_extent.size, size: uki.len() as u64 };
    let manifest = Manifest {
        version: meta.version,
        min_version: meta.min_version,
        architecture: meta.architecture,
        key_id: key_id(key.verifying_key().as_bytes()),
        root: root_extent,
        tree: tree_extent,
        uki: uki_extent,
        root_hash: tree.root_hash,
        salt: tree.salt,
        uki_sha256: Sha256::digest(uki).into(),
    };
    manifest.check_layout()?;

    let mut out = Hashing { out, sha256: Sha256::new(), size: 0 };
    let mut put = |bytes: &[u8]| out.write_all(bytes);
    let padding =
        vec![0; (uki_extent.size.next_multiple_of(BLOCK_SIZE) - uki_extent.size) as usize];
    [root, &tree.bytes, uki, &padding, &sign_trailer(&manifest, key)]
        .into_iter()
        .try_for_each(&mut put)
        .and_then(|()| out.out.flush())
        .map_err(|source| BlobError::Io { doing: "write the blob", source })?;
    Ok(Summary { manifest, size: out.size, sha256: out.sha256.finalize().into() })
}

/// Reads and verifies the trailer at the end of a blob file or slot partition, and checks that the
/// parts it names fit. The parts themselves are not read, see [`check`].
///
/// # Errors
/// If it cannot be read, is not signed by one of `keys`, or names parts that do not fit.
pub fn open(blob: &mut (impl Read + Seek), keys: &[PublicKey]) -> Result<Manifest, BlobError> {
    let failed = |source| BlobError::Io { doing: "read the trailer", source };
    let size = blob.seek(SeekFrom::End(0)).map_err(failed)?;
    let start = size.checked_sub(TRAILER_SIZE as u64).ok_or(BlobError::TooShort(size))?;
    let mut trailer = vec![0; TRAILER_SIZE];
    blob.seek(SeekFrom::Start(start)).map_err(failed)?;
    blob.read_exact(&mut trailer).map_err(failed)?;
    let manifest = verify_trailer(&trailer, keys)?;
    manifest.check_fits(size)?;
    Ok(manifest)
}

/// Opens a blob and checks every byte that the manifest answers for: the UKI, the root file system
/// and its hash tree.
///
/// # Errors
/// As [`open`], or the first part that does not match.
pub fn check(blob: &mut (impl Read + Seek), keys: &[PublicKey]) -> Result<Manifest, BlobError> {
    let manifest = open(blob, keys)?;
    let mut sha256 = Sha256::new();
    io::copy(&mut part(blob, manifest.uki)?, &mut HashWriter(&mut sha256))
        .map_err(|source| BlobError::Io { doing: "read the UKI", source })?;
    if <[u8; 32]>::from(sha256.finalize()) != manifest.uki_sha256 {
        return Err(BlobError::Uki);
    }
    let tree = verity::build(part(blob, manifest.root)?, &manifest.salt)?;
    if tree.root_hash != manifest.root_hash {
        return Err(BlobError::Root);
    }
    let mut stored = Vec::with_capacity(tree.bytes.len());
    part(blob, manifest.tree)?
        .read_to_end(&mut stored)
        .map_err(|source| BlobError::Io { doing: "read the hash tree", source })?;
    if stored == tree.bytes { Ok(manifest) } else { Err(BlobError::Tree) }
}

/// A reader of one part of a blob.
///
/// # Errors
/// If seeking fails.
pub fn part<R: Read + Seek>(blob: &mut R, extent: Extent) -> Result<io::Take<&mut R>, BlobError> {
    blob.seek(SeekFrom::Start(extent.offset))
        .map_err(|source| BlobError::Io { doing: "seek in the blob", source })?;
    Ok(blob.take(extent.size))
}

/// Hashes and counts what is written through it.
struct Hashing<W> {
    out: W,
    sha256: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
