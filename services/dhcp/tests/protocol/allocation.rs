//! Which address a client gets (RFC 2131 section 4.3.1).

use dhcproto::v4::MessageType;
use portcullis_dhcp::core::{LeaseState, Notice, OFFER_MS};
use serde_json::json;

use crate::lab::*;

const HOUR_MS: i64 = 3_600_000;

#[test]
fn a_client_keeps_its_address_over_the_end_of_its_lease() {
    let mut lab = Lab::new(part(json!({})));
    assert_eq!(lab.lease(&discover(mac(1)).requested(ip(105))), ip(105));
    lab.pass(13 * HOUR_MS);
    assert_eq!(lab.record(ip(105)).map(|l| l.state), Some(LeaseState::Expired));
    assert_eq!(lab.lease(&discover(mac(2))), ip(100));
    assert_eq!(lab.lease(&discover(mac(1))), ip(105));
}

#[test]
fn fresh_addresses_first_then_the_longest_idle() {
    let mut lab = Lab::new(part(json!({ "lease_time_s": 3600 })));
    for client in 0..10 {
        assert_eq!(lab.lease(&discover(mac(client))), ip(100 + client));
        lab.pass(60_000);
    }
    for client in [3_u8, 5] {
        lab.say(&Say::new(MessageType::Release, mac(client)).server(OURS).ciaddr(ip(100 + client)));
        lab.pass(1_000);
    }
    assert_eq!(lab.lease(&discover(mac(20))), ip(103));
    assert_eq!(lab.lease(&discover(mac(21))), ip(105));
    // All others run out in the order in which they were given.
    lab.pass(HOUR_MS - 8 * 60_000);
    assert_eq!(lab.lease(&discover(mac(22))), ip(100));
    assert_eq!(lab.lease(&discover(mac(23))), ip(101));
    // The first of the new ones keeps what it has.
    assert_eq!(lab.lease(&discover(mac(20))), ip(103));
}

#[test]
fn an_exhausted_pool_is_silence_and_one_warning_a_minute() {
    let mut lab = Lab::new(part(json!({})));
    for client in 0..10 {
        lab.lease(&discover(mac(client)));
    }
    let exhausted = |lab: &Lab| {
        lab.notices().filter(|notice| matches!(notice, Notice::Exhausted { .. })).count()
    };
    for _ in 0..59 {
        assert!(lab.say(&discover(mac(99))).is_none());
        lab.pass(1_000);
    }
    assert_eq!(exhausted(&lab), 1);
    lab.pass(1_000);
    assert!(lab.say(&discover(mac(98))).is_none());
    assert_eq!(exhausted(&lab), 2);
    // Who has an address is served all the same.
    assert_eq!(lab.lease(&discover(mac(4))), ip(104));
}

#[test]
fn offers_end_and_a_flood_of_clients_holds_no_memory() {
    let mut lab = Lab::new(part(json!({
        "pool": { "start": "192.168.77.2", "end": "192.168.77.254" },
    })));
    assert_eq!(lab.lease(&discover(mac(1)).requested(ip(77))), ip(77));
    for number in 0..20_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        lab.say_as(&discover(portcullis_model::MacAddress([6, 0, 0, a, b, c])), true);
        if number % 100 == 0 {
            lab.pass(10);
        }
        lab.actions.clear();
    }
    // Whoever has a lease is served during the flood, at once.
    assert_eq!(lab.say_as(&discover(mac(1)), true).first().map(Heard::address), Some(ip(77)));
    assert_eq!(lab.server.records(lab.now).len(), 1, "offers leave no lease behind");
    lab.pass(OFFER_MS + 1_000);
    assert!(!lab.server.probing());
    assert!(lab.say(&discover(mac(2))).is_some(), "the pool is free again");
}

#[test]
fn a_reservation_comes_first_and_is_for_nobody_else() {
    let mut lab = Lab::new(part(json!({
        "reservations": [
            { "mac": "02:00:00:00:00:09", "address": "192.168.77.50" },
            { "mac": "02:00:00:00:00:0a", "address": "192.168.77.100" },
        ],
    })));
    assert_eq!(lab.lease(&discover(mac(9)).requested(ip(105))), ip(50));
    assert_eq!(lab.lease(&discover(mac(1)).requested(ip(100))), ip(101));
    assert_eq!(lab.lease(&discover(mac(10))), ip(100));
    let record = lab.record(ip(50)).expect("a lease");
    assert!(lab.server.is_reserved(&record));
    assert!(!lab.server.is_reserved(&lab.record(ip(101)).expect("a lease")));
}

