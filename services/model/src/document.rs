//! The document itself, what stands in for what it leaves out, and writing it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DhcpServer, Dns, Firewall, Interface, Name, ParseError, System};

/// The format version that this build reads and writes.
pub const VERSION: u32 = 1;

/// The whole configuration. Every field has a default.
///
/// A table that the document writes replaces the default table of that name as a whole; the
/// defaults of another table that only made sense beside the replaced one go with it:
///
/// - `interfaces` without `dhcp`: the default server `dhcp.lan` stays only if the written
///   interface `lan` has the default network 192.168.77.1/24 as its first fixed address.
/// - `firewall.zones` without `firewall.policies`: of the default policies those stay whose two
///   zones are both written.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "WrittenDocument")]
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

/// The document as its author wrote it: what is absent is known to be absent.
#[derive(Deserialize)]
#[serde(rename = "Document", deny_unknown_fields)]
struct WrittenDocument {
    version: Option<u32>,
    system: Option<System>,
    interfaces: Option<BTreeMap<Name, Interface>>,
    dhcp: Option<BTreeMap<Name, DhcpServer>>,
    dns: Option<Dns>,
    firewall: Option<Firewall>,
}

impl From<WrittenDocument> for Document {
    fn from(written: WrittenDocument) -> Self {
        let dhcp = match (&written.interfaces, written.dhcp) {
            (_, Some(dhcp)) => dhcp,
            (None, None) => DhcpServer::defaults(),
            (Some(interfaces), None) => DhcpServer::defaults_for(interfaces),
        };
        Self {
            version: written.version.unwrap_or(VERSION),
            system: written.system.unwrap_or_default(),
            interfaces: written.interfaces.unwrap_or_else(Interface::defaults),
            dhcp,
            dns: written.dns.unwrap_or_default(),
            firewall: written.firewall.unwrap_or_default(),
        }
    }
}

impl Document {
    /// Writes TOML with all defaults spelled out.
    ///
    /// # Errors
    /// None is known; TOML has no form for some types that a later field could have.
    pub fn to_toml(&self) -> Result<String, ParseError> {
        toml::to_string_pretty(self).map_err(|error| ParseError {
            path: String::new(),
            position: None,
            message: error.to_string(),
        })
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
