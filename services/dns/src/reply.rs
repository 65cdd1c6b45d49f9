//! A reply before it is bytes, and how it becomes bytes that the client can take.

use hickory_proto::{
    op::{DEFAULT_MAX_PAYLOAD_LEN, Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record,
        rdata::{HINFO, opt::EdnsOption},
    },
};

use crate::request::{Request, Transport, UDP_PAYLOAD};

/// EDNS option code of extended errors (RFC 8914 section 2).
pub const EXTENDED_ERROR: u16 = 15;

/// Bytes of an upstream's EXTRA-TEXT that are passed on: with the longest name and nothing else they
/// fit into the smallest datagram.
const MAX_EXTRA_TEXT: usize = 120;

/// TTL of the minimal answer to ANY, seconds (RFC 8482 section 4.2 wants it long, to be cached).
const ANY_TTL: u32 = 3600;

/// Why, beyond the response code (RFC 8914).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT, for a person.
    pub text: String,
}

impl ExtendedError {
    /// An extended error.
    pub fn new(code: u16, text: &str) -> Option<Self> {
        Some(Self { code, text: text.to_owned() })
    }

    /// Reads the option's data; text that is not UTF-8 is left out, and a long one is cut.
    pub fn read(data: &[u8]) -> Option<Self> {
        let (code, text) = data.split_first_chunk::<2>()?;
        let text = std::str::from_utf8(text).unwrap_or_default();
        let text = text.get(..text.floor_char_boundary(MAX_EXTRA_TEXT)).unwrap_or_default();
        Some(Self { code: u16::from_be_bytes(*code), text: text.to_owned() })
    }

    fn option(&self) -> EdnsOption {
        let mut data = self.code.to_be_bytes().to_vec();
        data.extend_from_slice(self.text.as_bytes());
        EdnsOption::Unknown(EXTENDED_ERROR, data)
    }
}

/// The content of a reply, without what depends on the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// RCODE.
    pub code: ResponseCode,
    /// AA: from a zone that lives here.
    pub authoritative: bool,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section.
    pub authorities: Vec<Record>,
    /// Additional section without OPT.
    pub additionals: Vec<Record>,
    /// Sent to clients that speak EDNS.
    pub extended_error: Option<ExtendedError>,
}

impl Reply {
    /// A reply without records.
    pub fn error(code: ResponseCode, extended_error: Option<ExtendedError>) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            extended_error,
        }
    }

    /// The answer of a zone that lives here; `soa` makes it a negative one (RFC 2308).
    pub fn local(code: ResponseCode, answers: Vec<Record>, soa: Option<Record>) -> Self {
        Self {
            authoritative: true,
            answers,
            authorities: soa.into_iter().collect(),
            ..Self::error(code, None)
        }
    }

    /// The minimal answer to ANY (RFC 8482 section 4.2).
    pub fn any(name: Name) -> Self {
        let hinfo = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
        Self {
            answers: vec![Record::from_rdata(name, ANY_TTL, hinfo)],
            ..Self::error(ResponseCode::NoError, None)
        }
    }
}

impl Request {
    /// Encodes `reply` for this client: its id, its question in its case, the bits that it may
    /// see, and no more bytes than it can take.
    ///
    /// What does not fit into a datagram loses the additional section first, then (where there is
    /// an answer) the authority section; only then is it truncated: an empty answer with TC, which
    /// the client asks again over TCP (RFC 2181 section 9).
    pub fn encode(&self, reply: &Reply) -> Vec<u8> {
        let mut message = self.message(reply);
        let limit = self.limit();
        let mut bytes = message.to_vec();
        if too_long(&bytes, limit) {
            message.additionals.clear();
            bytes = message.to_vec();
        }
        if too_long(&bytes, limit) && !message.answers.is_empty() && !self.question.dnssec_ok {
            message.authorities.clear();
            bytes = message.to_vec();
        }
        if too_long(&bytes, limit) {
            bytes = message.truncate().to_vec();
        }
        bytes.unwrap_or_else(|error| {
            tracing::warn!(%error, name = %self.question.name, "reply cannot be encoded");
            self.fail()
        })
    }

