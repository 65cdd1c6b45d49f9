//! What is dropped before the flow table and the rules are asked.

use serde::{Deserialize, Serialize};

use super::AddressMatch;
use crate::Name;

/// Early drop.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Protection {
    /// Whether packets are dropped that no honest host sends: impossible TCP flags, source equal to
    /// destination, lengths that contradict each other. Default true.
    pub malformed: bool,
    /// Sources and destinations that nothing passes from or to, in any zone; 100,000 prefixes and
    /// more. Default none.
    pub blocklist: Vec<AddressMatch>,
    /// Sources that the limits below do not concern. Default none.
    pub exempt: Vec<AddressMatch>,
    /// Zones whose packets the limits below concern. Left out: the zones with `masquerade`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<Vec<Name>>,
    /// TCP SYNs. Default 500 from each source, 50,000 in total.
    pub syn: FloodLimit,
    /// UDP datagrams of no flow. Default 1,000 from each source, 100,000 in total.
    pub udp: FloodLimit,
    /// ICMP messages of no flow. Default 100 from each source, 2,000 in total.
    pub icmp: FloodLimit,
    /// When SYNs are answered with cookies (RFC 4987 section 3.6) instead of an entry in the flow
    /// table. Default `auto`.
    pub syn_cookies: SynCookies,
}

impl Default for Protection {
    fn default() -> Self {
        Self {
            malformed: true,
            blocklist: Vec::new(),
            exempt: Vec::new(),
            zones: None,
            syn: FloodLimit { per_source: 500, total: 50_000 },
            udp: FloodLimit { per_source: 1_000, total: 100_000 },
            icmp: FloodLimit { per_source: 100, total: 2_000 },
            syn_cookies: SynCookies::default(),
        }
    }
}

/// Packets a second that pass; 0 to 100,000,000, and 0 is no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FloodLimit {
    /// From one source address (IPv6: from one /64).
    #[serde(default)]
    pub per_source: u32,
    /// From all together.
    #[serde(default)]
    pub total: u32,
}

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SynCookies {
    /// Never.
    Off,
    /// While the flow table fills with flows that nobody answers.
    #[default]
    Auto,
    /// Always.
    Always,
}
