use std::time::Duration;

use hickory_proto::{
    op::{Edns, MessageType, OpCode, Query},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use proptest::prelude::*;

use super::*;
use crate::zone::tests::{lease, part};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 77, 100));

fn forwarder() -> Forwarder {
    Forwarder::new(part()).unwrap()
}

fn query(name: &str, query_type: RecordType) -> Message {
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), query_type));
    message.set_edns(Edns::new());
    message
}

fn receive(forwarder: &mut Forwarder, message: &Message, now: Instant) -> Step {
    forwarder.receive(&message.to_vec().unwrap(), CLIENT, Transport::Udp, now)
}

fn reply(step: Step) -> Message {
    match step {
        Step::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("no reply: {other:?}"),
    }
}

fn forwarded(step: Step) -> Request {
    match step {
        Step::Forward(request) => request,
        other => panic!("not forwarded: {other:?}"),
    }
}

fn upstream_answer(name: &str, address: [u8; 4], ttl: u32) -> Message {
    let name = Name::from_ascii(name).unwrap();
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authentic_data = true;
    message.add_query(Query::query(name.clone(), RecordType::A));
    message.add_answer(Record::from_rdata(name, ttl, RData::A(A(address.into()))));
    message
}

#[test]
fn a_forwarded_answer_is_cached_and_counts_down() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let message = query("Www.Example.com.", RecordType::A);
    let request = forwarded(receive(&mut forwarder, &message, now));
    let judged = forwarder.judge(upstream_answer("www.example.com.", [192, 0, 2, 1], 60)).unwrap();
    let outcome = Outcome::Answered(judged);
    forwarder.keep(&request.question, &outcome, forwarder.generation(), now);
    let first = Message::from_vec(&forwarder.finish(&request, &outcome, now)).unwrap();
    assert_eq!(first.id, 99);
    assert_eq!(first.queries[0].name.to_ascii(), "Www.Example.com.");
    assert!(first.recursion_available && !first.authoritative && !first.authentic_data);
    assert_eq!(first.answers[0].ttl, 60);

    let later = query("www.example.com.", RecordType::A);
    let second = reply(receive(&mut forwarder, &later, now + Duration::from_secs(20)));
    assert_eq!(second.answers[0].ttl, 40);
    let status = forwarder.status();
    assert_eq!((status.queries, status.cache_hits, status.forwarded), (2, 1, 1));
}

#[test]
fn without_recursion_desired_nothing_is_forwarded_nor_shown_from_the_cache() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let mut message = query("www.example.com.", RecordType::A);
    let request = forwarded(receive(&mut forwarder, &message, now));
    let judged = forwarder.judge(upstream_answer("www.example.com.", [192, 0, 2, 1], 60)).unwrap();
    forwarder.keep(&request.question, &Outcome::Answered(judged), forwarder.generation(), now);
    message.metadata.recursion_desired = false;
    let refused = reply(receive(&mut forwarder, &message, now));
    assert_eq!(refused.response_code, ResponseCode::Refused);
    let mut local = query("nas.lan.", RecordType::A);
    local.metadata.recursion_desired = false;
    assert_eq!(reply(receive(&mut forwarder, &local, now)).answers.len(), 1);
}

#[test]
fn an_answer_that_points_into_the_lan_is_withheld() {
    let forwarder = forwarder();
    let judged = forwarder.judge(upstream_answer("evil.example.", [192, 168, 77, 5], 60)).unwrap();
    assert!(judged.answers.is_empty());
    assert_eq!(judged.extended_error.unwrap().code, 15);
}

#[test]
fn without_upstream_the_failure_says_so_and_old_answers_are_given() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let message = query("www.example.com.", RecordType::A);
    let request = forwarded(receive(&mut forwarder, &message, now));
    let failed = forwarder.finish(&request, &Outcome::NoUpstream, now);
    let failed = Message::from_vec(&failed).unwrap();
    assert_eq!(failed.response_code, ResponseCode::ServFail);
    assert_eq!(extended_error(&failed).unwrap().code, 14);

    let judged = forwarder.judge(upstream_answer("www.example.com.", [192, 0, 2, 1], 60)).unwrap();
    forwarder.keep(&request.question, &Outcome::Answered(judged), forwarder.generation(), now);
    let later = now + Duration::from_secs(100);
    let request = forwarded(receive(&mut forwarder, &message, later));
    let stale = forwarder.finish(&request, &Outcome::NoUpstream, later);
    let stale = Message::from_vec(&stale).unwrap();
    assert_eq!(stale.answers.len(), 1);
    assert_eq!(extended_error(&stale).unwrap().code, 3);
}

#[test]
fn failures_are_remembered_with_the_upstream_s_reason() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let message = query("broken.example.", RecordType::A);
    let request = forwarded(receive(&mut forwarder, &message, now));
    let why = ExtendedError::new(6, "DNSSEC bogus");
    forwarder.keep(&request.question, &Outcome::Failed(why), forwarder.generation(), now);
    let again = reply(receive(&mut forwarder, &message, now + Duration::from_millis(500)));
    assert_eq!(again.response_code, ResponseCode::ServFail);
    assert_eq!(extended_error(&again).unwrap().code, 6);
    forwarded(receive(&mut forwarder, &message, now + Duration::from_secs(3)));
}

