//! Zones, and what may pass between two of them where no rule decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Action, text::scalar};
use crate::Name;

/// A group of interfaces with the same trust.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "WrittenZone")]
pub struct Zone {
    /// Whether IPv4 flows that leave through this zone take the address of the interface they
    /// leave by (RFC 3022). Default false.
    pub masquerade: bool,
    /// Services of the router that this zone may reach where no rule to `router` decides. Default
    /// none.
    pub services: BTreeSet<RouterService>,
    /// The largest TCP segments that connections through this zone agree on. Default `true` for a
    /// zone with `masquerade`, else `false`.
    pub mss_clamp: MssClamp,
    /// Whether packets are dropped whose source cannot be in the internet (RFC 6890: private,
    /// shared, loopback, link-local and reserved addresses; not the networks of the zone's own
    /// interfaces). Default: what `masquerade` is.
    pub bogons: bool,
}

#[derive(Deserialize)]
#[serde(rename = "Zone", deny_unknown_fields)]
struct WrittenZone {
    #[serde(default)]
    masquerade: bool,
    #[serde(default)]
    services: BTreeSet<RouterService>,
    mss_clamp: Option<MssClamp>,
    bogons: Option<bool>,
}

impl From<WrittenZone> for Zone {
    fn from(written: WrittenZone) -> Self {
        let outside = written.masquerade;
        let clamp = if outside { MssClamp::PathMtu } else { MssClamp::Off };
        Self {
            masquerade: written.masquerade,
            services: written.services,
            mss_clamp: written.mss_clamp.unwrap_or(clamp),
            bogons: written.bogons.unwrap_or(outside),
        }
    }
}

impl Zone {
    /// The zones of a document that names none: `wan`, which masquerades, and `lan`.
    pub(super) fn defaults() -> BTreeMap<Name, Self> {
        let wan = Self {
            masquerade: true,
            services: BTreeSet::new(),
            mss_clamp: MssClamp::PathMtu,
            bogons: true,
        };
        let lan = Self {
            services: BTreeSet::from([
                RouterService::Dhcp,
                RouterService::Dns,
                RouterService::Ping,
                RouterService::Web,
            ]),
            ..Self::default()
        };
        BTreeMap::from([(Name::from_static("lan"), lan), (Name::from_static("wan"), wan)])
    }
}

/// A service of the router itself.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouterService {
    /// DHCP server: UDP 67.
    Dhcp,
    /// DNS: UDP and TCP 53.
    Dns,
    /// ICMP echo.
    Ping,
    /// Web page and API: TCP 443.
    Web,
}

/// The maximum segment size that TCP connections through a zone agree on (option 2 of RFC 9293
/// section 3.7.1, in SYNs of both directions). Only ever lowered. Written `true`, `false` or a
/// number of bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MssClamp {
    /// As the ends say.
    #[default]
    Off,
    /// What fits into the MTU of the interfaces that the connection passes.
    PathMtu,
    /// At most this many bytes, 536 to 8,960, and what fits.
    Bytes(u16),
}

/// Why a value is not an [`MssClamp`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no segment size: allowed are true, false, or 536 to 8960 bytes")]
pub struct MssClampError(String);

impl FromStr for MssClamp {
    type Err = MssClampError;

    fn from_str(text: &str) -> Result<Self, MssClampError> {
        match text {
            "true" => Ok(Self::PathMtu),
            "false" => Ok(Self::Off),
            number => match number.parse() {
                Ok(bytes) if (536..=8_960).contains(&bytes) => Ok(Self::Bytes(bytes)),
                _ => Err(MssClampError(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for MssClamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("false"),
            Self::PathMtu => f.write_str("true"),
            Self::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

impl Serialize for MssClamp {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => writer.serialize_bool(false),
            Self::PathMtu => writer.serialize_bool(true),
            Self::Bytes(bytes) => writer.serialize_u16(*bytes),
        }
    }
}

impl<'de> Deserialize<'de> for MssClamp {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        scalar(reader, "true, false or a number of bytes")
    }
}

/// What becomes of new flows from one zone to another where no rule decides.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Zone that the flow comes from.
    pub from: Name,
    /// Zone that it goes to.
    pub to: Name,
    /// What happens.
    pub action: Action,
    /// Whether it is logged. Default false.
    #[serde(default)]
    pub log: bool,
}
