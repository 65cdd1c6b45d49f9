//! The router itself.

use serde::{Deserialize, Serialize};

use crate::HostName;

/// Settings of the router as a host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct System {
    /// The router's own name in the local domain. Default `portcullis`.
    pub hostname: HostName,
}

impl Default for System {
    fn default() -> Self {
        Self { hostname: HostName::from_static("portcullis") }
    }
}
