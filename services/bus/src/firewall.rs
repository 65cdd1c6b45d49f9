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
}

bus_interface! {
    /// The datapath's flows, counters and attachments. `Changed`: attachments or policy changed.
    interface Firewall1("org.portcullis.Firewall1"), trait FirewallApi, proxy FirewallBus {
        /// Takes a new part (JSON of `portcullis_model::part::FirewallPart`); established flows
        /// stay.
        fn apply(part: String);
        /// At most `limit` flows.
        fn flows(limit: u32) -> FlowPage;
        /// All counters.
        fn counters() -> Vec<Counter>;
        /// What is attached where.
        fn attachments() -> Vec<Attachment>;
    }
}
