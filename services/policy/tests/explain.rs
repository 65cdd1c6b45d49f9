//! What would become of packets, in words.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use std::collections::BTreeMap;

use portcullis_model::{Action, Document, part::FirewallPart};
use portcullis_policy::{Explanation, Surroundings, explain};

/// The example of the manual, at an hour at which its partners may work.
fn example() -> (FirewallPart, Surroundings) {
    let text = include_str!("../../../docs/configuration-example.toml");
    let document = Document::parse(text).unwrap();
    let addresses = [
        ("wan", vec!["203.0.113.10/29", "203.0.113.11/29", "2001:db8::2/64"]),
        ("backup", vec![]),
        ("lan", vec!["10.20.0.1/22", "2001:db8:20::1/64", "fe80::1/64"]),
        ("guests", vec!["10.30.0.1/24"]),
    ];
    let addresses: BTreeMap<_, _> = addresses
        .into_iter()
        .map(|(name, list)| {
            (name.parse().unwrap(), list.iter().map(|text| text.parse().unwrap()).collect())
        })
        .collect();
    let surroundings = Surroundings {
        zones: [("lan", 1), ("wan", 2), ("guests", 3)]
            .map(|(n, id)| (n.parse().unwrap(), id))
            .into(),
        addresses,
        default_route: Some("wan".parse().unwrap()),
        // Monday 2026-11-23, 10:00 UTC.
        unix_s: 1_795_305_600 + 34 * 3600,
        numbers: BTreeMap::new(),
    };
    (FirewallPart::of(&document), surroundings)
}

#[track_caller]
fn ask(packet: &str) -> Explanation {
    let (part, surroundings) = example();
    explain(packet, &part, &surroundings).unwrap_or_else(|error| panic!("{packet}: {error}"))
}

#[track_caller]
fn check(packet: &str, expected: &str) {
    assert_eq!(ask(packet).to_string(), expected.trim().replace("\n    ", "\n"), "{packet}");
}

#[test]
fn out_by_a_policy_with_masquerade() {
    check(
        "tcp 10.20.1.5:40000 -> 198.51.100.7:443",
        "It comes from zone `lan` and goes to `wan`.
    No rule fits; the policy from `lan` to `wan` allows it.
    Its source becomes 203.0.113.10 (masquerade of zone `wan`).
    It passes.",
    );
    let answer = ask("udp 10.20.1.5:3074 -> 198.51.100.7:3074");
    assert_eq!(answer.rule.map(|rule| rule.to_string()), Some("games".to_owned()));
    assert_eq!(answer.source.as_deref(), Some("203.0.113.10"));
}

#[test]
fn in_by_a_rule() {
    check(
        "tcp [2001:db8:99::9]:5000 -> [2001:db8:20::55]:8080 in wan",
        "It comes from zone `wan` and goes to `lan`.
    Rule `partners-to-servers` allows it: tcp port 8080 (of 8000-8100), source 2001:db8:99::9 (of 2001:db8:99::-2001:db8:99:ffff:ffff:ffff:ffff:ffff), destination 2001:db8:20::55 (of 2001:db8:20::-2001:db8:20:0:ffff:ffff:ffff:ffff).
    Up to 50 new flows a second of one source and up to 200 flows of one source at the same time.
    It passes.",
    );
    check(
        "icmpv6 2001:db8:5::1 -> 2001:db8:20::5 in wan",
        "It comes from zone `wan` and goes to `lan`.
    Rule `ping-the-nas` allows it: icmpv6 type 128 code 0, destination 2001:db8:20::5.
    It passes.",
    );
    assert_eq!(ask("icmpv6 2001:db8:5::1 -> 2001:db8:20::5 in wan type 129").action, Action::Deny);
}

#[test]
fn rules_that_do_not_hold_now_are_named() {
    let (part, mut surroundings) = example();
    surroundings.unix_s += 12 * 3600;
    let packet = "tcp 198.51.100.7:5000 -> 10.20.0.16:80 in wan";
    assert_eq!(
        explain(packet, &part, &surroundings).unwrap().to_string(),
        "It comes from zone `wan` and goes to `lan`.\n\
         Rule `partners-to-servers` would fit, but its schedule `working-hours` does not hold now.\n\
         No rule fits, and there is no policy from `wan` to `lan`.\n\
         It is dropped."
    );
}

