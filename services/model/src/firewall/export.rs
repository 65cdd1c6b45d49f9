//! What leaves the router about flows: records for collectors, and log lines.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::text::text_form;

/// Flow records by IPFIX (RFC 7011) over UDP. Off without a collector.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowExport {
    /// Where to send, at most 8. Default none.
    pub collectors: Vec<CollectorAddress>,
    /// Seconds after which a flow that lives on is reported, 10 to 86,400. Default 300.
    pub active_timeout_s: u32,
    /// Seconds after which templates are sent again, 10 to 86,400. Default 600 (RFC 7011 section
    /// 8.4 asks for resending over UDP).
    pub template_refresh_s: u32,
    /// Observation domain id, 0 to 4,294,967,295. Default 1.
    pub domain: u32,
}

impl Default for FlowExport {
    fn default() -> Self {
        Self { collectors: Vec::new(), active_timeout_s: 300, template_refresh_s: 600, domain: 1 }
    }
}

/// Address of a collector, `192.0.2.1`, `192.0.2.1:9996` or `[2001:db8::1]:4739`; port 4739 by
/// default.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct CollectorAddress(pub SocketAddr);

/// UDP port of IPFIX (RFC 7011 section 10.3.4).
const IPFIX: u16 = 4739;

/// Why a text is not a [`CollectorAddress`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a collector: an IP address is needed, with or without port, as in 192.0.2.1 or 192.0.2.1:4739"
)]
pub struct CollectorAddressError(String);

impl FromStr for CollectorAddress {
    type Err = CollectorAddressError;

    fn from_str(text: &str) -> Result<Self, CollectorAddressError> {
        text.parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, IPFIX))
            .or_else(|_| text.parse::<SocketAddr>())
            .map(Self)
            .map_err(|_| CollectorAddressError(text.to_owned()))
    }
}

impl fmt::Display for CollectorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == IPFIX { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

text_form!(CollectorAddress, CollectorAddressError);

/// What is logged, beside the rules and policies with `log`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Lines a second at most, 1 to 10,000; what is above is counted and left out. Default 100.
    pub per_second: u32,
    /// Whether start and end of every flow are logged. Default false.
    pub flows: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { per_second: 100, flows: false }
    }
}
