//! The DNS forwarder of the LAN.
//!
//! ```text
//!  client ─► shell::udp, tcp ─► request ─► zone ──────────────► reply ─► client
//!                              (accept?)   (local, special?)      ▲
//!                                             │ forward           │
//!                                             ▼                   │
//!                                           cache ────────────────┤
//!                                             │ miss              │
//!                                             ▼                   │
//!                     upstreams ◄──► shell::lookup, exchange ─► rebinding
//! ```
//!
//! [`forwarder::Forwarder`] is the whole without sockets and clocks: messages and times go in,
//! replies and questions for upstreams come out. `shell` does the rest. See `docs/dns.md` for
//! what is answered how.

pub mod cache;
mod exercise;
pub mod forwarder;
pub mod limits;
pub mod rebinding;
pub mod reply;
pub mod request;
mod shell;
pub mod special;
pub mod upstreams;
pub mod zone;

#[doc(hidden)]
pub use exercise::{exercise, exercise_answer};

use std::process::ExitCode;

/// Runs the service; see `init/services/dns.toml` for what it is given.
pub fn main() -> ExitCode {
    portcullis_runtime::run("dns", shell::serve)
}
