//! The configuration: one document, typed.
//!
//! [`Document`] is what a user writes (TOML) and what is stored. [`Document::parse`] reads it,
//! [`validate`] finds everything that is wrong with it, [`part`] cuts out what each service needs.
//! The defaults, an empty document, are a working router: the first NIC is the WAN by DHCP, the
//! others are bridged as LAN 192.168.77.1/24.
//!
//! Pure: no clock, no file, no socket.

mod dhcp;
mod dns;
mod document;
pub mod firewall;
mod interface;
mod mac;
mod name;
pub mod part;
mod read;
mod system;
pub mod validate;

pub use dhcp::{DhcpServer, Pool, Reservation};
pub use dns::{Dns, UpstreamAddress};
pub use document::{Document, VERSION};
pub use firewall::{Action, Firewall, Policy, RouterService, Timeouts, Zone};
pub use interface::{Interface, InterfaceKind, Ipv4, Ipv6, PortSelector};
pub use mac::MacAddress;
pub use name::{HostName, Label, Name, NameError};
pub use read::ParseError;
pub use system::System;
