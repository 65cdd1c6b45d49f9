//! The document itself: reading and writing it, and what stands in for what it leaves out.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{DhcpServer, Dns, Firewall, Interface, Name, System};

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

/// Why a text is not a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Dotted path of the field, as far as known: `interfaces.lan.ports[0]`; empty otherwise.
    pub path: String,
    /// Line and column, both counted from 1, as far as known.
    pub position: Option<(usize, usize)>,
    /// What is wrong and what is allowed, without the position.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

impl Document {
    /// Reads TOML. Only the form is checked here; see [`crate::validate::validate`].
    ///
    /// # Errors
    /// Syntax errors, unknown fields, values of the wrong form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let syntax = |error: toml::de::Error| ParseError::new(text, String::new(), &error);
        let reader = toml::Deserializer::parse(text).map_err(syntax)?;
        serde_path_to_error::deserialize(reader).map_err(|error| {
            let path = match error.path().to_string() {
                path if path == "." => String::new(),
                path => path,
            };
            ParseError::new(text, path, error.inner())
        })
    }

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

impl ParseError {
    fn new(text: &str, path: String, error: &toml::de::Error) -> Self {
        let position = error.span().and_then(|span| text.get(..span.start)).map(|before| {
            let line = before.matches('\n').count() + 1;
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            (line, before.get(start..).unwrap_or_default().chars().count() + 1)
        });
        Self { path, position, message: error.message().trim_end().to_owned() }
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
