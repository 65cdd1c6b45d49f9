//! The DHCPv4 client of a WAN interface (RFC 2131, options RFC 2132, routes RFC 3442, conflict
//! detection RFC 5227): a pure state machine ([`machine`]) that reads and builds [`frame`]s and
//! [`message`]s, and a [`shell`] with the sockets, the clock and the lease's file ([`store`]).

mod any;
pub mod frame;
pub mod lease;
pub mod machine;
pub mod message;
mod packet;
pub mod shell;
pub mod store;
#[cfg(test)]
mod test_server;

pub use any::read_any;
