//! One question to one server.
//!
//! hickory's client picks a random id and source port for each datagram and takes an answer only
//! if both fit (RFC 5452). The name is asked in lower case: what one client typed does not show in
//! the cached answer of another. Case is not mixed as a further guard, since the mixture would come
//! back in the records' names through compression.

use std::{net::SocketAddr, time::Duration};

use hickory_net::{
    DnsHandle, NetError,
    runtime::TokioRuntimeProvider,
    tcp::TcpClientStream,
    udp::UdpClientStream,
    xfer::{DnsRequestSender, FirstAnswer},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, Query, ResponseCode};

use crate::request::{Question, UDP_PAYLOAD};

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server said nothing, or cannot be reached.
    Silent(NetError),
    /// It is there, but what it said is no answer, and it did not complete it.
    Useless(NetError),
}

/// Asks `server` by UDP, and by TCP if the answer was truncated.
///
/// # Errors
/// If there is no answer within `limit`, or none that belongs to the question.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    limit: Duration,
) -> Result<Message, Fault> {
    let mut with_edns = true;
    let first = over_udp(server, request(question, with_edns), limit).await;
    let mut message = first.map_err(Fault::Silent)?;
    if unknown_edns(&message) {
        with_edns = false;
        let second = over_udp(server, request(question, with_edns), limit).await;
        message = second.map_err(Fault::Useless)?;
    }
    if message.metadata.truncation {
        let whole = over_tcp(server, request(question, with_edns), limit).await;
        message = whole.map_err(Fault::Useless)?;
    }
    let same = message
        .queries
        .iter()
        .any(|query| query.name == question.name && query.query_type == question.query_type);
    if same {
        Ok(message)
    } else {
        Err(Fault::Useless(NetError::Message("answer to another question")))
    }
}

/// Whether the server stumbled over EDNS (RFC 6891 section 7).
fn unknown_edns(message: &Message) -> bool {
    let code = message.metadata.response_code;
    message.edns.is_none() && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
}

fn request(question: &Question, use_edns: bool) -> DnsRequest {
    let mut options = DnsRequestOptions::default();
    options.use_edns = use_edns;
    options.edns_payload_len = UDP_PAYLOAD;
    options.edns_set_dnssec_ok = question.dnssec_ok;
    options.recursion_desired = true;
    let query = Query::query(question.name.to_lowercase(), question.query_type);
    let mut request = DnsRequest::from_query(query, options);
    request.metadata.checking_disabled = question.checking_disabled;
    request
}

async fn over_udp(
    server: SocketAddr,
    request: DnsRequest,
    limit: Duration,
) -> Result<Message, NetError> {
    // Attempts follow each other by our own schedule, so one datagram each.
    let mut stream = UdpClientStream::builder(server, TokioRuntimeProvider::new())
        .with_timeout(Some(limit))
        .with_max_retries(1)
        .build();
    Ok(stream.send_message(request).first_answer().await?.into_message())
}

async fn over_tcp(
    server: SocketAddr,
    request: DnsRequest,
    limit: Duration,
) -> Result<Message, NetError> {
    // The task that drives the connection lives as long as its provider.
    let provider = TokioRuntimeProvider::new();
    let exchange = async {
        let exchange =
            TcpClientStream::exchange(server, None, limit, Some(1), provider.clone()).await?;
        Ok(exchange.send(request).first_answer().await?.into_message())
    };
    tokio::time::timeout(limit, exchange).await.unwrap_or(Err(NetError::Timeout))
}
