//! What stands in a reply (RFC 2131 section 4.3.1, RFC 2132, 3046, 6842) and how requests are read.

use dhcproto::v4::{DhcpOption, MessageType};
use portcullis_dhcp::core::{Action, Arrival, Malformed, Notice, Request};
use serde_json::json;

use crate::lab::*;

/// Codes and contents of the last reply, in their order on the wire.
fn sent_options(lab: &Lab) -> Vec<(u8, Vec<u8>)> {
    let payload = lab.actions.iter().rev().find_map(|action| match action {
        Action::Send(sent) => Some(sent.payload.clone()),
        _ => None,
    });
    let payload = payload.expect("a reply");
    let (mut at, mut options) = (240, Vec::new());
    while payload[at] != 255 {
        let length = usize::from(payload[at + 1]);
        options.push((payload[at], payload[at + 2..at + 2 + length].to_vec()));
        at += 2 + length;
    }
    assert!(payload[at + 1..].iter().all(|octet| *octet == 0), "only padding after the end");
    options
}

fn codes(lab: &Lab) -> Vec<u8> {
    sent_options(lab).into_iter().map(|(code, _)| code).collect()
}

fn full() -> Lab {
    Lab::new(part(json!({
        "lease_time_s": 7200, "mtu": 1400, "ntp": ["192.168.77.1", "10.0.0.9"],
        "dns": ["9.9.9.9"], "routers": ["192.168.77.2"],
    })))
}

#[test]
fn requested_options_come_in_the_order_of_the_client() {
    let mut lab = full();
    lab.lease(&discover(mac(1)).wants(&[15, 42, 6, 3, 1, 28, 26, 121, 119, 6, 252]));
    assert_eq!(codes(&lab), [53, 54, 51, 58, 59, 1, 15, 42, 6, 3, 28, 26]);
    let options = sent_options(&lab);
    let content = |code| options.iter().find(|(c, _)| *c == code).map(|(_, data)| data.as_slice());
    assert_eq!(content(53), Some(&[5][..]));
    assert_eq!(content(54), Some(&[192, 168, 77, 1][..]));
    assert_eq!(content(51), Some(&7200_u32.to_be_bytes()[..]));
    assert_eq!(content(58), Some(&3600_u32.to_be_bytes()[..]));
    assert_eq!(content(59), Some(&6300_u32.to_be_bytes()[..]));
    assert_eq!(content(1), Some(&[255, 255, 255, 0][..]));
    assert_eq!(content(3), Some(&[192, 168, 77, 2][..]));
    assert_eq!(content(6), Some(&[9, 9, 9, 9][..]));
    assert_eq!(content(15), Some(&b"lan"[..]));
    assert_eq!(content(26), Some(&1400_u16.to_be_bytes()[..]));
    assert_eq!(content(28), Some(&[192, 168, 77, 255][..]));
    assert_eq!(content(42), Some(&[192, 168, 77, 1, 10, 0, 0, 9][..]));
}

#[test]
fn a_client_that_asks_for_nothing_gets_the_usual_and_one_that_asks_for_little_gets_little() {
    let mut lab = full();
    lab.lease(&discover(mac(1)));
    assert_eq!(codes(&lab), [53, 54, 51, 58, 59, 1, 3, 6, 15, 28, 42, 26]);
    lab.lease(&discover(mac(2)).wants(&[6]));
    assert_eq!(codes(&lab), [53, 54, 51, 58, 59, 1, 6]);
    // Defaults: the router itself, and nothing that was not set.
    let mut lab = Lab::new(part(json!({})));
    lab.lease(&discover(mac(1)));
    assert_eq!(codes(&lab), [53, 54, 51, 58, 59, 1, 3, 6, 15, 28]);
}

#[test]
fn client_identifier_and_relay_information_come_back_octet_for_octet() {
    let mut lab = full();
    let relay = b"\x01\x04port\x02\x03abc\x99\x00".to_vec();
    let say = discover(mac(1)).id(b"\xff\0\x01").giaddr(ip(2)).raw(82, &relay);
    lab.lease(&say);
    let options = sent_options(&lab);
    let tail: Vec<_> = options.iter().rev().take(2).cloned().collect();
    assert_eq!(tail, [(82, relay), (61, b"\xff\0\x01".to_vec())]);
    // In a NAK too.
    let nak = lab.say(&request(mac(1)).id(b"\xff\0\x01").requested([10, 0, 0, 1].into()));
    assert_eq!(nak.map(|n| n.kind()), Some(MessageType::Nak));
    assert_eq!(codes(&lab), [53, 54, 56, 61]);
}

