//! Ports of TCP and UDP, as rules, sets and port forwards name them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::scalar;
use crate::Name;

/// Ports from the first to the last, 1 to 65,535, the first not above the last. Written `80`,
/// `"80"` or `"8000-8100"`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is not a [`PortRange`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortRangeError {
    /// Neither a port nor a range.
    #[error("`{0}` is not a port: allowed are 1 to 65535 and ranges as in \"8000-8100\"")]
    Form(String),
    /// A range from a higher to a lower port.
    #[error("`{0}` goes backwards: the first port must not be above the last")]
    Backwards(String),
}

impl PortRange {
    /// All ports.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// From `first` to `last`; none if `first` is 0 or above `last`.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self { first, last }) }
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether some port is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let form = || PortRangeError::Form(text.to_owned());
        let port = |text: &str| match text.trim().parse::<u16>() {
            Ok(0) | Err(_) => Err(form()),
            Ok(port) => Ok(port),
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        Self::new(first, last).ok_or_else(|| PortRangeError::Backwards(text.to_owned()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            writer.serialize_u16(self.first)
        } else {
            writer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        scalar(reader, "a port or a range of ports")
    }
}

/// Some ports. Written as a [`PortRange`], or `"@NAME"` for a port set.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PortMatch {
    /// A port or a range.
    Range(PortRange),
    /// The ports of a set.
    Set(Name),
}

/// A named set of ports.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortSet {
    /// Ports, ranges, other sets.
    pub members: Vec<PortMatch>,
}

/// Why a text is not a [`PortMatch`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortMatchError {
    /// Not the name of a set.
    #[error("`{0}` is not a port set: allowed is @ and a name, as in @web")]
    Set(String),
    /// Not a range.
    #[error("{0}, or @NAME for a set")]
    Range(#[from] PortRangeError),
}

impl FromStr for PortMatch {
    type Err = PortMatchError;

    fn from_str(text: &str) -> Result<Self, PortMatchError> {
        match text.strip_prefix('@') {
            Some(name) => {
                name.parse().map(Self::Set).map_err(|_| PortMatchError::Set(text.to_owned()))
            }
            None => Ok(Self::Range(text.parse()?)),
        }
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Set(name) => write!(f, "@{name}"),
        }
    }
}

impl Serialize for PortMatch {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Range(range) => range.serialize(writer),
            Self::Set(_) => writer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for PortMatch {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        scalar(reader, "a port, a range of ports or a port set")
    }
}
