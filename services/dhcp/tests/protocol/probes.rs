//! Addresses are probed before they are offered to somebody new (RFC 2131 section 3.1 point 2).

use portcullis_dhcp::core::{Action, LeaseState, Notice, PROBE_MS};
use serde_json::json;

use crate::lab::*;

fn probes(lab: &Lab) -> Vec<std::net::Ipv4Addr> {
    let of = |action: &Action| match action {
        Action::Probe { address, .. } => Some(*address),
        _ => None,
    };
    lab.actions.iter().filter_map(of).collect()
}

#[test]
fn an_unknown_client_waits_for_two_probes_and_a_known_one_does_not() {
    let mut lab = Lab::new(part(json!({})));
    assert!(lab.say_as(&discover(mac(1)), true).is_empty());
    assert_eq!(probes(&lab), [ip(100)]);
    assert!(lab.pass(PROBE_MS - 1).is_empty());
    assert_eq!(probes(&lab), [ip(100), ip(100)]);
    assert_eq!(lab.pass(1).first().map(Heard::address), Some(ip(100)));
    lab.lease(&discover(mac(1)));
    lab.actions.clear();
    assert_eq!(lab.say_as(&discover(mac(1)), true).len(), 1);
    assert!(probes(&lab).is_empty());
}

#[test]
fn others_are_served_while_a_probe_waits() {
    let mut lab = Lab::new(part(json!({})));
    lab.lease(&discover(mac(1)));
    assert!(lab.say_as(&discover(mac(2)), true).is_empty());
    assert_eq!(lab.say_as(&discover(mac(1)), true).len(), 1);
    // Another unknown one does not get the address that is being probed.
    assert!(lab.say_as(&discover(mac(3)), true).is_empty());
    let offers: Vec<_> = lab.pass(PROBE_MS).iter().map(Heard::address).collect();
    assert_eq!(offers, [ip(101), ip(102)]);
}

#[test]
fn an_address_in_use_is_set_aside_and_the_next_one_offered() {
    let mut lab = Lab::new(part(json!({})));
    lab.say_as(&discover(mac(1)), true);
    assert!(lab.in_use(ip(100), mac(200)).is_empty());
    let aside = lab.record(ip(100)).expect("an entry");
    assert_eq!((aside.state, aside.hardware), (LeaseState::Declined, mac(200).into()));
    assert!(lab.notices().any(|n| *n == Notice::Conflict { address: ip(100), by: Some(mac(200)) }));
    assert_eq!(lab.pass(PROBE_MS).first().map(Heard::address), Some(ip(101)));
}

#[test]
fn the_client_itself_is_no_conflict() {
    let mut lab = Lab::new(part(json!({})));
    lab.say_as(&discover(mac(1)).requested(ip(105)), true);
    lab.in_use(ip(105), mac(1));
    assert_eq!(lab.pass(PROBE_MS).first().map(Heard::address), Some(ip(105)));
}

#[test]
fn an_answer_nobody_asked_for_changes_nothing() {
    let mut lab = Lab::new(part(json!({})));
    lab.lease(&discover(mac(1)));
    let before = lab.server.records(lab.now);
    lab.in_use(ip(100), mac(66));
    lab.in_use(ip(109), mac(66));
    // Nor does what somebody says on another network.
    lab.say_as(&discover(mac(2)), true);
    let guest = "guest".parse().expect("a name");
    assert!(lab.server.in_use(&guest, ip(101), mac(66), lab.now).is_empty());
    assert_eq!(lab.server.records(lab.now), before);
}

#[test]
fn a_repeated_discover_gets_its_own_transaction_number() {
    let mut lab = Lab::new(part(json!({})));
    lab.say_as(&discover(mac(1)), true);
    lab.pass(100);
    let mut again = discover(mac(1));
    again.0.set_xid(42);
    assert!(lab.say_as(&again, true).is_empty());
    let offers = lab.pass(PROBE_MS);
    assert_eq!(offers.len(), 1);
    assert_eq!(offers.first().map(|o| o.message.xid()), Some(42));
}
