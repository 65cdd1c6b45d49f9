//! A client's query: what is accepted as one, and how everything else is answered.

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};

use crate::reply::{ExtendedError, Reply};

/// Length of the header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// Records that a query may carry behind its question: OPT, and TSIG or SIG(0), with some room.
const MAX_ADDITIONAL: u16 = 4;

/// UDP payload that we send at most and announce to upstreams, bytes (DNS flag day 2020; RFC
/// 9715): it passes every link without fragments.
pub const UDP_PAYLOAD: u16 = 1232;

/// How a query came in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// One message of a connection (RFC 7766).
    Tcp,
}

/// EDNS of a query (RFC 6891).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientEdns {
    /// UDP payload that the client can take, bytes.
    pub payload: u16,
    /// DO: DNSSEC records are wanted (RFC 3225).
    pub dnssec_ok: bool,
}

/// What is asked, apart from who asks: two queries with equal questions get the same answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// QNAME, in the client's case.
    pub name: Name,
    /// QTYPE.
    pub query_type: RecordType,
    /// DO: the answer is to contain DNSSEC records.
    pub dnssec_ok: bool,
    /// CD: the answer may fail validation (RFC 4035 section 3.2.2).
    pub checking_disabled: bool,
}

/// A standard query of class IN with one question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Message id, returned in the reply.
    pub id: u16,
    /// RD, returned in the reply; without it only local names are answered.
    pub recursion_desired: bool,
    /// What is asked.
    pub question: Question,
    /// The client's EDNS, if it speaks it.
    pub edns: Option<ClientEdns>,
    /// How it came in.
    pub transport: Transport,
}

/// What a received message is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Received {
    /// Not a query at all (too short for a header, or a response): no answer, since an answer to
    /// an answer is how two servers shout at each other for ever.
    Noise,
    /// Not acceptable; the encoded reply says why.
    Rejected(Vec<u8>),
    /// A query to answer.
    Query(Request),
}

impl Received {
    /// Reads a message.
    pub fn read(bytes: &[u8], transport: Transport) -> Self {
        let Some(header) = RawHeader::read(bytes) else { return Self::Noise };
        if header.response {
            return Self::Noise;
        }
        let reject = |code| Self::Rejected(header.reject(code));
        if header.opcode != 0 {
            return reject(ResponseCode::NotImp);
        }
        // RFC 9619: QDCOUNT is 1. The counts are checked before the parser reserves memory for
        // what they promise.
        if header.questions != 1
            || header.answers != 0
            || header.authorities != 0
            || header.additionals > MAX_ADDITIONAL
        {
            return reject(ResponseCode::FormErr);
        }
        let Ok(message) = Message::from_vec(bytes) else { return reject(ResponseCode::FormErr) };
        let Some(query) = message.queries.into_iter().next() else {
            return reject(ResponseCode::FormErr);
        };
        let edns = message.edns.as_ref().map(|edns| ClientEdns {
            payload: edns.max_payload().max(512),
            dnssec_ok: edns.flags().dnssec_ok,
        });
        let mut name = query.name;
        name.set_fqdn(true);
        let request = Request {
            id: header.id,
            recursion_desired: message.metadata.recursion_desired,
            question: Question {
                name,
                query_type: query.query_type,
                dnssec_ok: edns.is_some_and(|edns| edns.dnssec_ok),
                checking_disabled: message.metadata.checking_disabled,
            },
            edns,
            transport,
        };
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Self::Rejected(request.encode(&Reply::error(ResponseCode::BADVERS, None)));
        }
        if query.query_class != DNSClass::IN {
            // The question goes back with its own class, which `Request` does not have.
            return reject(ResponseCode::Refused);
        }
        match unsupported_type(request.question.query_type) {
            Some((code, why)) => {
                Self::Rejected(request.encode(&Reply::error(code, ExtendedError::new(21, why))))
            }
            None => Self::Query(request),
        }
    }
}

/// Types that are no data of a name: they ask for a transfer, or belong to the protocol itself.
fn unsupported_type(query_type: RecordType) -> Option<(ResponseCode, &'static str)> {
    match u16::from(query_type) {
        0 | 41 => Some((ResponseCode::FormErr, "not a query type")),
        251 | 252 => Some((ResponseCode::Refused, "no zone transfers")),
        249 | 250 | 253 | 254 => Some((ResponseCode::NotImp, "query type not supported")),
        _ => None,
    }
}

