//! IP protocols and ICMP types, as rules name them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::{scalar, text_form};

/// An IP protocol (IPv4) or upper-layer protocol (IPv6). Written `tcp`, `udp`, `icmp`, `icmpv6` or
/// as its number, 0 to 255.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);

    const NAMES: [(Self, &str); 4] =
        [(Self::ICMP, "icmp"), (Self::TCP, "tcp"), (Self::UDP, "udp"), (Self::ICMPV6, "icmpv6")];

    /// Whether rules can name its ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP)
    }

    /// Whether it is ICMP or ICMPv6.
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }

    fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(protocol, _)| *protocol == self).map(|(_, name)| *name)
    }
}

/// Why a text is not a [`Protocol`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a protocol: allowed are tcp, udp, icmp, icmpv6 and numbers from 0 to 255")]
pub struct ProtocolError(String);

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match Self::NAMES.iter().find(|(_, name)| *name == text) {
            Some((protocol, _)) => Ok(*protocol),
            None => text.parse().map(Self).map_err(|_| ProtocolError(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => writer.serialize_str(name),
            None => writer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        scalar(reader, "a protocol")
    }
}

/// Some ICMP or ICMPv6 messages. Written `echo-request` (type 8 of ICMP, 128 of ICMPv6), a type
/// `"13"`, or type and code `"3/4"`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum IcmpMatch {
    /// Echo request of either family.
    EchoRequest,
    /// A type, with any code or this one.
    Type {
        /// The type field.
        kind: u8,
        /// The code field.
        code: Option<u8>,
    },
}

/// Why a text is not an [`IcmpMatch`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not an ICMP type: allowed are echo-request, a type as in \"13\" and type and code as in \"3/4\", each 0 to 255"
)]
pub struct IcmpMatchError(String);

impl FromStr for IcmpMatch {
    type Err = IcmpMatchError;

    fn from_str(text: &str) -> Result<Self, IcmpMatchError> {
        let number = |text: &str| text.parse::<u8>();
        if text == "echo-request" {
            return Ok(Self::EchoRequest);
        }
        let read = || match text.split_once('/') {
            Some((kind, code)) => Ok(Self::Type { kind: number(kind)?, code: Some(number(code)?) }),
            None => Ok(Self::Type { kind: number(text)?, code: None }),
        };
        read().map_err(|_: std::num::ParseIntError| IcmpMatchError(text.to_owned()))
    }
}

impl fmt::Display for IcmpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EchoRequest => f.write_str("echo-request"),
            Self::Type { kind, code: None } => kind.fmt(f),
            Self::Type { kind, code: Some(code) } => write!(f, "{kind}/{code}"),
        }
    }
}

text_form!(IcmpMatch, IcmpMatchError);
