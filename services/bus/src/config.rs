//! `org.portcullis.Config1`: the one configuration document.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::interface::bus_interface;

/// One thing wrong with a document.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct Problem {
    /// Where, in dotted form: `dhcp.lan.pool.start`; empty if it concerns the whole document.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// What one service said to its part of a new document.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct ServiceOutcome {
    /// Name of the service.
    pub service: String,
    /// Whether it runs with the new part now.
    pub applied: bool,
    /// The error otherwise, or a remark; may be empty.
    pub message: String,
}

/// Result of applying a document.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct ApplyReport {
    /// Whether the document was accepted and stored.
    pub accepted: bool,
    /// Number of the document in force, counted up with each accepted change.
    pub generation: u64,
    /// Why the document was refused; empty if accepted.
    pub problems: Vec<Problem>,
    /// Services whose part changed.
    pub services: Vec<ServiceOutcome>,
}

/// Where the document in force came from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct ConfigStatus {
    /// Number of the document in force.
    pub generation: u64,
    /// `defaults`, `stored`, `volume` (first boot with a PORTCULLIS volume) or `last-good`.
    pub source: String,
    /// What the user should know: a stored document that cannot be used, an invalid file on the
    /// volume; empty if nothing.
    pub problem: String,
    /// When it came into force (seconds since the epoch).
    pub since_unix_s: u64,
}

bus_interface! {
    /// Loads, validates, stores and hands out the configuration.
    interface Config1("org.portcullis.Config1"), trait ConfigApi, proxy ConfigBus, control [apply, check] {
        /// The document in force as TOML, with all defaults written out.
        fn document() -> String;
        /// Where the document in force came from.
        fn status() -> ConfigStatus;
        /// Validates a TOML document without applying it; all problems, none if it is valid. Not for
        /// everybody: a long document takes memory and time of a service that others wait for.
        fn check(toml: String) -> Vec<Problem>;
        /// Validates, stores and applies a TOML document.
        fn apply(toml: String) -> ApplyReport;
        /// The part of the document that concerns `service`, as JSON of the type in
        /// `portcullis_model::part`.
        fn part(service: String) -> String;
    }
}
