//! Version strings of images.
use core::fmt;
use core::str::FromStr;

/// An image version such as `1.4.0-rc.1+g5837fc5`: 1 to 64 characters out of ASCII letters, digits
/// and `. - + ~ _`, so that it can stand in a file name, a command line and on a console as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    bytes: [u8; Self::MAX_LEN],
    len: u8,
}

/// Why a text is not a [`Version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Nothing in it.
    #[error("a version has at least 1 character, this one is empty")]
    Empty,
    /// More than 64 bytes.
    #[error("a version has at most 64 characters, this one has {0}")]
    TooLong(usize),
    /// A byte outside the allowed set.
    #[error(
        "a version consists of ASCII letters, digits and . - + ~ _, not byte {byte:#04x} at position {at}"
    )]
    Character {
        /// The refused byte.
        byte: u8,
        /// Its position, counted from 0.
        at: usize,
    },
}

impl Version {
    /// Longest version, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let used = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(used).unwrap_or_default()
    }

    /// The field of the manifest: the characters, then zeros.
    pub(crate) fn to_field(self) -> [u8; Self::MAX_LEN] {
        self.bytes
    }

    /// Reads a field of the manifest; after the first zero there may be zeros only.
    pub(crate) fn from_field(field: &[u8; Self::MAX_LEN]) -> Result<Self, VersionError> {
        let len = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
        if let Some((at, &byte)) = field.iter().enumerate().skip(len).find(|(_, byte)| **byte != 0)
        {
            return Err(VersionError::Character { byte, at });
        }
        Self::from_bytes(field.get(..len).unwrap_or_default())
    }

    fn from_bytes(text: &[u8]) -> Result<Self, VersionError> {
        if text.is_empty() {
            return Err(VersionError::Empty);
        }
        let mut bytes = [0; Self::MAX_LEN];
        let Some(used) = bytes.get_mut(..text.len()) else {
            return Err(VersionError::TooLong(text.len()));
        };
        for (at, &byte) in text.iter().enumerate() {
            if !byte.is_ascii_alphanumeric() && !b".-+~_".contains(&byte) {
                return Err(VersionError::Character { byte, at });
            }
        }
        used.copy_from_slice(text);
        // At most 64, see above.
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        Ok(Self { bytes, len })
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
