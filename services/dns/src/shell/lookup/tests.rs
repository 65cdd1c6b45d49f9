//! Lookups with too few places, and with an upstream that does half of its work.

use std::sync::Arc;

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, rdata::A},
};
use portcullis_model::UpstreamAddress;
use tokio::net::UdpSocket;

use super::*;
use crate::{
    forwarder::Forwarder,
    request::{Request, Transport},
    shell::ATTEMPTS,
    zone::tests::part,
};

fn shared(server: SocketAddr) -> Arc<Shared> {
    let mut part = part();
    part.upstreams = vec![UpstreamAddress(server)];
    Shared::new(Forwarder::new(part).unwrap())
}

fn question() -> Question {
    Question {
        name: Name::from_ascii("www.example.com.").unwrap(),
        query_type: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
    }
}

/// Else they would pile up for as long as the upstreams are silent and clients ask.
#[tokio::test]
async fn an_attempt_that_finds_no_place_ends_with_its_query() {
    let shared = shared("192.0.2.1:53".parse().unwrap());
    assert_eq!(shared.attempts.forget_permits(ATTEMPTS), ATTEMPTS);
    assert_eq!(*shared.lookup(&question()).await, Outcome::Failed(None));
    let ended = async {
        // Each attempt holds on to what it shares.
        while Arc::strong_count(&shared) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), ended).await.is_ok());
    assert!(shared.forwarder().status().upstreams[0].healthy, "it was not asked");
}

/// RFC 8767 section 5: the client is not to wait until it gives up itself.
#[tokio::test]
async fn an_old_answer_does_not_wait_for_the_last_attempt() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let shared = shared(silent.local_addr().unwrap());
    let question = question();
    let data = RData::A(A::new(192, 0, 2, 1));
    let answer = Reply {
        answers: vec![Record::from_rdata(question.name.clone(), 1, data)],
        ..Reply::error(ResponseCode::NoError, None)
    };
    {
        let mut forwarder = shared.forwarder();
        let (generation, outcome) = (forwarder.generation(), Outcome::Answered(answer));
        forwarder.keep(&question, &outcome, generation, Instant::now());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let request = Request {
        id: 1,
        recursion_desired: true,
        question: question.clone(),
        edns: None,
        transport: Transport::Udp,
    };
    tokio::select! {
        reply = shared.answer(&request) => {
            assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 1);
        }
        outcome = shared.lookup(&question) => panic!("before the reply: {outcome:?}"),
    }
    // The lookup goes on, and its end is known.
    assert_eq!(*shared.lookup(&question).await, Outcome::Failed(None));
}

#[tokio::test]
async fn a_server_that_answers_by_udp_alone_is_not_silent() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let shared = shared(socket.local_addr().unwrap());
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            // A response that is truncated.
            buffer[2] |= 0x82;
            socket.send_to(&buffer[..length], client).await.unwrap();
        }
    });
    assert_eq!(*shared.lookup(&question()).await, Outcome::Failed(None));
    assert!(shared.forwarder().status().upstreams[0].healthy);
}
