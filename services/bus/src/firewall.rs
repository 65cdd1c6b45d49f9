//! `org.portcullis.Firewall1`: the datapath.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::interface::bus_interface;

/// One tracked flow; the packet and byte counts are of both directions.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct FlowRecord {
    /// `tcp`, `udp`, `icmp`.
    pub protocol: String,
    /// Initiator: `address:port`, the port being the query id for ICMP.
    pub source: String,
    /// What the initiator addressed.
    pub destination: String,
    /// Source as the destination sees it (differs from `source` under NAT).
    pub translated_source: String,
    /// Zone that the flow came from; `router` for its own.
    pub from_zone: String,
    /// Zone that it goes to; `router` if it ends there.
    pub to_zone: String,
    /// `new`, `established`, `closing`, `unreplied`.
    pub state: String,
    /// Packets of the initiator.
    pub packets_out: u64,
    /// Bytes of the initiator (layer 3).
    pub bytes_out: u64,
    /// Packets of the responder.
    pub packets_in: u64,
    /// Bytes of the responder (layer 3).
    pub bytes_in: u64,
    /// Seconds since the last packet (coarse).
    pub idle_s: u32,
    /// Seconds of idleness after which it is removed.
    pub timeout_s: u32,
}

/// A page of the flow table.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct FlowPage {
    /// Flows in the table.
    pub total: u64,
    /// Most flows that the table holds.
    pub capacity: u64,
    /// Up to the number asked for, most recently active first.
    pub flows: Vec<FlowRecord>,
}

/// A datapath counter, summed over CPUs, since the datapath was first loaded.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct Counter {
    /// `forwarded`, `drop.policy`, ...
    pub name: String,
    /// What it counts, in a sentence.
    pub description: String,
    /// Packets.
    pub packets: u64,
    /// Bytes (layer 3).
    pub bytes: u64,
}

/// What was dropped for a reason between two zones, summed over CPUs, since the datapath was first
/// loaded.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct DropCount {
    /// Name of the counter: `drop.policy`, ...
    pub reason: String,
    /// What it counts, in a sentence.
    pub description: String,
    /// Zone that the packets came from, `router` for its own, empty if not known.
    pub from_zone: String,
    /// Zone that they would have gone to; empty if they were dropped before that was known.
    pub to_zone: String,
    /// Packets.
    pub packets: u64,
    /// Bytes (layer 3).
    pub bytes: u64,
}

/// Which packets to copy; what is empty or 0 does not matter. Hosts and ports fit in either
/// direction.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct CaptureRequest {
    /// Only what the datapath drops.
    pub dropped_only: bool,
    /// Only what is dropped for this reason: `drop.policy`, ...
    pub reason: String,
    /// Only of interfaces of this zone; of dropped packets, from or to it.
    pub zone: String,
    /// Address or prefix of either family.
    pub host: String,
    /// TCP or UDP port.
    pub port: u16,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub protocol: String,
    /// Ends after so many packets.
    pub count: u64,
    /// Ends after so many seconds.
    pub seconds: u32,
    /// Bytes of each packet to copy, up to 9,216.
    pub snap: u32,
    /// Copies one of so many packets, chosen by chance.
    pub sample: u32,
}

/// Which flows to show; what is empty or 0 does not matter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct FlowQuery {
    /// Most flows to return; more than 65,536 never are.
    pub limit: u32,
    /// Address or prefix of either family, of either end, before or after translation.
    pub host: String,
    /// Port of either end, before or after translation.
    pub port: u16,
    /// Zone of either end.
    pub zone: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub protocol: String,
}

