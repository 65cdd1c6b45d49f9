//! The protocol without I/O: bytes, their arrival and the time go in, [`Action`]s come out.
//!
//! ```text
//! bytes -> Request (request.rs) -> Server (server.rs) -> Reply (reply.rs) -> bytes
//!                                   |  scope.rs     what may be given on an interface
//!                                   |  table.rs     who has which address (persistent)
//!                                   |  offers.rs    what was offered or is being probed (volatile)
//!                                   |  allocate.rs  which address a client gets
//!                                   |  hostname.rs  what it is called
//! ```

mod action;
mod allocate;
mod client;
mod hostname;
mod offers;
mod reply;
mod request;
mod scope;
mod server;
mod table;
mod time;

pub use action::{Action, Destination, Level, Notice, Outgoing};
pub use client::{ClientId, HardwareAddress};
pub use request::{Malformed, Request};
pub use server::{Arrival, Counters, DECLINE_MS, OFFER_MS, PROBE_MS, Server};
pub use table::{LeaseRecord, LeaseState};
pub use time::Now;
