//! The manifest of a slot blob and its layout, little-endian, byte by byte:
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 8 | magic, ASCII `PCSLOT` and two zeros |
//! | 8 | 4 | format version, 1 |
//! | 12 | 2 | architecture: PE machine type, 0x8664 (x86-64) or 0xaa64 (AArch64) |
//! | 14 | 2 | zero |
//! | 16 | 8 | key id: first 8 bytes of the SHA-256 of the 32-byte Ed25519 public key |
//! | 24 | 8 | root file system: offset, always 0 |
//! | 32 | 8 | root file system: size, a multiple of 4096 |
//! | 40 | 8 | hash tree: offset, a multiple of 4096 |
//! | 48 | 8 | hash tree: size, the one that follows from the size of the root file system |
//! | 56 | 8 | UKI: offset, a multiple of 4096 |
//! | 64 | 8 | UKI: size in bytes, any |
//! | 72 | 32 | verity root hash |
//! | 104 | 32 | verity salt |
//! | 136 | 32 | SHA-256 of the UKI |
//! | 168 | 64 | version of the image, padded with zeros |
//! | 232 | 64 | minimum version, padded with zeros, or only zeros for none |
//! | 296 | 216 | zero |
//!
//! The parts stand in the order root, tree, UKI and do not overlap.
use crate::text::{Version, VersionError};
use crate::trailer::KeyId;
use crate::{BLOCK_SIZE, TRAILER_SIZE, verity};

/// Size of an encoded manifest, in bytes.
pub const MANIFEST_SIZE: usize = 512;

/// First bytes of every manifest.
pub const MAGIC: [u8; 8] = *b"PCSLOT\0\0";

/// The format this crate writes and reads.
pub const FORMAT: u32 = 1;

/// A part of the blob: where it starts and how long it is, in bytes from the start of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte, counted from the start of the blob or partition.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

/// The processor architecture an image was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// 64-bit x86, PE machine type 0x8664.
    X86_64,
    /// 64-bit Arm, PE machine type 0xaa64.
    Aarch64,
}

/// What a signed slot says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Manifest {
    /// Version of the image.
    pub version: Version,
    /// The oldest version that may still be installed on a device that runs this image; `None`
    /// sets no limit. The update client enforces it, the boot manager does not: falling back to
    /// what is already on the disk must always be possible.
    pub min_version: Option<Version>,
    /// Architecture of the kernel and of all programs in the image.
    pub architecture: Architecture,
    /// Which public key verifies the signature.
    pub key_id: KeyId,
    /// The root file system (erofs).
    pub root: Extent,
    /// The dm-verity hash tree over [`root`](Self::root).
    pub tree: Extent,
    /// The unified kernel image.
    pub uki: Extent,
    /// Root hash of the hash tree.
    pub root_hash: [u8; 32],
    /// Salt of the hash tree.
    pub salt: [u8; 32],
    /// SHA-256 of the UKI.
    pub uki_sha256: [u8; 32],
}

/// Why a manifest is refused; every message names the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Fewer bytes than a manifest has.
    #[error("manifest has {0} bytes, {MANIFEST_SIZE} are needed")]
    TooShort(usize),
    /// Something else than a manifest, for example an empty slot.
    #[error("no manifest here (magic is missing)")]
    Magic,
    /// Written by a newer (or broken) builder.
    #[error("format version is {0}, this program reads {FORMAT}")]
    Format(u32),
    /// An architecture that is not known here.
    #[error("architecture: PE machine type {0:#06x} is not known (0x8664 and 0xaa64 are)")]
    Architecture(u16),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// `version` is no version.
    #[error("version: {0}")]
    Version(VersionError),
    /// `min_version` is no version.
    #[error("minimum version: {0}")]
    MinVersion(VersionError),
    /// An offset of a part is not allowed.
    #[error("{part} offset is {offset}: it must be a multiple of 4096 (0 for the root)")]
    Offset {
        /// The part: root, hash tree or UKI.
        part: &'static str,
        /// The refused offset.
        offset: u64,
    },
    /// A size of a part is not allowed.
    #[error("{part} size is {size}, {allowed}")]
    Size {
        /// The part: root, hash tree or UKI.
        part: &'static str,
        /// The refused size.
        size: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Offset plus size does not fit in 64 bits.
    #[error("{part}: offset plus size overflow")]
    Overflow {
        /// The part: root, hash tree or UKI.
        part: &'static str,
    },
    /// A part starts before the one in front of it ends.
    #[error("{part} starts at {offset}, before the part in front of it ends at {end}")]
    Overlap {
        /// The part: hash tree or UKI.
        part: &'static str,
        /// Where it starts.
        offset: u64,
        /// Where the part in front of it ends.
        end: u64,
    },
    /// The body does not fit before the trailer.
    #[error("UKI ends at {end}, but the slot has room for {room} bytes before its trailer")]
    NoRoom {
        /// End of the last part.
        end: u64,
        /// Size of the container without the trailer.
        room: u64,
    },
}