/// The datapath as a whole.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct DatapathStatus {
    /// `ebpf`, `nftables`.
    pub kind: String,
    /// Flows in the table.
    pub flows: u64,
    /// Most flows that the table holds.
    pub flow_capacity: u64,
    /// Address mappings in use (endpoint-independent NAT).
    pub mappings: u64,
    /// Most mappings.
    pub mapping_capacity: u64,
    /// Entries of the flow index in use: two for each flow and mapping.
    pub index_entries: u64,
    /// Most entries of the flow index.
    pub index_capacity: u64,
    /// Raised with each change of routes and neighbours.
    pub route_generation: u64,
    /// Half of the policy tables that is in force.
    pub bank: u32,
    /// Rules in force.
    pub rules: u64,
    /// Programs of the packet path that are loaded. Until all are, packets that need the others are
    /// dropped.
    pub programs: u64,
    /// Programs in all; 0 where there are none.
    pub programs_wanted: u64,
    /// What could not be brought into force, one sentence each.
    pub problems: Vec<String>,
}

/// What would become of a packet that opens a flow; nothing is sent.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct Explanation {
    /// `allow`, `deny`, `reject`.
    pub verdict: String,
    /// Zone that it comes from.
    pub from_zone: String,
    /// Zone that it goes to; empty if that stays open.
    pub to_zone: String,
    /// Name of the rule that decides; empty for a default.
    pub rule: String,
    /// How the decision comes about, one sentence for each step.
    pub steps: Vec<String>,
}

/// Something about a rule that its author should know.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct RuleFinding {
    /// Name of the rule.
    pub rule: String,
    /// `empty`, `shadowed`, `redundant`, `unreachable`: it never decides; `merged`: it does, as part
    /// of another.
    pub kind: String,
    /// The same in a sentence.
    pub message: String,
}

/// One program attached to one device.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct Attachment {
    /// Name of the interface in the configuration.
    pub interface: String,
    /// Kernel device.
    pub device: String,
    /// `tcx-ingress`, `tcx-egress`, `xdp`.
    pub hook: String,
    /// Kernel id of the program.
    pub program_id: u32,
    /// What the configuration wants: `auto`, `xdp`, `tcx`.
    pub wanted: String,
    /// Why it is this hook, in a sentence.
    pub reason: String,
}

bus_interface! {
    /// The datapath's flows, counters and attachments. `Changed`: attachments or policy changed.
    interface Firewall1("org.portcullis.Firewall1"), trait FirewallApi, proxy FirewallBus, control [apply, capture, reevaluate, purge] {
        /// Takes a new part (JSON of `portcullis_model::part::FirewallPart`); established flows
        /// stay.
        fn apply(part: String);
        /// At most `limit` flows.
        fn flows(limit: u32) -> FlowPage;
        /// All counters.
        fn counters() -> Vec<Counter>;
        /// What is attached where.
        fn attachments() -> Vec<Attachment>;
        /// Kernel indices of the devices that are behind the datapath: they may be brought up.
        /// `Changed` tells of more.
        fn guarded() -> Vec<u32>;
        /// The datapath as a whole.
        fn datapath() -> DatapathStatus;
        /// The flows that fit, most recently active first.
        fn find_flows(query: FlowQuery) -> FlowPage;
        /// Drops by reason and zones, most packets first.
        fn drops() -> Vec<DropCount>;
        /// Copies packets from now on; what is returned is to be read, and closed to end it. It
        /// holds a pcapng file, and ends by itself when count or time are reached. One capture runs
        /// at a time.
        fn capture(request: CaptureRequest) -> zbus::OwnedFd;
        /// What would become of a packet, as `tcp 192.168.77.5:1234 -> 203.0.113.5:443 in lan`.
        fn explain(packet: String) -> Explanation;
        /// Which rules can never decide, and which were merged.
        fn findings() -> Vec<RuleFinding>;
        /// The policy in force as a ruleset for `nft`.
        fn nftables() -> String;
        /// Asks the policy again about all flows, and removes those that it would not let in now.
        /// Returns how many.
        fn reevaluate() -> u64;
        /// Removes the flows with an end in this address or prefix. Returns how many.
        fn purge(addresses: String) -> u64;
    }
}
