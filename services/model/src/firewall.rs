//! Zones and the policies between them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Name;

/// The firewall. What no policy allows is refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "WrittenFirewall")]
pub struct Firewall {
    /// Zones by name. A document that has this table replaces the default zones as a whole.
    pub zones: BTreeMap<Name, Zone>,
    /// What new flows between zones may do; the first policy that fits decides. Left out beside
    /// written `zones`, it is those default policies whose two zones are written.
    pub policies: Vec<Policy>,
    /// Flows tracked at most, 1,024 to 4,194,304. Default 65,536.
    pub max_flows: u32,
    /// Idle times after which flows are forgotten.
    pub timeouts: Timeouts,
}

/// The firewall as the author of the document wrote it.
#[derive(Deserialize)]
#[serde(rename = "Firewall", deny_unknown_fields)]
struct WrittenFirewall {
    zones: Option<BTreeMap<Name, Zone>>,
    policies: Option<Vec<Policy>>,
    max_flows: Option<u32>,
    timeouts: Option<Timeouts>,
}

impl From<WrittenFirewall> for Firewall {
    fn from(written: WrittenFirewall) -> Self {
        let default = Self::default();
        let zones = written.zones.unwrap_or(default.zones);
        let policies = written.policies.unwrap_or_else(|| {
            let known = |policy: &Policy| {
                zones.contains_key(&policy.from) && zones.contains_key(&policy.to)
            };
            default.policies.into_iter().filter(known).collect()
        });
        Self {
            zones,
            policies,
            max_flows: written.max_flows.unwrap_or(default.max_flows),
            timeouts: written.timeouts.unwrap_or(default.timeouts),
        }
    }
}

/// A group of interfaces with the same trust.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Zone {
    /// Whether IPv4 flows that leave through this zone take the address of the interface they
    /// leave by (RFC 3022). Default false.
    pub masquerade: bool,
    /// Services of the router that this zone may reach. Default none.
    pub services: BTreeSet<RouterService>,
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

/// What new flows from one zone to another may do.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Zone that the flow comes from.
    pub from: Name,
    /// Zone that it goes to.
    pub to: Name,
    /// What happens.
    pub action: Action,
}

/// What happens to a new flow.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped without an answer.
    Deny,
}

/// Idle times in seconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Established TCP, at least 7,440 (RFC 5382 REQ-5). Default 7,440.
    pub tcp_established_s: u32,
    /// TCP that is opening or closing, at least 240 (RFC 5382 REQ-5). Default 240.
    pub tcp_transitory_s: u32,
    /// UDP with traffic both ways, at least 120 (RFC 4787 REQ-5). Default 300.
    pub udp_s: u32,
    /// UDP without a reply yet, at least 30. Default 120.
    pub udp_unreplied_s: u32,
    /// ICMP queries, at least 60 (RFC 5508 REQ-2). Default 60.
    pub icmp_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established_s: 7_440,
            tcp_transitory_s: 240,
            udp_s: 300,
            udp_unreplied_s: 120,
            icmp_s: 60,
        }
    }
}

impl Default for Firewall {
    fn default() -> Self {
        let wan = Zone { masquerade: true, services: BTreeSet::new() };
        let lan = Zone {
            masquerade: false,
            services: BTreeSet::from([
                RouterService::Dhcp,
                RouterService::Dns,
                RouterService::Ping,
                RouterService::Web,
            ]),
        };
        Self {
            zones: BTreeMap::from([
                (Name::from_static("lan"), lan),
                (Name::from_static("wan"), wan),
            ]),
            policies: vec![Policy {
                from: Name::from_static("lan"),
                to: Name::from_static("wan"),
                action: Action::Allow,
            }],
            max_flows: 65_536,
            timeouts: Timeouts::default(),
        }
    }
}
