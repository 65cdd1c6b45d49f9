//! Translation of addresses beyond masquerading. IPv4 only: IPv6 is not translated.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{AddressMatch, PortRange};
use crate::{Label, Name};

/// Ports of the router's addresses that lead to a host inside. Its flows pass unless a rule for
/// them (with the destination inside) decides otherwise.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// What reports and logs call it; every port forward has another name.
    pub name: Label,
    /// Whether it is in force. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Zone whose addresses of the router are meant, and from which flows come.
    pub zone: Name,
    /// External addresses; by default all that the router has in the zone.
    #[serde(default)]
    pub addresses: Vec<Ipv4Addr>,
    /// Protocol.
    pub protocol: ForwardProtocol,
    /// External ports.
    pub ports: Vec<PortRange>,
    /// The host inside.
    pub to: Ipv4Addr,
    /// Port of the host that the first external port leads to, the next one to the next. Only with
    /// one entry in `ports`. Default the same port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<u16>,
    /// Sources that may use it. Default all.
    #[serde(default)]
    pub sources: Vec<AddressMatch>,
    /// Whether hosts of other zones, such as the one that the host is in, reach it by the external
    /// address too. Default true.
    #[serde(default = "yes")]
    pub hairpin: bool,
    /// Whether start and end of its flows are logged. Default false.
    #[serde(default)]
    pub log: bool,
}

fn yes() -> bool {
    true
}

/// Protocol of a port forward.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TCP and UDP.
    Both,
}

impl ForwardProtocol {
    /// Whether some packet is of both.
    pub fn overlaps(self, other: Self) -> bool {
        self == other || self == Self::Both || other == Self::Both
    }
}

/// An external address that stands for a host inside, in both directions and with all its ports
/// (1:1 NAT). It opens nothing: rules and policies decide, with the host's own address.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StaticNat {
    /// Zone in which the external address is used.
    pub zone: Name,
    /// External address: one of the router's, or one that is routed to it.
    pub external: Ipv4Addr,
    /// The host's address.
    pub internal: Ipv4Addr,
}

/// Source addresses that flows take when they leave by a zone, instead of masquerading.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceNat {
    /// Zone that they leave by.
    pub zone: Name,
    /// Sources that it is for. Default all.
    #[serde(default)]
    pub sources: Vec<AddressMatch>,
    /// The addresses to take: addresses, prefixes, ranges, sets, at most 65,536 in all. A source
    /// keeps its address for as long as it has flows (RFC 4787 REQ-2, "paired").
    pub addresses: Vec<AddressMatch>,
}
