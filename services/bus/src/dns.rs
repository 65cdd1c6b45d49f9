//! `org.portcullis.Dns1`: the DNS forwarder.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::interface::bus_interface;

/// One upstream server.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct Upstream {
    /// `address:port`.
    pub address: String,
    /// `configuration`, or the interface whose lease named it.
    pub source: String,
    /// Whether its last queries were answered.
    pub healthy: bool,
    /// Smoothed round-trip time in milliseconds, once known.
    pub rtt_ms: Option<u32>,
}

/// Counts since the service started.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct DnsStatus {
    /// Queries received.
    pub queries: u64,
    /// Answered from the cache.
    pub cache_hits: u64,
    /// Answered from local names.
    pub local: u64,
    /// Forwarded to an upstream.
    pub forwarded: u64,
    /// Refused or malformed.
    pub refused: u64,
    /// No upstream answered.
    pub failed: u64,
    /// Upstreams in the order of preference.
    pub upstreams: Vec<Upstream>,
}

bus_interface! {
    /// The forwarder. `Changed`: the set of upstreams changed.
    interface Dns1("org.portcullis.Dns1"), trait DnsApi, proxy DnsBus, control [apply] {
        /// Takes a new part (JSON of `portcullis_model::part::DnsPart`).
        fn apply(part: String);
        /// Counts and upstreams.
        fn status() -> DnsStatus;
    }
}
