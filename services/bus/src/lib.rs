//! The bus: zbus, peer to peer. Every service serves one interface on a Unix socket of its own;
//! there is no broker.
//!
//! One module per service holds the records on the wire, the trait that the service implements
//! and the proxy for its callers. Who may call whom is decided twice: by owner and mode of the
//! socket (made by init from the service manifests) and by the callee from `SO_PEERCRED`.
//!
//! Time stamps are seconds or milliseconds since the Unix epoch (UTC), as the field name says.

mod client;
mod interface;
pub mod server;
mod transport;

pub mod config;
pub mod dhcp;
pub mod dns;
pub mod firewall;
pub mod init;
pub mod network;
pub mod peer;
pub mod web;

pub use client::{connect, connect_at, follow};

use std::path::PathBuf;

/// The one object path that every service serves its interface at.
pub const OBJECT_PATH: &str = "/org/portcullis";

/// What a call over the bus can answer besides its result.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.portcullis.Error")]
pub enum Error {
    /// Transport or protocol failure.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// An argument is not acceptable; the text names it and says what is allowed.
    InvalidArgument(String),
    /// What was named does not exist.
    NotFound(String),
    /// The caller may not do this.
    Denied(String),
    /// The call was understood and could not be carried out.
    Failed(String),
}

/// Result of a call over the bus.
pub type Result<T> = std::result::Result<T, Error>;

/// Folder of the bus sockets: `$PORTCULLIS_RUN_DIR/bus`, by default `/run/portcullis/bus`.
/// The variable exists for tests on a development machine; init does not pass it on.
pub fn socket_dir() -> PathBuf {
    std::env::var_os("PORTCULLIS_RUN_DIR")
        .map_or_else(|| PathBuf::from("/run/portcullis"), PathBuf::from)
        .join("bus")
}

/// Path of the bus socket of `service`.
pub fn socket_path(service: &str) -> PathBuf {
    socket_dir().join(format!("{service}.sock"))
}
