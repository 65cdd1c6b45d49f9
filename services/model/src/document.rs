//! The document itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DhcpServer, Dns, Firewall, Interface, Name, System};

/// The format version that this build reads and writes.
pub const VERSION: u32 = 1;

/// The whole configuration. Every field has a default.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// Format version; [`VERSION`].
    pub version: u32,
    /// The router itself.
    pub system: System,
    /// Layer-3 interfaces by name. A document that has this table replaces the default
    /// interfaces as a whole.
    pub interfaces: BTreeMap<Name, Interface>,
    /// DHCP servers by the name of the interface that they serve.
    pub dhcp: BTreeMap<Name, DhcpServer>,
    /// DNS for the LAN.
    pub dns: Dns,
    /// Zones and policies.
    pub firewall: Firewall,
}

/// Why a text is not a document.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct ParseError {
    /// Dotted path of the field, as far as known.
    pub path: String,
    /// The TOML reader's account with line and column.
    pub message: String,
}

impl Document {
    /// Reads TOML. Only the form is checked here; see [`crate::validate::validate`].
    ///
    /// # Errors
    /// Syntax errors, unknown fields, values of the wrong form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        toml::from_str(text)
            .map_err(|error| ParseError { path: String::new(), message: error.to_string() })
    }

    /// Writes TOML with all defaults spelled out.
    ///
    /// # Errors
    /// None is known; TOML has no form for some types that a later field could have.
    pub fn to_toml(&self) -> Result<String, ParseError> {
        toml::to_string_pretty(self)
            .map_err(|error| ParseError { path: String::new(), message: error.to_string() })
    }
}

impl Default for Document {
    fn default() -> Self {
        Self {
            version: VERSION,
            system: System::default(),
            interfaces: Interface::defaults(),
            dhcp: DhcpServer::defaults(),
            dns: Dns::default(),
            firewall: Firewall::default(),
        }
    }
}
