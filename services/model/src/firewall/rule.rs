//! Rules: which new flows pass between zones.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{Action, AddressMatch, IcmpMatch, PortMatch, Protocol, text::text_form};
use crate::{Label, MacAddress, Name};

/// A rule. It fits a new flow if everything that it names fits; a list fits if one of its members
/// does, and an empty list fits anything.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What reports and logs call it; every rule has another name.
    pub name: Label,
    /// Whether it is in force. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Zones that the flow comes from: a zone, a list of zones, or `any`. Default `any`.
    #[serde(default)]
    pub from: ZoneMatch,
    /// Zones that it goes to, as `from`. `router` is the router itself; `any` does not include it.
    /// Default `any`.
    #[serde(default)]
    pub to: ZoneMatch,
    /// Source addresses, as they came.
    #[serde(default)]
    pub sources: Vec<AddressMatch>,
    /// Destination addresses, those inside if they are translated.
    #[serde(default)]
    pub destinations: Vec<AddressMatch>,
    /// Hosts by the part of their IPv6 address that does not change. They are destinations as well:
    /// the rule fits flows to them or to `destinations`.
    #[serde(default)]
    pub destination_hosts: Vec<DestinationHost>,
    /// IP protocols.
    #[serde(default)]
    pub protocols: Vec<Protocol>,
    /// Source ports; `protocols` must be `tcp`, `udp` or both then.
    #[serde(default)]
    pub source_ports: Vec<PortMatch>,
    /// Destination ports, those inside if they are translated; `protocols` as above.
    #[serde(default)]
    pub destination_ports: Vec<PortMatch>,
    /// ICMP messages; `protocols` must be `icmp` or `icmpv6` then.
    #[serde(default)]
    pub icmp_types: Vec<IcmpMatch>,
    /// Hardware addresses of the sender; seen only from hosts of networks that the router is in.
    #[serde(default)]
    pub macs: Vec<MacAddress>,
    /// When the rule holds; always if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Name>,
    /// What happens.
    pub action: Action,
    /// Whether start and end of the flow, or the refused packet, are logged. Default false.
    #[serde(default)]
    pub log: bool,
    /// How many flows a second the rule lets in; what is above is dropped (`drop.rate-limit`). Only
    /// with `action = "allow"`. Default without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How many flows of one source address the rule lets in at the same time, 1 to 1,000,000;
    /// further ones are dropped (`drop.connections`). Only with `action = "allow"`. Default without
    /// limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_source: Option<u32>,
    /// Whether anybody may send to the external end of the translated TCP and UDP flows that the
    /// rule lets out (endpoint-independent filtering, RFC 4787 REQ-8). Only with `action =
    /// "allow"`. Default false.
    #[serde(default)]
    pub full_cone: bool,
}

fn yes() -> bool {
    true
}

/// Zones of one end of a flow. Written as a zone, a list of zones, or `any`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ZoneMatch {
    /// Every zone, but not the router itself.
    #[default]
    Any,
    /// These.
    These(Vec<Name>),
}

impl ZoneMatch {
    /// How the document writes [`Self::Any`]; no zone may have this name.
    pub const ANY: &'static str = "any";
}

impl Serialize for ZoneMatch {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => writer.serialize_str(Self::ANY),
            Self::These(zones) => match zones.as_slice() {
                // A zone of the name `any` is read only inside a list.
                [zone] if zone.as_str() != Self::ANY => zone.serialize(writer),
                zones => zones.serialize(writer),
            },
        }
    }
}

impl<'de> Deserialize<'de> for ZoneMatch {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(ZoneMatchVisitor)
    }
}

struct ZoneMatchVisitor;

impl<'de> Visitor<'de> for ZoneMatchVisitor {
    type Value = ZoneMatch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a zone, a list of zones or \"any\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ZoneMatch, E> {
        if text == ZoneMatch::ANY {
            return Ok(ZoneMatch::Any);
        }
        text.parse().map(|zone| ZoneMatch::These(vec![zone])).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ZoneMatch, A::Error> {
        let mut zones = Vec::new();
        while let Some(zone) = list.next_element()? {
            zones.push(zone);
        }
        Ok(ZoneMatch::These(zones))
    }
}

/// A host in a network whose IPv6 prefix changes: any /64 that the interface has now, and the
/// host's own last 64 bits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationHost {
    /// Interface behind which the host is.
    pub interface: Name,
    /// The last 64 bits of its address, as in `::5054:ff:fe12:3456`.
    pub suffix: HostSuffix,
}

/// The last 64 bits of an IPv6 address. Written as an address whose first 64 bits are zero.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostSuffix(u64);

/// Why a text is not a [`HostSuffix`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not the end of an IPv6 address: an address is needed whose first 64 bits are zero and the others not, as in ::5054:ff:fe12:3456"
)]
pub struct HostSuffixError(String);

impl HostSuffix {
    /// The host's address in the /64 of `network`.
    pub fn within(self, network: Ipv6Addr) -> Ipv6Addr {
        (network.to_bits() & !u128::from(u64::MAX) | u128::from(self.0)).into()
    }
}

impl FromStr for HostSuffix {
    type Err = HostSuffixError;

    fn from_str(text: &str) -> Result<Self, HostSuffixError> {
        let bits = text.parse::<Ipv6Addr>().map(Ipv6Addr::to_bits).unwrap_or_default();
        match u64::try_from(bits) {
            Ok(suffix) if suffix != 0 => Ok(Self(suffix)),
            _ => Err(HostSuffixError(text.to_owned())),
        }
    }
}

impl fmt::Display for HostSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from_bits(u128::from(self.0)).fmt(f)
    }
}

text_form!(HostSuffix, HostSuffixError);

/// A limit of new flows: a bucket of `burst` tokens that fills with `per_second`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "WrittenRateLimit")]
pub struct RateLimit {
    /// New flows a second on average, 1 to 1,000,000.
    pub per_second: u32,
    /// New flows at once after a pause, 1 to 1,000,000. Default what `per_second` is.
    pub burst: u32,
    /// Whether each source address has a bucket of its own. Default false: one for all.
    pub per_source: bool,
}

#[derive(Deserialize)]
#[serde(rename = "RateLimit", deny_unknown_fields)]
struct WrittenRateLimit {
    per_second: u32,
    burst: Option<u32>,
    #[serde(default)]
    per_source: bool,
}

impl From<WrittenRateLimit> for RateLimit {
    fn from(written: WrittenRateLimit) -> Self {
        Self {
            per_second: written.per_second,
            burst: written.burst.unwrap_or(written.per_second),
            per_source: written.per_source,
        }
    }
}
