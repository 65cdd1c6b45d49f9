//! The request path and the answer path in one call each, for fuzzing.

use std::{net::Ipv4Addr, time::Instant};

use hickory_proto::op::Message;
use portcullis_model::{Document, part::DnsPart};

use crate::{
    forwarder::{Forwarder, Outcome, Step},
    rebinding,
    request::{ClientEdns, Question, Received, Request, Transport},
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
            Step::Forward(request) => forwarder.finish(&request, &Outcome::Failed(None), now),
        };
        check(&reply, limit);
        assert_eq!(reply.get(..2), bytes.get(..2), "the id of the query comes back");
        replied = true;
    }
    replied
}

/// Takes raw bytes for what an upstream says to the question in them: judges and keeps it, and
/// checks what clients get of it then and from the cache. Returns whether it is an answer.
pub fn exercise_answer(bytes: &[u8]) -> bool {
    let Ok(message) = Message::from_vec(bytes) else { return false };
    // Nothing else is taken from a server.
    let Some(query) = message.queries.first() else { return false };
    let question = Question {
        name: query.name.clone(),
        query_type: query.query_type,
        dnssec_ok: false,
        checking_disabled: false,
    };
    let part = DnsPart::of(&Document::default());
    let guarded = rebinding::guarded(&part);
    let Ok(mut forwarder) = Forwarder::new(part) else { return false };
    let now = Instant::now();
    let outcome = match forwarder.judge(message) {
        Ok(reply) => {
            assert_eq!(rebinding::find(&reply.answers, &guarded), None);
            Outcome::Answered(reply)
        }
        Err(why) => Outcome::Failed(why),
    };
    forwarder.keep(&question, &outcome, forwarder.generation(), now);
    for (transport, payload) in
        [(Transport::Udp, None), (Transport::Udp, Some(4096)), (Transport::Tcp, None)]
    {
        let edns = payload.map(|payload| ClientEdns { payload, dnssec_ok: false });
        let question = question.clone();
        let request = Request { id: 7, recursion_desired: true, question, edns, transport };
        check(&forwarder.finish(&request, &outcome, now), request.limit());
        if let Some(cached) = forwarder.old_reply(&request, now) {
            check(&cached, request.limit());
        }
    }
    matches!(outcome, Outcome::Answered(_))
}

fn check(reply: &[u8], limit: usize) {
    assert!(reply.len() <= limit, "{} bytes of {limit}", reply.len());
    assert!(Message::from_vec(reply).is_ok(), "a reply can be read");
}