impl Architecture {
    /// The architecture this program was compiled for, if images exist for it.
    pub const CURRENT: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// PE machine type, as in the header of the UKI.
    #[must_use]
    pub const fn machine(self) -> u16 {
        match self {
            Self::X86_64 => 0x8664,
            Self::Aarch64 => 0xaa64,
        }
    }

    /// Name as in `uname -m`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    fn from_machine(machine: u16) -> Option<Self> {
        [Self::X86_64, Self::Aarch64].into_iter().find(|known| known.machine() == machine)
    }
}

impl Extent {
    /// First byte after the part, or `None` on overflow.
    #[must_use]
    pub const fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.size)
    }
}

impl Manifest {
    /// Encodes the manifest in the layout above. It is not checked: a manifest that breaks the
    /// rules is refused by [`decode`](Self::decode).
    #[must_use]
    pub fn encode(&self) -> [u8; MANIFEST_SIZE] {
        let mut bytes = [0; MANIFEST_SIZE];
        let mut writer = Writer { rest: &mut bytes };
        writer.put(&MAGIC);
        writer.put(&FORMAT.to_le_bytes());
        writer.put(&self.architecture.machine().to_le_bytes());
        writer.put(&[0; 2]);
        writer.put(&self.key_id.0);
        for extent in [self.root, self.tree, self.uki] {
            writer.put(&extent.offset.to_le_bytes());
            writer.put(&extent.size.to_le_bytes());
        }
        writer.put(&self.root_hash);
        writer.put(&self.salt);
        writer.put(&self.uki_sha256);
        writer.put(&self.version.to_field());
        writer.put(&self.min_version.map_or([0; Version::MAX_LEN], Version::to_field));
        bytes
    }