#[test]
fn lame_and_strange_answers_go_to_the_next_server() {
    let forwarder = forwarder();
    let good = upstream_answer("a.example.", [192, 0, 2, 1], 60);
    let mut refused = good.clone();
    refused.metadata.response_code = ResponseCode::Refused;
    let mut truncated = good.clone();
    truncated.metadata.truncation = true;
    let mut chaos = good.clone();
    chaos.answers[0].dns_class = hickory_proto::rr::DNSClass::CH;
    for message in [refused, truncated, chaos] {
        assert!(forwarder.judge(message).is_err());
    }
    assert!(forwarder.judge(good).is_ok());
}

#[test]
fn only_the_router_s_networks_are_served() {
    let forwarder = forwarder();
    let admits = |source: &str, destination: &str| {
        forwarder.admits(source.parse().unwrap(), destination.parse().unwrap())
    };
    assert!(admits("192.168.77.9", "192.168.77.1"));
    assert!(admits("192.168.77.9", "192.168.78.1"));
    assert!(admits("127.0.0.1", "127.0.0.1"));
    assert!(!admits("203.0.113.9", "192.168.77.1"));
    assert!(!admits("192.168.77.9", "203.0.113.1"));
    assert!(!admits("2001:db8::1", "192.168.77.1"));
}

#[test]
fn leases_and_configuration_change_names_at_once() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let message = query("phone.lan.", RecordType::A);
    assert_eq!(reply(receive(&mut forwarder, &message, now)).response_code, ResponseCode::NXDomain);
    forwarder.set_leases(vec![lease("phone", "192.168.77.50", "bound")]).unwrap();
    assert_eq!(reply(receive(&mut forwarder, &message, now)).answers.len(), 1);
    forwarder.apply(DnsPart { domain: "home".to_owned(), ..part() }).unwrap();
    let message = query("phone.home.", RecordType::A);
    assert_eq!(reply(receive(&mut forwarder, &message, now)).answers.len(), 1);
    assert!(forwarder.apply(DnsPart { domain: "..".to_owned(), ..part() }).is_err());
    assert_eq!(reply(receive(&mut forwarder, &message, now)).answers.len(), 1, "old one in force");
}

#[test]
fn the_cache_outlives_an_outage_but_not_a_change_of_servers() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let wan = |server: &str| {
        let (address, dns) = (Some("203.0.113.5/24".to_owned()), vec![server.to_owned()]);
        vec![WanLease { interface: "wan".to_owned(), address, dns, ..WanLease::default() }]
    };
    assert!(forwarder.set_wan_leases(wan("192.0.2.1")));
    let message = query("www.example.com.", RecordType::A);
    let request = forwarded(receive(&mut forwarder, &message, now));
    let judged = forwarder.judge(upstream_answer("www.example.com.", [192, 0, 2, 1], 60)).unwrap();
    forwarder.keep(&request.question, &Outcome::Answered(judged), forwarder.generation(), now);
    assert!(forwarder.set_wan_leases(Vec::new()));
    assert!(forwarder.set_wan_leases(wan("192.0.2.1")));
    assert!(!forwarder.set_wan_leases(wan("192.0.2.1")));
    reply(receive(&mut forwarder, &message, now));
    let asked = forwarder.generation();
    let judged = forwarder.judge(upstream_answer("www.example.com.", [192, 0, 2, 1], 60)).unwrap();
    assert!(forwarder.set_wan_leases(wan("192.0.2.2")));
    forwarded(receive(&mut forwarder, &message, now));
    // Nor does an answer of the former server that comes only now.
    forwarder.keep(&request.question, &Outcome::Answered(judged), asked, now);
    forwarded(receive(&mut forwarder, &message, now));
}

#[test]
fn a_reason_as_long_as_an_upstream_likes_fits_into_a_datagram() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let name = format!("{}{}.", format!("{}.", "a".repeat(61)).repeat(3), "b".repeat(60));
    let mut message = query(&name, RecordType::A);
    if let Some(edns) = &mut message.edns {
        edns.set_max_payload(512);
    }
    let request = forwarded(receive(&mut forwarder, &message, now));
    let reason = [&[0, 22], "\u{1f512}".repeat(300).as_bytes()].concat();
    let why = ExtendedError::read(&reason);
    assert!(why.as_ref().is_some_and(|why| why.text.starts_with('\u{1f512}')), "{why:?}");
    let bytes = forwarder.finish(&request, &Outcome::Failed(why), now);
    assert!(bytes.len() <= 512, "{}", bytes.len());
}

