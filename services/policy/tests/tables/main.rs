//! The compiled tables, classified with by the datapath's own code, say what the rules say when
//! they are asked one after the other.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod arbitrary;
mod findings;
mod interpreter;
mod limits;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use portcullis_datapath::{
    classify::{self, Question, Ruling, classify},
    simulation::policy::PolicyState,
};
use portcullis_datapath_abi::{
    classifier::{FULL_CONE, LOG},
    policy::NO_RULE,
};
use portcullis_model::{Action, Document, Label, firewall::Firewall, part::FirewallPart};
use portcullis_policy::{
    Compiled, Packet, Resolved, Surroundings, compile, evaluate, merge::merge, resolve,
};
use proptest::{collection, prelude::*};

/// Zones `lan`, `wan` and `dmz` with the ids 1, 2 and 3.
fn surroundings() -> Surroundings {
    let zone = |(name, id): (&str, u8)| (name.parse().unwrap(), id);
    Surroundings {
        zones: [("lan", 1), ("wan", 2), ("dmz", 3)].into_iter().map(zone).collect(),
        ..Surroundings::default()
    }
}

fn part(firewall: Firewall) -> FirewallPart {
    FirewallPart { interfaces: BTreeMap::new(), firewall }
}

fn words(address: IpAddr) -> [u32; 4] {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let bits = Ipv6Addr::to_bits(address);
    [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be())
}

fn ask(tables: &PolicyState, packet: &Packet) -> Ruling {
    classify(
        tables,
        &Question {
            from: packet.from,
            to: packet.to,
            source: &words(packet.source),
            destination: &words(packet.destination),
            protocol: packet.protocol,
            source_port: packet.source_port.to_be(),
            destination_port: packet.destination_port.to_be(),
            mac: packet.mac,
        },
    )
}

fn install(compiled: &Compiled) -> PolicyState {
    let mut tables = PolicyState::default();
    tables.bank = 1;
    let classes: Vec<_> = compiled.class_entries(1).collect();
    tables.install(&compiled.lines, &classes);
    tables
}

/// What both say must be the same. A rule that was merged into another goes by that one's number.
fn compare(resolved: &Resolved, tables: &PolicyState, packets: &[Packet]) {
    let active = resolved.rules.iter().filter(|rule| rule.active && !rule.is_empty());
    let merged = merge(active.cloned());
    let number =
        |name: &Label| resolved.rules.iter().find(|rule| rule.name == *name).unwrap().number;
    let mut stands_for = BTreeMap::new();
    for (kept, absorbed) in &merged.absorbed {
        stands_for.extend(absorbed.iter().map(|name| (number(name), number(kept))));
    }
    for packet in packets {
        let expected = evaluate(resolved, packet);
        let ruling = ask(tables, packet);
        let action = match ruling.action {
            classify::Action::Allow => Action::Allow,
            classify::Action::Deny => Action::Deny,
            classify::Action::Reject => Action::Reject,
        };
        assert_eq!(action, expected.action, "{packet:?} {ruling:?} {expected:?}");
        assert_eq!(ruling.flags & LOG != 0, expected.log, "{packet:?} {ruling:?} {expected:?}");
        let rule = expected.rule.map_or(NO_RULE, |rule| rule.number);
        let rule = stands_for.get(&rule).copied().unwrap_or(rule);
        assert_eq!(ruling.rule, rule, "{packet:?} {expected:?}");
        let cone = expected.rule.is_some_and(|rule| rule.full_cone);
        assert_eq!(ruling.flags & FULL_CONE != 0, cone, "{packet:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn tables_say_what_the_rules_say(
        firewall in arbitrary::firewalls(0..40),
        packets in collection::vec(arbitrary::packets(), 200),
    ) {
        let resolved = resolve(&part(firewall), &surroundings());
        let tables = install(&compile(&resolved).unwrap());
        compare(&resolved, &tables, &packets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn so_they_do_with_thousands_of_rules(
        firewall in arbitrary::firewalls(2000..5000),
        packets in collection::vec(arbitrary::packets(), 3000),
    ) {
        let resolved = resolve(&part(firewall), &surroundings());
        let tables = install(&compile(&resolved).unwrap());
        compare(&resolved, &tables, &packets);
    }
}

/// Ten thousand rules, each with a source, a destination and a port of its own.
fn distinct(count: u32) -> Firewall {
    let mut text = String::from("[firewall]\n");
    for n in 0..count {
        let (a, b) = (n >> 8 & 255, n & 255);
        let action = ["allow", "deny", "reject"][n as usize % 3];
        text += &format!(
            "[[firewall.rules]]\nname = \"r{n}\"\nfrom = \"lan\"\nto = \"wan\"\nsources = [\"10.{a}.{b}.0/28\", \"2001:db8:{n:x}::/48\"]\n\
             destinations = [\"198.{a}.{b}.7\"]\nprotocols = [\"tcp\"]\ndestination_ports = [{}]\naction = \"{action}\"\n",
            n % 60_000 + 1
        );
    }
    Document::parse(&text).unwrap().firewall
}

#[test]
fn ten_thousand_distinct_rules() {
    let part = part(distinct(10_000));
    let begin = Instant::now();
    let resolved = resolve(&part, &surroundings());
    let compiled = compile(&resolved).unwrap();
    let took = begin.elapsed();
    println!(
        "10,000 rules: {took:?}, {} lines ({} KiB), {} trie entries",
        compiled.lines.len(),
        compiled.lines.len() / 32,
        compiled.classes.len()
    );
    let tables = install(&compiled);
    let mut packets = Vec::new();
    for n in (0..10_000_u32).step_by(37) {
        let (a, b) = ((n >> 8) as u8, n as u8);
        let packet = Packet {
            from: 1,
            to: 2,
            source: [10, a, b, 3].into(),
            destination: [198, a, b, 7].into(),
            protocol: 6,
            source_port: 40_000,
            destination_port: (n % 60_000 + 1) as u16,
            mac: [2; 6],
        };
        packets.push(packet);
        packets.push(Packet { destination_port: packet.destination_port + 1, ..packet });
        packets.push(Packet { source: [10, a, b, 17].into(), ..packet });
    }
    compare(&resolved, &tables, &packets);
    let decided = packets.iter().filter(|packet| evaluate(&resolved, packet).rule.is_some());
    assert_eq!(decided.count(), 271, "one in three packets fits a rule");
}

#[test]
fn ten_rules_take_kilobytes() {
    let resolved = resolve(&part(distinct(10)), &surroundings());
    let compiled = compile(&resolved).unwrap();
    assert!(compiled.lines.len() * 32 < 16 * 1024, "{} lines", compiled.lines.len());
}

#[test]
fn an_empty_policy_refuses() {
    let resolved =
        resolve(&part(Firewall { policies: vec![], ..Firewall::default() }), &surroundings());
    let tables = install(&compile(&resolved).unwrap());
    let packet = Packet {
        from: 1,
        to: 2,
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        protocol: 6,
        source_port: 1,
        destination_port: 2,
        mac: [0; 6],
    };
    assert_eq!(ask(&tables, &packet).action, classify::Action::Deny);
    // Zones that the tables do not know, and tables that are not there.
    for zone in [4, 31, 32, 255] {
        assert_eq!(ask(&tables, &Packet { from: zone, ..packet }).action, classify::Action::Deny);
    }
    assert_eq!(ask(&PolicyState::default(), &packet).action, classify::Action::Deny);
}