    /// Decodes and checks a manifest at the start of `bytes`. It says nothing about who wrote it:
    /// use [`verify_trailer`](crate::verify_trailer) for anything that comes from outside.
    ///
    /// # Errors
    /// The first field that breaks the rules of the layout.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let Some(manifest) = bytes.first_chunk::<MANIFEST_SIZE>() else {
            return Err(ManifestError::TooShort(bytes.len()));
        };
        let mut reader = Reader { rest: manifest };
        if reader.take::<8>() != MAGIC {
            return Err(ManifestError::Magic);
        }
        let format = u32::from_le_bytes(reader.take());
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let machine = u16::from_le_bytes(reader.take());
        let architecture =
            Architecture::from_machine(machine).ok_or(ManifestError::Architecture(machine))?;
        if reader.take::<2>() != [0; 2] {
            return Err(ManifestError::Reserved);
        }
        let key_id = KeyId(reader.take());
        let [root, tree, uki] = core::array::from_fn(|_| Extent {
            offset: u64::from_le_bytes(reader.take()),
            size: u64::from_le_bytes(reader.take()),
        });
        let (root_hash, salt, uki_sha256) = (reader.take(), reader.take(), reader.take());
        let version = Version::from_field(&reader.take()).map_err(ManifestError::Version)?;
        let min_version = match reader.take() {
            none if none == [0; Version::MAX_LEN] => None,
            field => Some(Version::from_field(&field).map_err(ManifestError::MinVersion)?),
        };
        if reader.rest.iter().any(|&byte| byte != 0) {
            return Err(ManifestError::Reserved);
        }
        let manifest = Self {
            version,
            min_version,
            architecture,
            key_id,
            root,
            tree,
            uki,
            root_hash,
            salt,
            uki_sha256,
        };
        manifest.check_layout()?;
        Ok(manifest)
    }

    /// Checks that the parts are where they may be; [`decode`](Self::decode) does it too.
    ///
    /// # Errors
    /// The first part that is misplaced, and why.
    pub fn check_layout(&self) -> Result<(), ManifestError> {
        if self.root.offset != 0 {
            return Err(ManifestError::Offset { part: "root", offset: self.root.offset });
        }
        if self.root.size == 0 || !self.root.size.is_multiple_of(BLOCK_SIZE) {
            let allowed = "it must be a multiple of 4096 and not 0";
            return Err(ManifestError::Size { part: "root", size: self.root.size, allowed });
        }
        if self.tree.size != verity::tree_size(self.root.size) {
            let allowed = "which is not the size of the hash tree of a root of this size";
            return Err(ManifestError::Size { part: "hash tree", size: self.tree.size, allowed });
        }
        if self.uki.size == 0 {
            return Err(ManifestError::Size {
                part: "UKI",
                size: 0,
                allowed: "it must not be empty",
            });
        }
        let mut end = self.root.size;
        for (part, extent) in [("hash tree", self.tree), ("UKI", self.uki)] {
            if !extent.offset.is_multiple_of(BLOCK_SIZE) {
                return Err(ManifestError::Offset { part, offset: extent.offset });
            }
            if extent.offset < end {
                return Err(ManifestError::Overlap { part, offset: extent.offset, end });
            }
            end = extent.end().ok_or(ManifestError::Overflow { part })?;
        }
        Ok(())
    }

    /// Checks that the parts end before the trailer of a partition or file of `container` bytes.
    ///
    /// # Errors
    /// [`ManifestError::NoRoom`] if they do not, [`ManifestError::Overflow`] for a manifest that
    /// was never decoded.
    pub fn check_fits(&self, container: u64) -> Result<(), ManifestError> {
        let end = self.uki.end().ok_or(ManifestError::Overflow { part: "UKI" })?;
        let room = container.saturating_sub(TRAILER_SIZE as u64);
        if end > room { Err(ManifestError::NoRoom { end, room }) } else { Ok(()) }
    }
}

struct Writer<'a> {
    rest: &'a mut [u8],
}

