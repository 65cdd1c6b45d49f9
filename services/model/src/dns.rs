//! DNS for the LAN.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The forwarder for the zones that have the router service `dns`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// The local domain, whose names are those of DHCP clients; never forwarded. Default `lan`.
    pub domain: String,
    /// Upstream servers; by default those that the WAN leases name.
    pub upstreams: Vec<UpstreamAddress>,
    /// Answers kept, 0 (no cache) to 1,000,000, within 24 MiB. Default 10,000.
    pub cache_entries: u32,
}

impl Default for Dns {
    fn default() -> Self {
        Self { domain: "lan".to_owned(), upstreams: Vec::new(), cache_entries: 10_000 }
    }
}

/// Address of an upstream server, `9.9.9.9`, `9.9.9.9:5353` or `[2620:fe::fe]:53`; port 53 by
/// default.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamAddress(pub SocketAddr);

/// Why a text is not an upstream.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a DNS server: an IP address is needed, with or without port, as in 9.9.9.9 or 9.9.9.9:53"
)]
pub struct UpstreamAddressError(String);

impl FromStr for UpstreamAddress {
    type Err = UpstreamAddressError;

    fn from_str(text: &str) -> Result<Self, UpstreamAddressError> {
        text.parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, 53))
            .or_else(|_| text.parse::<SocketAddr>())
            .map(Self)
            .map_err(|_| UpstreamAddressError(text.to_owned()))
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == 53 { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

impl TryFrom<String> for UpstreamAddress {
    type Error = UpstreamAddressError;
    fn try_from(text: String) -> Result<Self, UpstreamAddressError> {
        text.parse()
    }
}

impl From<UpstreamAddress> for String {
    fn from(address: UpstreamAddress) -> Self {
        address.to_string()
    }
}
