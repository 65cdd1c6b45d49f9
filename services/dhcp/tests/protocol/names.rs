//! Names of clients in the local domain (options 12 and 81).

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use portcullis_dhcp::core::Action;
use serde_json::json;

use crate::lab::*;

#[test]
fn the_second_device_of_a_name_gets_a_number_and_keeps_it() {
    let mut lab = Lab::new(part(json!({})));
    let (a, b) = (discover(mac(1)).name("TV"), discover(mac(2)).name("tv"));
    let (first, second) = (lab.lease(&a), lab.lease(&b));
    assert_eq!(lab.name(first).as_deref(), Some("tv"));
    assert_eq!(lab.name(second).as_deref(), Some("tv-2"));
    lab.lease(&b);
    lab.lease(&a);
    assert_eq!(lab.name(second).as_deref(), Some("tv-2"));
    assert_eq!(lab.name(first).as_deref(), Some("tv"));
    // The name is free with the lease.
    lab.say(&Say::new(MessageType::Release, mac(1)).server(OURS).ciaddr(first));
    lab.lease(&b);
    assert_eq!(lab.name(second).as_deref(), Some("tv"));
    lab.lease(&a);
    assert_eq!(lab.name(first).as_deref(), Some("tv-2"));
}

#[test]
fn a_renewal_without_a_name_keeps_the_name() {
    let mut lab = Lab::new(part(json!({})));
    let address = lab.lease(&discover(mac(1)).name("nas"));
    lab.actions.clear();
    lab.say_as(&request(mac(1)).ciaddr(address), false);
    assert_eq!(lab.name(address).as_deref(), Some("nas"));
    assert!(!lab.actions.contains(&Action::Changed), "nothing new to tell");
}

#[test]
fn the_same_device_elsewhere_takes_its_name_along() {
    let mut lab = Lab::new(part(json!({})));
    let first = lab.lease(&discover(mac(1)).id(b"\x00a").name("phone"));
    let second = lab.lease(&discover(mac(1)).id(b"\x00b").name("phone"));
    assert_eq!(lab.name(first), None);
    assert_eq!(lab.name(second).as_deref(), Some("phone"));
}

#[test]
fn the_name_of_a_reservation_wins() {
    let reserved = part(json!({
        "reservations": [{
            "mac": "02:00:00:00:00:09", "address": "192.168.77.50", "hostname": "printer",
        }],
    }));
    let mut lab = Lab::new(reserved.clone());
    let other = lab.lease(&discover(mac(1)).name("printer"));
    assert_eq!(lab.name(other).as_deref(), Some("printer-2"));
    let mut take = discover(mac(9)).name("HP123456").wants(&[12]);
    assert_eq!(lab.lease(&take), ip(50));
    assert_eq!(lab.name(ip(50)).as_deref(), Some("printer"));
    take = take.server(OURS).requested(ip(50));
    take.0.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
    let ack = lab.say(&take).expect("ack");
    assert_eq!(ack.option(OptionCode::Hostname), Some(&DhcpOption::Hostname("printer".to_owned())));

    // A reservation that comes later holds at once.
    let mut lab = Lab::new(part(json!({})));
    let squatter = lab.lease(&discover(mac(1)).name("printer"));
    assert_eq!(lab.lease(&discover(mac(9)).name("hp").requested(ip(105))), ip(105));
    lab.configure(reserved);
    assert_eq!(lab.name(ip(105)).as_deref(), Some("printer"));
    assert_eq!(lab.name(squatter), None);
}

#[test]
fn fqdn_is_answered_in_its_encoding() {
    let mut lab = Lab::new(part(json!({})));
    let wire = b"\x04\0\0\x04WORK\x04corp\x07example\0";
    for (option, answer) in [
        (&wire[..], &b"\x07\xff\xff\x04work\x03lan\0"[..]),
        (b"\x01\0\0Work", b"\x01\xff\xffwork.lan"),
    ] {
        let say = discover(mac(1)).name("ignored").raw(81, option);
        let address = lab.lease(&say);
        assert_eq!(lab.name(address).as_deref(), Some("work"));
        let sent = lab.actions.iter().rev().find_map(|action| match action {
            Action::Send(sent) => Some(sent.payload.clone()),
            _ => None,
        });
        let mut expected = vec![81, u8::try_from(answer.len()).expect("short")];
        expected.extend_from_slice(answer);
        let sent = sent.expect("a reply");
        assert!(sent.windows(expected.len()).any(|w| w == expected), "{sent:?}");
    }
}