impl Writer<'_> {
    /// Writes the next field. The fields of the layout fit; a test holds that.
    fn put(&mut self, field: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((place, rest)) = rest.split_at_mut_checked(field.len()) {
            place.copy_from_slice(field);
            self.rest = rest;
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// Takes the next field. The fields of the layout fit; a test holds that.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn example() -> Manifest {
        Manifest {
            version: "1.2.3-rc.1+g5837fc5".parse().unwrap(),
            min_version: Some("1.0.0".parse().unwrap()),
            architecture: Architecture::X86_64,
            key_id: KeyId([7; 8]),
            root: Extent { offset: 0, size: 200 * 4096 },
            tree: Extent { offset: 200 * 4096, size: 3 * 4096 },
            uki: Extent { offset: 203 * 4096, size: 123_457 },
            root_hash: [1; 32],
            salt: [2; 32],
            uki_sha256: [3; 32],
        }
    }

    #[test]
    fn layout_is_the_documented_one() {
        let bytes = example().encode();
        assert_eq!(&bytes[..8], b"PCSLOT\0\0");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 0x64, 0x86, 0, 0]);
        assert_eq!(bytes[16..24], [7; 8]);
        assert_eq!(bytes[32..40], (200u64 * 4096).to_le_bytes());
        assert_eq!(bytes[64..72], 123_457u64.to_le_bytes());
        assert_eq!((bytes[72], bytes[104], bytes[136]), (1, 2, 3));
        assert_eq!(&bytes[168..188], b"1.2.3-rc.1+g5837fc5\0");
        assert_eq!(&bytes[232..238], b"1.0.0\0");
        assert_eq!(bytes[296..], [0; 216]);
    }

    #[test]
    fn each_broken_rule_is_named() {
        let changed = |change: fn(&mut Manifest)| {
            let mut manifest = example();
            change(&mut manifest);
            Manifest::decode(&manifest.encode()).unwrap_err().to_string()
        };
        assert!(changed(|m| m.root.offset = 4096).contains("root offset is 4096"));
        assert!(changed(|m| m.root.size = 4097).contains("root size is 4097"));
        assert!(changed(|m| m.root.size = 0).contains("root size is 0"));
        assert!(changed(|m| m.tree.size = 4096).contains("hash tree size is 4096"));
        assert!(changed(|m| m.tree.offset += 1).contains("hash tree offset"));
        assert!(changed(|m| m.tree.offset = 4096).contains("hash tree starts at 4096"));
        assert!(changed(|m| m.uki.offset = 200 * 4096).contains("UKI starts at 819200"));
        assert!(changed(|m| m.uki.size = 0).contains("UKI size is 0"));
        assert!(changed(|m| m.uki.size = u64::MAX).contains("UKI: offset plus size overflow"));
        assert!(
            changed(|m| m.uki.offset = u64::MAX - 4095).contains("UKI: offset plus size overflow")
        );

        let patched = |at: usize, byte: u8| {
            let mut bytes = example().encode();
            bytes[at] = byte;
            Manifest::decode(&bytes).unwrap_err().to_string()
        };
        assert!(patched(0, 0).contains("magic"));
        assert!(patched(8, 2).contains("format version is 2"));
        assert!(patched(12, 0x65).contains("0x8665"));
        assert!(patched(15, 1).contains("reserved"));
        assert!(patched(168, b' ').starts_with("version: "));
        assert!(patched(168, 0).starts_with("version: "));
        assert!(patched(250, b'x').starts_with("minimum version: "));
        assert!(patched(511, 1).contains("reserved"));
        assert!(Manifest::decode(&[0; 511]).unwrap_err().to_string().contains("511 bytes"));
    }

    #[test]
    fn a_body_must_end_before_the_trailer() {
        let manifest = example();
        let end = 203 * 4096 + 123_457;
        assert_eq!(manifest.check_fits(end + 65536), Ok(()));
        assert_eq!(
            manifest.check_fits(end + 65535),
            Err(ManifestError::NoRoom { end, room: end - 1 })
        );
        assert!(manifest.check_fits(0).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            version in "[0-9a-zA-Z.+~_-]{1,64}",
            min_version in proptest::option::of("[0-9a-zA-Z.+~_-]{1,64}"),
            blocks in 1u64..1 << 20,
            gap in 0u64..9,
            uki_size in 1u64..1 << 32,
            hash: [u8; 32],
        ) {
            let root = Extent { offset: 0, size: blocks * BLOCK_SIZE };
            let tree = Extent { offset: root.size + gap * BLOCK_SIZE, size: verity::tree_size(root.size) };
            let uki = Extent { offset: tree.offset + tree.size + gap * BLOCK_SIZE, size: uki_size };
            let manifest = Manifest {
                version: version.parse().unwrap(),
                min_version: min_version.map(|version| version.parse().unwrap()),
                root,
                tree,
                uki,
                root_hash: hash,
                ..example()
            };
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn what_is_decoded_obeys_the_rules(patches in proptest::collection::vec((0usize..512, any::<u8>()), 0..6)) {
            let mut bytes = example().encode();
            for (at, byte) in patches {
                bytes[at] = byte;
            }
            if let Ok(manifest) = Manifest::decode(&bytes) {
                prop_assert_eq!(manifest.encode(), bytes);
                prop_assert!(manifest.root.size <= manifest.tree.offset);
                prop_assert!(manifest.tree.end().unwrap() <= manifest.uki.offset);
                prop_assert!(manifest.uki.end().is_some());
            }
        }
    }
}
