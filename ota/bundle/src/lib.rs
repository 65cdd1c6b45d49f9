//! The slot blob: everything one slot of the disk holds, in one signed piece.
//!
//! ```text
//! offset 0              root file system (erofs), a whole number of 4 KiB blocks
//! manifest.tree.offset  dm-verity hash tree of the root file system
//! manifest.uki.offset   unified kernel image, started by the boot manager
//! end - 64 KiB          trailer: manifest, zeros, Ed25519 signature
//! ```
//!
//! The end is the end of the partition in a slot, the end of the file in a blob file; all other
//! offsets count from the start, so a blob does not know which slot it is in. The signature covers
//! the manifest, the manifest holds the digests of the rest: nothing else is trusted.
//!
//! - [`manifest`]: the fields and their layout byte by byte
//! - [`trailer`]: signing and verifying
//! - [`verity`]: the hash tree and the device-mapper table line that uses it
//! - [`blob`] (feature `std`): writing, opening and checking whole blobs
//!
//! Without the feature `std` the crate needs neither std nor alloc; so the boot manager and `init`
//! decide by the same code what a valid slot is.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "std")]
pub mod blob;
pub mod manifest;
mod text;
pub mod trailer;
pub mod verity;

pub use ed25519_dalek::SigningKey;
pub use manifest::{Architecture, Extent, Manifest, ManifestError};
pub use text::{Version, VersionError};
pub use trailer::{KeyId, PublicKey, TRAILER_SIZE, TrailerError, key_id, verify_trailer};

#[cfg(feature = "std")]
pub use trailer::sign_trailer;

/// Size of a block of the root file system and of its hash tree, in bytes.
pub const BLOCK_SIZE: u64 = 4096;
