//! The firewall: who may open flows to whom, how they are translated, and how much is tracked.
//!
//! How the tables work on the first packet of a flow, in this order:
//! 1. [`Protection`] drops what is malformed, blocked, or too much.
//! 2. A packet to an address of the router that a [`PortForward`] or [`StaticNat`] takes has a new
//!    destination from here on.
//! 3. [`Rule`]s of the pair of zones decide, the first that fits. Rules see the destination inside
//!    (after 2) and the source as it came (before 5).
//! 4. Where no rule fits: a packet of a port forward passes; one for the router itself passes if the
//!    zone's `services` have it; any other is up to the pair's [`Policy`], and without one refused.
//! 5. [`StaticNat`], [`SourceNat`] and `masquerade` of the zone that it leaves by give it a new
//!    source.
//!
//! All further packets of the flow, and the answers, pass without being asked again.

mod address;
mod export;
mod nat;
mod port;
mod protection;
mod protocol;
mod rule;
mod schedule;
mod sets;
mod text;
mod zone;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use address::{AddressMatch, AddressMatchError, AddressSet};
pub use export::{CollectorAddress, CollectorAddressError, FlowExport, Log};
pub use nat::{ForwardProtocol, PortForward, SourceNat, StaticNat};
pub use port::{PortMatch, PortMatchError, PortRange, PortRangeError, PortSet};
pub use protection::{FloodLimit, Protection, SynCookies};
pub use protocol::{IcmpMatch, IcmpMatchError, Protocol, ProtocolError};
pub use rule::{DestinationHost, HostSuffix, HostSuffixError, RateLimit, Rule, ZoneMatch};
pub use schedule::{Day, Schedule, TimeOfDay, TimeOfDayError};
pub use sets::{AddressRanges, Excess, ExcessOf, Sets};
pub use zone::{MssClamp, MssClampError, Policy, RouterService, Zone};

use crate::Name;

/// The name that stands for the router itself where a zone is expected.
pub const ROUTER: &str = "router";

/// The firewall. What neither a rule nor a policy allows is refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "WrittenFirewall")]
pub struct Firewall {
    /// What forwards and filters packets. Default `ebpf`.
    pub datapath: Datapath,
    /// Flows tracked at most, 1,024 to 4,194,304. Default 65,536.
    pub max_flows: u32,
    /// Where the programs are attached, by interface; `auto` for those that are not named.
    pub hooks: BTreeMap<Name, Hook>,
    /// Zones by name, at most 31. A document that has this table replaces the default zones as a
    /// whole.
    pub zones: BTreeMap<Name, Zone>,
    /// What becomes of new flows between two zones that no rule decides. Left out beside written
    /// `zones`, it is those default policies whose two zones are written.
    pub policies: Vec<Policy>,
    /// Address sets, to be named as `@NAME`.
    pub addresses: BTreeMap<Name, AddressSet>,
    /// Port sets, to be named as `@NAME`.
    pub ports: BTreeMap<Name, PortSet>,
    /// Times at which rules hold.
    pub schedules: BTreeMap<Name, Schedule>,
    /// Rules; of those that fit a new flow the first decides. At most [`Self::MAX_RULES`].
    pub rules: Vec<Rule>,
    /// Ports of the router's addresses that lead to hosts inside.
    pub port_forwards: Vec<PortForward>,
    /// Addresses that stand for hosts inside, one for one (1:1 NAT).
    pub static_nat: Vec<StaticNat>,
    /// Source addresses that outgoing flows take instead of the interface's; the first entry that
    /// fits decides.
    pub source_nat: Vec<SourceNat>,
    /// Idle times after which flows are forgotten.
    pub timeouts: Timeouts,
    /// What is dropped early.
    pub protection: Protection,
    /// Flow records for collectors (IPFIX).
    pub flow_export: FlowExport,
    /// What is logged.
    pub log: Log,
}

impl Firewall {
    /// Rules at most.
    pub const MAX_RULES: usize = 16_384;
    /// Ranges of addresses and ports that all rules together may come to, sets filled in.
    pub const MAX_RULE_RANGES: usize = 1_048_576;
    /// Zones at most; the router itself takes one more place.
    pub const MAX_ZONES: usize = 31;
    /// Port forwards at most, and entries of `static_nat` and `source_nat` each.
    pub const MAX_TRANSLATIONS: usize = 4_096;
}