#[test]
fn no_network_behind_the_router_is_pointed_into() {
    let mut document = portcullis_model::Document::default();
    let lab = serde_json::json!({
        "zone": "lab", "ports": ["lab0"],
        "ipv4": { "method": "static", "addresses": ["10.9.0.1/24"] },
    });
    document.interfaces.insert("lab".parse().unwrap(), serde_json::from_value(lab).unwrap());
    // A zone that may ask the router for nothing, DNS included.
    document.firewall.zones.insert("lab".parse().unwrap(), portcullis_model::Zone::default());
    let forwarder = Forwarder::new(DnsPart::of(&document)).unwrap();
    let judged = forwarder.judge(upstream_answer("evil.example.", [10, 9, 0, 7], 60)).unwrap();
    assert!(judged.answers.is_empty());
    assert!(!forwarder.admits("10.9.0.7".parse().unwrap(), "10.9.0.1".parse().unwrap()));
    // Nor is the router asked there by itself.
    document.dns.upstreams = ["10.9.0.1", "10.9.0.2"].map(|ip| ip.parse().unwrap()).into();
    let circle = Forwarder::new(DnsPart::of(&document)).unwrap();
    let upstreams: Vec<_> = circle.upstreams.addresses().map(|a| a.to_string()).collect();
    assert_eq!(upstreams, ["10.9.0.2:53"]);
    let judged = forwarder.judge(upstream_answer("vpn.example.", [10, 8, 0, 7], 60)).unwrap();
    assert_eq!(judged.answers.len(), 1);
}

#[test]
fn dnssec_and_unknown_records_pass_unchanged() {
    let (mut forwarder, now) = (forwarder(), Instant::now());
    let mut secure = query("www.example.com.", RecordType::A);
    if let Some(edns) = &mut secure.edns {
        edns.set_dnssec_ok(true);
    }
    let request = forwarded(receive(&mut forwarder, &secure, now));
    assert!(request.question.dnssec_ok);

    // RRSIG over A by example.com, DS, DNSKEY, NSEC and a type that nobody knows.
    let rrsig =
        b"\0\x01\x0d\x03\0\0\x01\x2c\x70\0\0\0\x6f\0\0\0\xab\xcd\x07example\x03com\0signature";
    let rdata: [(u16, &[u8]); 5] = [
        (46, rrsig),
        (43, b"\xab\xcd\x0d\x02digest-digest-digest-digest-dige"),
        (48, b"\x01\x01\x03\x0dpublic-key"),
        (47, b"\x03zzz\x07example\x03com\0\0\x06\x40\x01\0\0\0\x03"),
        (65_280, b"\x01\x02\x03anything"),
    ];
    let mut bytes = upstream_answer("www.example.com.", [192, 0, 2, 1], 60).to_vec().unwrap();
    for (record_type, data) in rdata {
        bytes.extend(b"\xc0\x0c");
        bytes.extend(record_type.to_be_bytes());
        bytes.extend(b"\0\x01\0\0\0\x3c");
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
    }
    bytes[7] = 6;

    let judged = forwarder.judge(Message::from_vec(&bytes).unwrap()).unwrap();
    forwarder.keep(&request.question, &Outcome::Answered(judged), forwarder.generation(), now);
    let Step::Reply(cached) = receive(&mut forwarder, &secure, now) else { panic!("not cached") };
    for (record_type, data) in rdata {
        let found = cached.windows(data.len()).any(|window| window == data);
        assert!(found, "type {record_type}: {cached:?}");
    }
}

proptest! {
    #[test]
    fn every_query_gets_a_reply_with_its_id_and_question(
        id: u16,
        labels in proptest::collection::vec("[a-zA-Z0-9_][a-zA-Z0-9_-]{0,11}", 0..6),
        suffix in prop::sample::select(vec![
            "", "lan", "in-addr.arpa", "77.168.192.in-addr.arpa", "ip6.arpa", "local", "com",
        ]),
        query_type: u16,
        payload: u16,
        tcp: bool,
    ) {
        let mut name = labels.join(".");
        if !suffix.is_empty() {
            name = format!("{name}{}{suffix}", if name.is_empty() { "" } else { "." });
        }
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        let mut message = query(".", RecordType::from(query_type));
        message.queries[0].name = name.clone();
        message.metadata.id = id;
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
        let mut forwarder = forwarder();
        let now = Instant::now();
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let bytes = match forwarder.receive(&message.to_vec().unwrap(), CLIENT, transport, now) {
            Step::Reply(bytes) => bytes,
            Step::Forward(request) => {
                prop_assert!(!name.to_ascii().to_lowercase().ends_with(".lan."));
                prop_assert!(!name.to_ascii().ends_with("168.192.in-addr.arpa."));
                forwarder.finish(&request, &Outcome::Failed(None), now)
            }
            Step::Drop => return Err(TestCaseError::fail("dropped")),
        };
        let reply = Message::from_vec(&bytes).unwrap();
        prop_assert_eq!(reply.id, id);
        prop_assert!(tcp || bytes.len() <= usize::from(payload.clamp(512, 1232)));
        if let Some(question) = reply.queries.first() {
            prop_assert!(question.name.eq_case(&name));
        }
    }
}
