//! The trailer: the last 64 KiB of a blob or slot.
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 512 | manifest, see [`manifest`](crate::manifest) |
//! | 512 | 64960 | zero |
//! | 65472 | 64 | Ed25519 signature (RFC 8032) of the 65472 bytes before it |
//!
//! The magic and format version at the start keep a signature from being one of anything else.
use crate::manifest::{MAGIC, MANIFEST_SIZE, Manifest, ManifestError};
use core::fmt;
use ed25519_dalek::{Signature, VerifyingKey};
#[cfg(feature = "std")]
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};

/// Size of the trailer, in bytes.
pub const TRAILER_SIZE: usize = 65536;

/// Bytes of the trailer that the signature covers.
#[cfg(feature = "std")]
const SIGNED_SIZE: usize = TRAILER_SIZE - Signature::BYTE_SIZE;

/// Where the manifest keeps its key id.
const KEY_ID_OFFSET: usize = 16;

/// An Ed25519 public key as RFC 8032 encodes it.
pub type PublicKey = [u8; 32];

/// Names a public key: the first 8 bytes of its SHA-256. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

/// Why a trailer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrailerError {
    /// Not 64 KiB.
    #[error("trailer has {0} bytes, it must have {TRAILER_SIZE}")]
    Size(usize),
    /// There is no blob at all, for example in a slot that was never written.
    #[error("empty (no manifest)")]
    Empty,
    /// Signed by somebody who is not trusted here.
    #[error("signed by key {0}, which is not trusted here")]
    UnknownKey(KeyId),
    /// The trusted key itself is no point of the curve, or a weak one.
    #[error("trusted key {0} is not a usable Ed25519 public key")]
    BadKey(KeyId),
    /// The signature does not match: changed after signing, or forged.
    #[error("signature by key {0} does not match")]
    Signature(KeyId),
    /// Correctly signed, but not usable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// The id of a public key.
#[must_use]
pub fn key_id(key: &PublicKey) -> KeyId {
    let digest: [u8; 32] = Sha256::digest(key).into();
    let mut id = [0; 8];
    for (to, from) in id.iter_mut().zip(digest) {
        *to = from;
    }
    KeyId(id)
}

/// Makes the trailer of a blob. The `key_id` of the manifest is replaced by that of `key`.
#[cfg(feature = "std")]
#[must_use]
pub fn sign_trailer(manifest: &Manifest, key: &SigningKey) -> Vec<u8> {
    let manifest = Manifest { key_id: key_id(key.verifying_key().as_bytes()), ..*manifest };
    let mut trailer = manifest.encode().to_vec();
    trailer.resize(SIGNED_SIZE, 0);
    let signature = key.sign(&trailer);
    trailer.extend_from_slice(&signature.to_bytes());
    trailer
}

/// Checks the signature of a trailer against the trusted `keys`, then decodes its manifest. What it
/// returns is as trustworthy as the holder of the key; whether the parts fit the partition is for
/// [`Manifest::check_fits`].
///
/// # Errors
/// See [`TrailerError`]; nothing of an unverified manifest is used but its key id.
pub fn verify_trailer(trailer: &[u8], keys: &[PublicKey]) -> Result<Manifest, TrailerError> {
    let wrong_size = TrailerError::Size(trailer.len());
    if trailer.len() != TRAILER_SIZE {
        return Err(wrong_size);
    }
    let (signed, signature) =
        trailer.split_last_chunk::<{ Signature::BYTE_SIZE }>().ok_or(wrong_size)?;
    if !signed.starts_with(&MAGIC) {
        return Err(TrailerError::Empty);
    }
    let id = signed.get(KEY_ID_OFFSET..).and_then(<[u8]>::first_chunk).ok_or(wrong_size)?;
    let id = KeyId(*id);
    let key = keys.iter().find(|key| key_id(key) == id).ok_or(TrailerError::UnknownKey(id))?;
    VerifyingKey::from_bytes(key)
        .map_err(|_| TrailerError::BadKey(id))?
        .verify_strict(signed, &Signature::from_bytes(signature))
        .map_err(|_| TrailerError::Signature(id))?;
    if signed.iter().skip(MANIFEST_SIZE).any(|&byte| byte != 0) {
        return Err(ManifestError::Reserved.into());
    }
    Ok(Manifest::decode(signed)?)
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