#[test]
fn port_forwards_and_hairpin() {
    check(
        "tcp 198.51.100.7:5000 -> 203.0.113.10:8443 in wan",
        "Port forward `nas` sends it on to 10.20.0.5:443.
    It comes from zone `wan` and goes to `lan`.
    Rule `partners-to-servers` allows it: tcp port 443, source 198.51.100.7 (of 198.51.100.0-198.51.100.255), destination 10.20.0.5.
    Up to 50 new flows a second of one source and up to 200 flows of one source at the same time.
    It passes.",
    );
    // Of the addresses that may use it none is inside, so for a host of the LAN it is the router's.
    check(
        "tcp 10.20.1.5:5000 -> 203.0.113.10:8443",
        "It comes from zone `lan` and goes to `router`.
    No rule fits, and it is for none of the router's services.
    It is dropped.",
    );
    let (mut part, surroundings) = example();
    part.firewall.port_forwards[0].sources.clear();
    let answer = explain("tcp 10.20.1.5:5000 -> 203.0.113.10:8443", &part, &surroundings).unwrap();
    assert_eq!(
        answer.to_string(),
        "Port forward `nas` sends it on to 10.20.0.5:443 (hairpin).\n\
         It comes from zone `lan` and goes to `lan`.\n\
         No rule fits; it goes back into `lan`, where it came from.\n\
         Its source becomes 203.0.113.10 (so that the answer comes back to the router).\n\
         It passes."
    );
    assert_eq!(answer.destination.as_deref(), Some("10.20.0.5:443"));
    // From a third zone the policy between the two decides, and the source stays.
    let guest = explain("tcp 10.30.0.77:5000 -> 203.0.113.10:8443", &part, &surroundings).unwrap();
    assert_eq!((guest.action, guest.to.as_str()), (Action::Reject, "lan"));
    let back = explain("tcp 10.20.1.5:5000 -> 203.0.113.11:80", &part, &surroundings).unwrap();
    assert_eq!((back.action, back.source.as_deref()), (Action::Allow, Some("203.0.113.10")));
}

#[test]
fn one_to_one_and_pools() {
    let out = ask("udp 10.20.0.16:1000 -> 198.51.100.7:53");
    assert_eq!(out.source.as_deref(), Some("203.0.113.11"));
    let back = ask("tcp 198.51.100.7:1000 -> 203.0.113.11:80 in wan");
    assert_eq!(back.destination.as_deref(), Some("10.20.0.16:80"));
    assert_eq!(back.rule.map(|rule| rule.to_string()), Some("partners-to-servers".to_owned()));
    let pool = ask("tcp 10.30.0.77 -> 198.51.100.7:443");
    assert_eq!(pool.source.as_deref(), Some("203.0.113.12-203.0.113.14"));
}

#[test]
fn the_router_itself() {
    check(
        "udp 10.30.0.77:5353 -> 10.30.0.1:53",
        "It comes from zone `guests` and goes to `router`.
    No rule fits; zone `guests` may reach the router's service `dns`.
    It passes.",
    );
    check(
        "tcp 10.30.0.77:5353 -> 10.30.0.1:443",
        "It comes from zone `guests` and goes to `router`.
    No rule fits, and zone `guests` may not reach the router's service `web`.
    It is dropped.",
    );
}

#[test]
fn macs_blocklists_and_rejections() {
    check(
        "tcp 10.20.1.5:1 -> 198.51.100.7:443 mac 52:54:00:aa:bb:99",
        "It comes from zone `lan` and goes to `wan`.
    Rule `lost-laptop` denies it: sender 52:54:00:aa:bb:99.
    It is dropped.",
    );
    check(
        "tcp 192.0.2.9:1 -> 203.0.113.10:8443 in wan",
        "192.0.2.9 is on the blocklist (firewall.protection).
    It is dropped.",
    );
    check(
        "47 10.30.0.77 -> 10.20.0.6",
        "It comes from zone `guests` and goes to `lan`.
    No rule fits; the policy from `guests` to `lan` rejects it.
    It is dropped, and the sender told.",
    );
}

#[test]
fn what_is_no_packet_is_told() {
    let (part, surroundings) = example();
    for (packet, message) in [
        ("", "the protocol is missing; a packet is written as in: tcp"),
        ("xyz 1.2.3.4", "`xyz` is not a protocol: tcp, udp"),
        ("tcp 1.2.3.4:5", "`->` is missing"),
        ("tcp 1.2.3.4 to 5.6.7.8:9", "`to` is not the arrow `->`"),
        ("tcp 1.2.3.4 -> 5.6.7.8", "the destination port is missing"),
        ("tcp 1.2.3.4:70000 -> 5.6.7.8:9", "`1.2.3.4:70000` is not an address"),
        ("icmp 1.2.3.4:1 -> 5.6.7.8", "`icmp` is not a protocol with ports"),
        ("tcp 1.2.3.4 -> [2001:db8::1]:9", "1.2.3.4 and 2001:db8::1 are of different"),
        ("icmp 2001:db8::1 -> 2001:db8::2", "`icmp` is not a protocol of IPv6"),
        ("tcp 1.2.3.4 -> 5.6.7.8:9 in", "what belongs to the last word is missing"),
        ("tcp 1.2.3.4 -> 5.6.7.8:9 in lan in lan", "`in` is not understood"),
        ("tcp 1.2.3.4 -> 5.6.7.8:9 type 8", "`type` is not understood"),
        (
            "tcp 1.2.3.4 -> 5.6.7.8:9 in moon",
            "`moon` is neither an interface nor a zone; interfaces are backup, guests, lan, wan; zones are guests, lan, wan",
        ),
        ("tcp 1.2.3.4 -> 5.6.7.8:9", "no interface has the network of 1.2.3.4"),
    ] {
        let error = explain(packet, &part, &surroundings).unwrap_err().to_string();
        assert!(error.contains(message), "{packet}: {error}");
    }
    let nowhere = Surroundings { default_route: None, ..surroundings };
    let error = explain("tcp 1.2.3.4 -> 5.6.7.8:9 in wan", &part, &nowhere).unwrap_err();
    assert!(error.to_string().contains("as in `out wan`"), "{error}");
    assert!(explain("tcp 1.2.3.4 -> 5.6.7.8:9 in wan out lan", &part, &nowhere).is_ok());
}