/// The header alone, to judge a message before it is parsed.
struct RawHeader {
    id: u16,
    response: bool,
    opcode: u8,
    recursion_desired: bool,
    checking_disabled: bool,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl RawHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[i1, i2, f1, f2, q1, q2, a1, a2, n1, n2, d1, d2] = bytes.first_chunk::<HEADER>()?;
        Some(Self {
            id: u16::from_be_bytes([i1, i2]),
            response: f1 & 0x80 != 0,
            opcode: (f1 >> 3) & 0x0f,
            recursion_desired: f1 & 0x01 != 0,
            checking_disabled: f2 & 0x10 != 0,
            questions: u16::from_be_bytes([q1, q2]),
            answers: u16::from_be_bytes([a1, a2]),
            authorities: u16::from_be_bytes([n1, n2]),
            additionals: u16::from_be_bytes([d1, d2]),
        })
    }

    /// A reply of a header only: what the message asks is not known.
    fn reject(&self, code: ResponseCode) -> Vec<u8> {
        let [i1, i2] = self.id.to_be_bytes();
        let f1 = 0x80 | (self.opcode << 3) | u8::from(self.recursion_desired);
        let f2 = 0x80 | (u8::from(self.checking_disabled) << 4) | (code.low() & 0x0f);
        vec![i1, i2, f1, f2, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, MessageType, OpCode, Query};
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, query_type: RecordType) -> Message {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), query_type));
        message
    }

    fn read(message: &Message) -> Received {
        Received::read(&message.to_vec().unwrap(), Transport::Udp)
    }

    fn rejected(message: &Message) -> ResponseCode {
        match read(message) {
            Received::Rejected(reply) => {
                let reply = Message::from_vec(&reply).unwrap();
                assert_eq!(reply.id, 0x1234);
                assert_eq!(reply.message_type, MessageType::Response);
                reply.response_code
            }
            other => panic!("not rejected: {other:?}"),
        }
    }

    #[test]
    fn a_query_keeps_its_case_and_bits() {
        let mut message = query("WwW.Example.COM.", RecordType::AAAA);
        message.metadata.checking_disabled = true;
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(true);
        message.set_edns(edns);
        let Received::Query(request) = read(&message) else { panic!() };
        assert_eq!(request.question.name.to_ascii(), "WwW.Example.COM.");
        assert!(request.question.dnssec_ok && request.question.checking_disabled);
        assert_eq!(request.edns, Some(ClientEdns { payload: 4096, dnssec_ok: true }));
    }

    #[test]
    fn responses_and_fragments_of_a_header_get_no_answer() {
        let mut message = query("a.example.", RecordType::A);
        message.metadata.message_type = MessageType::Response;
        assert_eq!(read(&message), Received::Noise);
        assert_eq!(Received::read(&[0; 11], Transport::Udp), Received::Noise);
    }

    #[test]
    fn what_is_not_a_standard_query_is_rejected_with_its_code() {
        let mut notify = query("a.example.", RecordType::SOA);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(rejected(&notify), ResponseCode::NotImp);

        let mut chaos = query("version.bind.", RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        assert_eq!(rejected(&chaos), ResponseCode::Refused);

        let mut two = query("a.example.", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
        assert_eq!(rejected(&two), ResponseCode::FormErr);

        assert_eq!(rejected(&query("a.example.", RecordType::AXFR)), ResponseCode::Refused);
        assert_eq!(rejected(&query("a.example.", RecordType::from(253))), ResponseCode::NotImp);

        let mut version = query("a.example.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        version.set_edns(edns);
        // BADVERS; the code is that of BADSIG too, which stands in TSIG alone.
        assert_eq!(u16::from(rejected(&version)), 16);
    }

    #[test]
    fn counts_that_lie_are_refused_before_parsing() {
        let mut bytes = query("a.example.", RecordType::A).to_vec().unwrap();
        bytes[10] = 0xff;
        assert!(matches!(Received::read(&bytes, Transport::Udp), Received::Rejected(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_never_amplified(
            bytes in proptest::collection::vec(any::<u8>(), 0..600)
        ) {
            if let Received::Rejected(reply) = Received::read(&bytes, Transport::Udp) {
                // OPT and its extended error are the only addition to what was sent.
                prop_assert!(reply.len() <= bytes.len() + 64);
                prop_assert_eq!(&reply[..2], &bytes[..2]);
            }
        }
    }
}
