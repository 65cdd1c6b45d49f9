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
pub mod forwarder;
pub mod limits;
pub mod rebinding;
pub mod reply;
pub mod request;
mod shell;
pub mod special;
pub mod upstreams;
pub mod zone;

use std::process::ExitCode;

/// Runs the service; see `init/services/dns.toml` for what it is given.
pub fn main() -> ExitCode {
    portcullis_runtime::run("dns", shell::serve)
}

/// Runs raw bytes through the whole request path, as datagram and as message of a connection, and
/// checks the replies; for fuzzing and for replaying what it found. Returns whether there was a
/// reply.
#[doc(hidden)]
pub fn exercise(bytes: &[u8], client: std::net::Ipv4Addr) -> bool {
    use forwarder::{Forwarder, Outcome, Step};
    use request::Transport;

    let part = portcullis_model::part::DnsPart::of(&portcullis_model::Document::default());
    let now = std::time::Instant::now();
    let Ok(mut forwarder) = Forwarder::new(part) else { return false };
    let mut replied = false;
    for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        let reply = match forwarder.receive(bytes, client.into(), transport, now) {
            Step::Drop => continue,
            Step::Reply(reply) => reply,
            Step::Forward(request) => {
                // The bytes once more as what an upstream says.
                let outcome = hickory_proto::op::Message::from_vec(bytes).map_or(
                    Outcome::NoUpstream,
                    |message| match forwarder.judge(message) {
                        Ok(reply) => Outcome::Answered(reply),
                        Err(why) => Outcome::Failed(why),
                    },
                );
                forwarder.keep(&request.question, &outcome, now);
                forwarder.finish(&request, &outcome, now)
            }
        };
        assert!(reply.len() <= limit, "{} bytes over {transport:?}", reply.len());
        assert_eq!(reply.get(..2), bytes.get(..2), "the id of the query comes back");
        assert!(hickory_proto::op::Message::from_vec(&reply).is_ok(), "a reply can be read");
        replied = true;
    }
    replied
}
