//! One question to one server.
//!
//! hickory's client picks a random id and source port for each datagram, mixes the case of the
//! name (draft-vixie-dnsext-dns0x20) and takes an answer only if all of these match.

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

/// Asks `server` by UDP, and by TCP if the answer was truncated or its case was not ours.
///
/// # Errors
/// If there is no answer within `limit`, or none that belongs to the question.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    limit: Duration,
) -> Result<Message, NetError> {
    let message = match over_udp(server, request(question, true, true), limit).await {
        Ok(answer) if answer.metadata.truncation => {
            over_tcp(server, request(question, true, false), limit).await?
        }
        Err(NetError::QueryCaseMismatch) => {
            over_tcp(server, request(question, true, false), limit).await?
        }
        // A server that does not know EDNS (RFC 6891 section 7).
        Ok(answer)
            if answer.edns.is_none()
                && matches!(
                    answer.metadata.response_code,
                    ResponseCode::FormErr | ResponseCode::NotImp
                ) =>
        {
            let answer = over_udp(server, request(question, false, true), limit).await?;
            if answer.metadata.truncation {
                over_tcp(server, request(question, false, false), limit).await?
            } else {
                answer
            }
        }
        other => other?,
    };
    let same = message
        .queries
        .iter()
        .any(|query| query.name == question.name && query.query_type == question.query_type);
    if same { Ok(message) } else { Err(NetError::Message("answer to another question")) }
}

fn request(question: &Question, use_edns: bool, mix_case: bool) -> DnsRequest {
    let mut options = DnsRequestOptions::default();
    options.use_edns = use_edns;
    options.edns_payload_len = UDP_PAYLOAD;
    options.edns_set_dnssec_ok = question.dnssec_ok;
    options.recursion_desired = true;
    options.case_randomization = mix_case;
    let query = Query::query(question.name.clone(), question.query_type);
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
    let exchange = async {
        let provider = TokioRuntimeProvider::new();
        let exchange = TcpClientStream::exchange(server, None, limit, Some(1), provider).await?;
        Ok(exchange.send(request).first_answer().await?.into_message())
    };
    tokio::time::timeout(limit, exchange).await.unwrap_or(Err(NetError::Timeout))
}
