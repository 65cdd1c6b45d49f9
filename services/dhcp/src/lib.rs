//! The DHCPv4 server of the LAN side (RFC 2131, 2132, 3046, 4702, 6842).
//!
//! [`core`] is the protocol without I/O: bytes and time in, actions out. [`store`] keeps the
//! leases on disk. The shell ([`main`]) carries datagrams, ARP probes and bus calls between them
//! and the world, and keeps the one order that counts: a lease is on disk before the client is
//! told.

pub mod core;
mod shell;
pub mod store;

/// Name of the service on the bus, in its manifest and of its part of the configuration.
const SERVICE: &str = "dhcp";

/// The service, from start to end.
pub fn main() -> std::process::ExitCode {
    portcullis_runtime::run(SERVICE, |service| async move {
        shell::serve(service).await.map_err(Into::into)
    })
}