    /// Bytes that this client takes at most.
    pub(crate) fn limit(&self) -> usize {
        match self.transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                usize::from(self.edns.map_or(512, |edns| edns.payload.clamp(512, UDP_PAYLOAD)))
            }
        }
    }

    fn message(&self, reply: &Reply) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.question.checking_disabled;
        message.metadata.authoritative = reply.authoritative;
        // AD stays 0: nothing was validated here, and the way to the upstream is not secure (RFC
        // 4035 section 4.9.3).
        message.metadata.response_code = reply.code;
        message.queries.push(Query::query(self.question.name.clone(), self.question.query_type));
        message.answers.clone_from(&reply.answers);
        for record in &mut message.answers {
            if record.name == self.question.name {
                record.name.clone_from(&self.question.name);
            }
        }
        message.authorities.clone_from(&reply.authorities);
        message.additionals.clone_from(&reply.additionals);
        if let Some(client) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(client.dnssec_ok);
            if let Some(error) = &reply.extended_error {
                edns.options_mut().insert(error.option());
            }
            message.set_edns(edns);
        }
        message
    }

    /// SERVFAIL in a bare header.
    fn fail(&self) -> Vec<u8> {
        let [high, low] = self.id.to_be_bytes();
        let code = ResponseCode::ServFail.low();
        vec![
            high,
            low,
            0x80 | u8::from(self.recursion_desired),
            0x80 | code,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]
    }
}

fn too_long<E>(bytes: &Result<Vec<u8>, E>, limit: usize) -> bool {
    bytes.as_ref().is_ok_and(|bytes| bytes.len() > limit)
}

/// Whether every record is of class IN: nothing else was asked for.
pub(crate) fn all_in(message: &Message) -> bool {
    message.all_sections().all(|record| record.dns_class == DNSClass::IN)
}

const _: () = assert!(DEFAULT_MAX_PAYLOAD_LEN == UDP_PAYLOAD);

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{RecordType, rdata::A};

    use super::*;
    use crate::request::{ClientEdns, Question};

    fn request(transport: Transport, edns: Option<ClientEdns>) -> Request {
        Request {
            id: 7,
            recursion_desired: true,
            question: Question {
                name: Name::from_ascii("BIG.example.").unwrap(),
                query_type: RecordType::A,
                dnssec_ok: edns.is_some_and(|e| e.dnssec_ok),
                checking_disabled: false,
            },
            edns,
            transport,
        }
    }

    fn big(answers: u8, additionals: u8) -> Reply {
        let record = |n| {
            let name = Name::from_ascii("big.example.").unwrap();
            Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, n)))
        };
        Reply {
            answers: (0..answers).map(record).collect(),
            additionals: (0..additionals).map(record).collect(),
            ..Reply::error(ResponseCode::NoError, ExtendedError::new(3, "stale"))
        }
    }

    fn decode(bytes: &[u8]) -> Message {
        Message::from_vec(bytes).unwrap()
    }

    #[test]
    fn a_big_answer_is_truncated_over_udp_and_whole_over_tcp() {
        let reply = decode(&request(Transport::Udp, None).encode(&big(60, 0)));
        assert!(reply.truncation && reply.answers.is_empty());
        assert_eq!(reply.queries[0].name.to_ascii(), "BIG.example.");
        assert!(reply.edns.is_none());
        let reply = decode(&request(Transport::Tcp, None).encode(&big(60, 0)));
        assert!(!reply.truncation);
        assert_eq!(reply.answers.len(), 60);
        assert_eq!(reply.answers[0].name.to_ascii(), "BIG.example.", "the owner in the same case");
    }

    #[test]
    fn the_client_s_payload_counts_up_to_ours() {
        let edns = |payload| Some(ClientEdns { payload, dnssec_ok: false });
        let bytes = request(Transport::Udp, edns(4096)).encode(&big(60, 0));
        assert!(bytes.len() <= 1232 && !decode(&bytes).truncation);
        let bytes = request(Transport::Udp, edns(4096)).encode(&big(90, 0));
        assert!(decode(&bytes).truncation);
    }

    #[test]
    fn additional_records_go_before_the_answer_is_truncated() {
        let reply = decode(&request(Transport::Udp, None).encode(&big(10, 50)));
        assert!(!reply.truncation);
        assert_eq!((reply.answers.len(), reply.additionals.len()), (10, 0));
    }

    #[test]
    fn an_extended_error_goes_to_clients_with_edns() {
        let edns = Some(ClientEdns { payload: 1232, dnssec_ok: true });
        let reply = decode(&request(Transport::Udp, edns).encode(&big(1, 0)));
        let edns = reply.edns.unwrap();
        assert!(edns.flags().dnssec_ok);
        let option = edns.option(EXTENDED_ERROR.into()).unwrap();
        let EdnsOption::Unknown(15, data) = option else { panic!("{option:?}") };
        assert_eq!(ExtendedError::read(data), ExtendedError::new(3, "stale"));
    }
}