/// The firewall as the author of the document wrote it.
#[derive(Deserialize)]
#[serde(rename = "Firewall", deny_unknown_fields)]
struct WrittenFirewall {
    datapath: Option<Datapath>,
    max_flows: Option<u32>,
    hooks: Option<BTreeMap<Name, Hook>>,
    zones: Option<BTreeMap<Name, Zone>>,
    policies: Option<Vec<Policy>>,
    addresses: Option<BTreeMap<Name, AddressSet>>,
    ports: Option<BTreeMap<Name, PortSet>>,
    schedules: Option<BTreeMap<Name, Schedule>>,
    rules: Option<Vec<Rule>>,
    port_forwards: Option<Vec<PortForward>>,
    static_nat: Option<Vec<StaticNat>>,
    source_nat: Option<Vec<SourceNat>>,
    timeouts: Option<Timeouts>,
    protection: Option<Protection>,
    flow_export: Option<FlowExport>,
    log: Option<Log>,
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
            datapath: written.datapath.unwrap_or_default(),
            max_flows: written.max_flows.unwrap_or(default.max_flows),
            hooks: written.hooks.unwrap_or_default(),
            zones,
            policies,
            addresses: written.addresses.unwrap_or_default(),
            ports: written.ports.unwrap_or_default(),
            schedules: written.schedules.unwrap_or_default(),
            rules: written.rules.unwrap_or_default(),
            port_forwards: written.port_forwards.unwrap_or_default(),
            static_nat: written.static_nat.unwrap_or_default(),
            source_nat: written.source_nat.unwrap_or_default(),
            timeouts: written.timeouts.unwrap_or_default(),
            protection: written.protection.unwrap_or_default(),
            flow_export: written.flow_export.unwrap_or_default(),
            log: written.log.unwrap_or_default(),
        }
    }
}

impl Default for Firewall {
    fn default() -> Self {
        Self {
            datapath: Datapath::default(),
            max_flows: 65_536,
            hooks: BTreeMap::new(),
            zones: Zone::defaults(),
            policies: vec![Policy {
                from: Name::from_static("lan"),
                to: Name::from_static("wan"),
                action: Action::Allow,
                log: false,
            }],
            addresses: BTreeMap::new(),
            ports: BTreeMap::new(),
            schedules: BTreeMap::new(),
            rules: Vec::new(),
            port_forwards: Vec::new(),
            static_nat: Vec::new(),
            source_nat: Vec::new(),
            timeouts: Timeouts::default(),
            protection: Protection::default(),
            flow_export: FlowExport::default(),
            log: Log::default(),
        }
    }
}

/// What forwards and filters packets.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Datapath {
    /// Our own programs in the kernel's eBPF machine.
    #[default]
    Ebpf,
    /// The same policy as a ruleset of the kernel's nftables.
    Nftables,
}

/// Where the datapath's program of an interface is attached.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// XDP where the driver has it and it can help, else tcx.
    #[default]
    Auto,
    /// XDP; refused where the driver does not have it.
    Xdp,
    /// tcx.
    Tcx,
}

/// What happens to a new flow.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped without an answer.
    Deny,
    /// It is dropped and the sender told: by a TCP reset, for UDP by the ICMP error "port
    /// unreachable", for others by "administratively prohibited" (RFC 1812 section 5.2.7.1, RFC 4443
    /// section 3.1).
    Reject,
}

/// Idle times in seconds; at most 2,592,000 (30 days) each.
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
    /// Datagrams in fragments, from the first fragment seen, 15 to 120. Default 60 (RFC 8200
    /// section 4.5).
    pub fragment_s: u32,
}

impl Timeouts {
    /// No timeout is longer: 30 days.
    pub const MAX_S: u32 = 2_592_000;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established_s: 7_440,
            tcp_transitory_s: 240,
            udp_s: 300,
            udp_unreplied_s: 120,
            icmp_s: 60,
            fragment_s: 60,
        }
    }
}
