//! Names: of configured things, and of hosts.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Not a [`Name`].
    #[error(
        "`{0}` is not a name: allowed are 1 to 15 of a-z, 0-9, - and _, beginning with a letter"
    )]
    Name(String),
    /// Not a [`HostName`].
    #[error(
        "`{0}` is not a host name: allowed are 1 to 63 of a-z, 0-9 and -, not at either end (RFC 1123 section 2.1)"
    )]
    HostName(String),
    /// Not a [`Label`].
    #[error(
        "`{0}` is not a name: allowed are 1 to 63 of a-z, 0-9, -, _ and ., beginning with a letter or digit"
    )]
    Label(String),
}

/// Name of an interface, zone, ... : 1 to 15 characters (what a Linux device name can be), a-z,
/// 0-9, `-`, `_`, beginning with a letter.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        let rest = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if first && rest && text.len() <= 15 {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Name(text.to_owned()))
        }
    }
}

/// One DNS label that is a valid host name (RFC 1123 section 2.1), lower case.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let lower = text.to_ascii_lowercase();
        let allowed = lower.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let length = (1..=63).contains(&lower.len());
        if allowed && length && !lower.starts_with('-') && !lower.ends_with('-') {
            Ok(Self(lower))
        } else {
            Err(NameError::HostName(text.to_owned()))
        }
    }
}

/// Name of a rule or port forward: 1 to 63 characters, a-z, 0-9, `-`, `_`, `.`, beginning with a
/// letter or digit.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let first = text.bytes().next().is_some_and(plain);
        let rest = text.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'));
        if first && rest && text.len() <= 63 {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Label(text.to_owned()))
        }
    }
}

macro_rules! text_newtype {
    ($Type:ident) => {
        impl $Type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $Type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$Type> for String {
            fn from(name: $Type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $Type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
text_newtype!(Name);
text_newtype!(HostName);
text_newtype!(Label);

macro_rules! known_names {
    ($($Type:ident)*) => { $(
        impl $Type {
            /// A name known to be valid (unit tests parse every one).
            pub(crate) fn from_static(text: &'static str) -> Self {
                debug_assert!(text.parse::<Self>().is_ok());
                Self(text.to_owned())
            }
        }
    )* };
}
known_names!(Name HostName);
