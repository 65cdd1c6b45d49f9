//! The request path in one call, for fuzzing.

use std::{net::Ipv4Addr, time::Instant};

use hickory_proto::op::Message;
use portcullis_model::{Document, part::DnsPart};

use crate::{
    forwarder::{Forwarder, Outcome, Step},
    request::{Received, Transport},
};

/// Runs raw bytes through the whole request path, as datagram and as message of a connection, and
/// checks the replies; for fuzzing and for replaying what it found. Returns whether there was a
/// reply.
pub fn exercise(bytes: &[u8], client: Ipv4Addr) -> bool {
    let part = DnsPart::of(&Document::default());
    let now = Instant::now();
    let Ok(mut forwarder) = Forwarder::new(part) else { return false };
    let mut replied = false;
    for transport in [Transport::Udp, Transport::Tcp] {
        let limit = match Received::read(bytes, transport) {
            Received::Query(request) => request.limit(),
            Received::Rejected(_) | Received::Noise => 512,
        };
        let reply = match forwarder.receive(bytes, client.into(), transport, now) {
            Step::Drop => continue,
            Step::Reply(reply) => reply,
            Step::Forward(request) => {
                // The bytes once more as what an upstream says.
                let outcome =
                    Message::from_vec(bytes).map_or(Outcome::NoUpstream, |message| match forwarder
                        .judge(message)
                    {
                        Ok(reply) => Outcome::Answered(reply),
                        Err(why) => Outcome::Failed(why),
                    });
                forwarder.keep(&request.question, &outcome, forwarder.generation(), now);
                forwarder.finish(&request, &outcome, now)
            }
        };
        assert!(reply.len() <= limit, "{} bytes over {transport:?}", reply.len());
        assert_eq!(reply.get(..2), bytes.get(..2), "the id of the query comes back");
        assert!(Message::from_vec(&reply).is_ok(), "a reply can be read");
        replied = true;
    }
    replied
}