#[test]
fn a_reserved_device_may_come_under_several_identifiers() {
    let mut lab = Lab::new(part(json!({
        "reservations": [{ "mac": "02:00:00:00:00:09", "address": "192.168.77.50" }],
    })));
    assert_eq!(lab.lease(&discover(mac(9)).id(b"\x00boot loader")), ip(50));
    assert_eq!(lab.lease(&discover(mac(9)).id(b"\xffsystem")), ip(50));
    assert_eq!(lab.server.records(lab.now).len(), 1);
}

#[test]
fn a_reservation_in_use_by_another_is_not_given_until_it_is_free() {
    let mut lab = Lab::new(part(json!({})));
    assert_eq!(lab.lease(&discover(mac(1))), ip(100));
    assert_eq!(lab.lease(&discover(mac(2))), ip(101));
    lab.configure(part(json!({
        "reservations": [{ "mac": "02:00:00:00:00:02", "address": "192.168.77.100" }],
    })));
    // Client 1 still has it: client 2 keeps what it has for now.
    assert_eq!(lab.lease(&discover(mac(2))), ip(101));
    assert!(lab.notices().any(|n| matches!(n, Notice::ReservationTaken { .. })));
    let kept = lab.say_as(&request(mac(2)).ciaddr(ip(101)), false);
    assert_eq!(kept.first().map(Heard::kind), Some(MessageType::Ack));
    // Client 1 is refused when it renews; then client 2 is, and gets its reservation.
    for (client, address) in [(1, 100), (2, 101)] {
        let refused = lab.say_as(&request(mac(client)).ciaddr(ip(address)), false);
        assert_eq!(refused.first().map(Heard::kind), Some(MessageType::Nak));
    }
    assert_eq!(lab.lease(&discover(mac(2))), ip(100));
    assert_eq!(lab.lease(&discover(mac(1))), ip(102));
}

#[test]
fn client_identifiers_tell_clients_apart_and_hold_over_hardware_addresses() {
    let mut lab = Lab::new(part(json!({})));
    let first = lab.lease(&discover(mac(1)).id(b"\x01a"));
    let second = lab.lease(&discover(mac(1)).id(b"\x01b"));
    assert_ne!(first, second);
    assert_eq!(lab.lease(&discover(mac(7)).id(b"\x01a")), first);
}

#[test]
fn a_pool_over_the_whole_subnet_leaves_out_what_is_no_host() {
    let mut lab = Lab::new(
        serde_json::from_value(json!({ "domain": "lan", "servers": { "lan": {
            "network": "192.168.77.1/29",
            "server": { "pool": { "start": "192.168.77.0", "end": "192.168.77.7" } } } } }))
        .expect("a part"),
    );
    let given: Vec<_> = (1..=5).map(|client| lab.lease(&discover(mac(client)))).collect();
    assert_eq!(given, [2, 3, 4, 5, 6].map(ip));
    assert!(lab.say(&discover(mac(6))).is_none());
}

/// A client that was offered one address and then renews another leaves the offered one to others.
#[test]
fn an_offer_that_is_given_up_loses_no_address() {
    let mut lab = Lab::new(part(json!({})));
    for client in 20..28 {
        assert!(lab.say(&discover(mac(client))).is_some());
        // The next offer goes past this one.
        assert!(lab.say(&discover(mac(client + 1))).is_some());
        let kept = lab.say_as(&request(mac(client)).ciaddr(ip(109)), false);
        assert_eq!(kept.first().map(Heard::kind), Some(MessageType::Ack));
        lab.say(&Say::new(MessageType::Release, mac(client)).server(OURS).ciaddr(ip(109)));
    }
    lab.pass(OFFER_MS + 1_000);
    let mut given: Vec<_> = (0..10).map(|client| lab.lease(&discover(mac(client)))).collect();
    given.sort();
    assert_eq!(given, (100..110).map(ip).collect::<Vec<_>>());
}

#[test]
fn an_address_is_for_everybody_once_its_reservation_is_gone() {
    let mut lab = Lab::new(part(json!({
        "reservations": [{ "mac": "02:00:00:00:00:63", "address": "192.168.77.100" }],
    })));
    for client in 1..10 {
        assert_eq!(lab.lease(&discover(mac(client))), ip(100 + client));
    }
    assert!(lab.say(&discover(mac(10))).is_none());
    lab.configure(part(json!({})));
    assert_eq!(lab.lease(&discover(mac(10))), ip(100));
}

#[test]
fn a_flood_in_one_network_takes_nothing_from_another() {
    let mut part = part(json!({}));
    let guest = part.servers.get_mut("guest").expect("a server");
    guest.server.pool.end = [10, 5, 200, 0].into();
    let mut lab = Lab::new(part);
    for number in 0..3_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let flood = discover(portcullis_model::MacAddress([6, 0, 0, a, b, c]));
        lab.say_by("guest", &flood, true);
    }
    lab.say_as(&discover(mac(1)), true);
    assert!(lab.pass(1_000).iter().any(|heard| heard.address() == ip(100)));
}