/// RFC 6842 section 3 and RFC 3046 section 2.2: a long identifier comes back whole, relay
/// information that leaves no room is left out, and a reply is sent in any case.
#[test]
fn what_must_come_back_leaves_no_client_without_a_reply() {
    let (id, relay) = ([7; 255], [9; 250]);
    let small = discover(mac(1)).option(DhcpOption::MaxMessageSize(576));
    let large = discover(mac(1)).option(DhcpOption::MaxMessageSize(1500));
    let has = |codes: &[u8], code| codes.contains(&code);
    for (say, with_relay) in [(small, false), (large, true)] {
        let mut lab = full();
        let say = say.giaddr(ip(2)).raw(61, &id).raw(82, &relay);
        lab.lease(&say);
        let codes = codes(&lab);
        assert_eq!(codes[..6], [53, 54, 51, 58, 59, 1], "{codes:?}");
        assert!(has(&codes, 61), "{codes:?}");
        assert_eq!(has(&codes, 82), with_relay, "{codes:?}");
        let options = sent_options(&lab);
        assert!(options.contains(&(61, id.to_vec())));
    }
}

#[test]
fn a_reply_is_no_longer_than_the_client_takes() {
    let many: Vec<String> = (1..=100).map(|n| format!("192.168.77.{n}")).collect();
    let part = part(json!({ "ntp": many, "dns": ["9.9.9.9"] }));
    let length = |lab: &Lab| match lab.actions.iter().rev().find_map(|action| match action {
        Action::Send(sent) => Some(sent.payload.len()),
        _ => None,
    }) {
        Some(length) => length,
        None => panic!("no reply"),
    };
    let mut lab = Lab::new(part.clone());
    lab.lease(&discover(mac(1)).wants(&[42, 6, 3]));
    assert!(length(&lab) <= 548);
    assert_eq!(codes(&lab), [53, 54, 51, 58, 59, 1, 6, 3], "the long list is left out");
    for (size, with_list) in [(1500, true), (60_000, true), (100, false)] {
        let mut lab = Lab::new(part.clone());
        lab.lease(&discover(mac(1)).wants(&[42, 6]).option(DhcpOption::MaxMessageSize(size)));
        assert_eq!(codes(&lab).contains(&42), with_list, "{size}");
        assert!(length(&lab) <= usize::from(size.clamp(576, 1500)) - 28);
    }
}

#[test]
fn options_are_read_from_overloaded_fields_and_in_pieces() {
    let mut say = discover(mac(1)).option(DhcpOption::OptionOverload(3)).bytes();
    say[108..108 + 7].copy_from_slice(&[12, 4, b'h', b'o', b's', b't', 255]);
    say[44..44 + 7].copy_from_slice(&[50, 4, 192, 168, 77, 105, 255]);
    let request = Request::parse(&say).expect("a request");
    assert_eq!(request.hostname.as_deref(), Some(&b"host"[..]));
    assert_eq!(request.requested, Some(ip(105)));

    let mut pieces = discover(mac(1)).bytes();
    pieces.pop();
    pieces.extend_from_slice(&[61, 2, 1, 2, 12, 1, b'a', 61, 1, 3, 12, 1, b'b', 255]);
    let request = Request::parse(&pieces).expect("a request");
    assert_eq!(request.client_identifier.as_deref(), Some(&[1, 2, 3][..]));
    assert_eq!(request.hostname.as_deref(), Some(&b"ab"[..]));
}

#[test]
fn what_is_no_request_is_counted_and_dropped() {
    let good = discover(mac(1)).bytes();
    let changed = |at: usize, octet: u8| {
        let mut bytes = good.clone();
        bytes[at] = octet;
        bytes
    };
    let with = |tail: &[u8]| [&good[..240], tail].concat();
    let rows: Vec<(Vec<u8>, Malformed)> = vec![
        (Vec::new(), Malformed::Short),
        (good[..239].to_vec(), Malformed::Short),
        (changed(0, 2), Malformed::NotRequest),
        (changed(236, 0), Malformed::Cookie),
        (changed(2, 17), Malformed::HardwareLength(17)),
        (changed(2, 255), Malformed::HardwareLength(255)),
        (changed(2, 0), Malformed::NoClient),
        (with(&[]), Malformed::MessageType),
        (with(&[53, 1, 2, 255]), Malformed::MessageType),
        (with(&[53, 2, 1, 1, 255]), Malformed::MessageType),
        (with(&[53, 1, 77, 255]), Malformed::MessageType),
        (with(&[53, 1, 1, 50, 3, 1, 2, 3, 255]), Malformed::AddressOption(50)),
        (with(&[53, 1, 3, 54, 0, 255]), Malformed::AddressOption(54)),
    ];
    let mut lab = full();
    let arrival = Arrival { interface: lan(), broadcast: true };
    for (bytes, error) in &rows {
        assert!(lab.receive(bytes, &arrival).is_empty());
        let last = lab.actions.last();
        assert_eq!(last, Some(&Action::Notice(Notice::Malformed(*error))), "{bytes:?}");
    }
    assert_eq!(lab.server.counters().malformed, u64::try_from(rows.len()).expect("few"));
    assert_eq!(lab.server.counters().requests, 0);
    assert!(lab.server.records(lab.now).is_empty());
}
