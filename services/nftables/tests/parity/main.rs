//! The ruleset decides as `portcullis_policy::evaluate` does, which is what the eBPF datapath is
//! tested against too: random policies, random packets.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "they fail the test"
)]

mod machine;

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use machine::Fate;
use portcullis_model::{Action, Document, Name, part::FirewallPart, validate::validate};
use portcullis_nftables::{
    compile::{Interface, Site, compile},
    ruleset::Reject,
};
use portcullis_policy::{Packet, Surroundings, evaluate, resolve};
use proptest::{prelude::*, sample::select};

const ZONES: [&str; 3] = ["dmz", "lan", "wan"];
const NETS: [&str; 9] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "10.1.2.0-10.1.2.9",
    "0.0.0.0/0",
    "2001:db8::/32",
    "2001:db8:1::5",
    "::/0",
    "@mixed",
];
const PORTS: [&str; 5] = ["80", "\"80-90\"", "\"@some\"", "65535", "\"1-65535\""];
const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
const ADDRESSES: [&str; 8] = [
    "10.1.2.3",
    "10.1.2.9",
    "10.1.3.1",
    "10.200.0.1",
    "192.0.2.1",
    "2001:db8:1::5",
    "2001:db8::1",
    "fd00::1",
];

fn list(quote: bool, members: &[&'static str]) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|one| if quote { format!("\"{one}\"") } else { (*one).to_owned() })
        .collect();
    format!("[{}]", members.join(", "))
}

fn some(members: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(members), 0..=most).prop_map(|mut members| {
        members.sort_unstable();
        members.dedup();
        members
    })
}

/// The kinds of protocols with what belongs to them.
fn protocols() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        select(vec!["[\"tcp\"]", "[\"udp\"]", "[\"tcp\", \"udp\"]"]).prop_flat_map(|protocols| {
            (some(&PORTS, 2), some(&PORTS, 1)).prop_map(move |(destination, source)| {
                format!(
                    "protocols = {protocols}\ndestination_ports = {}\nsource_ports = {}\n",
                    list(false, &destination),
                    list(false, &source)
                )
            })
        }),
        select(vec!["[\"icmp\"]", "[\"icmpv6\"]"]).prop_flat_map(|protocols| {
            some(&["echo-request", "3", "3/4", "13", "128/1"], 3).prop_map(move |types| {
                format!("protocols = {protocols}\nicmp_types = {}\n", list(true, &types))
            })
        }),
        Just("protocols = [\"icmp\", \"icmpv6\"]\nicmp_types = [\"echo-request\"]\n".to_owned()),
        Just("protocols = [47, \"tcp\"]\n".to_owned()),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let zones = |to: bool| {
        let mut all = vec!["\"any\"", "\"lan\"", "[\"dmz\", \"wan\"]", "[\"lan\"]"];
        if to {
            all.extend(["\"router\"", "[\"router\", \"wan\"]"]);
        }
        select(all)
    };
    (
        (zones(false), zones(true)),
        (some(&NETS, 2), some(&NETS, 2)),
        protocols(),
        prop_oneof![4 => Just(Vec::new()), 1 => some(&MACS, 2)],
        select(vec!["allow", "deny", "reject"]),
        (any::<bool>(), prop::bool::weighted(0.9)),
    )
        .prop_map(
            |((from, to), (sources, destinations), protocols, macs, action, (log, enabled))| {
                format!(
                    "from = {from}\nto = {to}\nsources = {}\ndestinations = {}\n{protocols}\
                 macs = {}\naction = \"{action}\"\nlog = {log}\nenabled = {enabled}\n",
                    list(true, &sources),
                    list(true, &destinations),
                    list(true, &macs),
                )
            },
        )
}

fn policy() -> impl Strategy<Value = Vec<(usize, usize, &'static str)>> {
    prop::collection::vec((0..3_usize, 0..3_usize, select(vec!["allow", "deny", "reject"])), 0..5)
}

fn document(rules: &[String], policies: &[(usize, usize, &str)]) -> String {
    let mut text = String::from(
        "[firewall.zones.dmz]\n[firewall.zones.lan]\n[firewall.zones.wan]\n\
         [firewall.addresses.mixed]\nmembers = [\"10.1.0.0/24\", \"10.1.2.3\", \"fd00::/8\"]\n\
         [firewall.ports.some]\nmembers = [22, \"88-100\"]\n",
    );
    let mut seen = Vec::new();
    for (from, to, action) in policies {
        if !seen.contains(&(from, to)) {
            seen.push((from, to));
            let (from, to) = (ZONES[*from], ZONES[*to]);
            writeln!(
                text,
                "[[firewall.policies]]\nfrom = \"{from}\"\nto = \"{to}\"\naction = \"{action}\""
            )
            .unwrap();
        }
    }
    if policies.is_empty() {
        text.insert_str(0, "[firewall]\npolicies = []\n");
    }
    for (number, rule) in rules.iter().enumerate() {
        writeln!(text, "[[firewall.rules]]\nname = \"r{number}\"\n{rule}").unwrap();
    }
    text
}

fn packet() -> impl Strategy<Value = Packet> {
    let port = || prop_oneof![select(vec![22_u16, 79, 80, 85, 90, 100, 65_535]), any::<u16>()];
    let message = select(vec![0x0800_u16, 0x8000, 0x0304, 0x0300, 0x0d00, 0x8001]);
    (
        (1..=3_u8, 0..=3_u8),
        (any::<bool>(), prop::array::uniform2(any::<prop::sample::Index>())),
        select(vec![1_u8, 6, 17, 47, 58]),
        (port(), port(), message),
        0..3_u8,
    )
        .prop_map(
            |((from, to), (ipv4, ends), protocol, (source_port, destination_port, icmp), mac)| {
                let fitting: Vec<IpAddr> = ADDRESSES
                    .iter()
                    .map(|text| text.parse().unwrap())
                    .filter(|address: &IpAddr| address.is_ipv4() == ipv4)
                    .collect();
                // Each family has an ICMP of its own.
                let protocol = match protocol {
                    1 | 58 => {
                        if ipv4 {
                            1
                        } else {
                            58
                        }
                    }
                    other => other,
                };
                let [source, destination] = ends.map(|end| *end.get(&fitting));
                let (source_port, destination_port) = match protocol {
                    1 | 58 => (0, icmp),
                    6 | 17 => (source_port, destination_port),
                    _ => (0, 0),
                };
                let mac = [0x52, 0x54, 0, 0, 0, mac];
                Packet {
                    from,
                    to,
                    source,
                    destination,
                    protocol,
                    source_port,
                    destination_port,
                    mac,
                }
            },
        )
}

/// What the eBPF datapath tells the sender (`message` in `ebpf/datapath/src/answer/mod.rs`).
fn answer(protocol: u8) -> Reject {
    match protocol {
        6 => Reject::TcpReset,
        17 => Reject::PortUnreachable,
        _ => Reject::Prohibited,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_ruleset_decides_as_the_rules_do(
        rules in prop::collection::vec(rule(), 0..12),
        policies in policy(),
        packets in prop::collection::vec(packet(), 40),
    ) {
        let text = document(&rules, &policies);
        let document = Document::parse(&text).unwrap();
        // A rule for IPv4 sources and IPv6 destinations is refused; it can be asked nevertheless,
        // and fits nothing.
        let errors = validate(&document);
        prop_assert!(
            errors.iter().all(|one| one.message.contains("no packet fits")),
            "{errors:?}\n{text}"
        );
        let zones: BTreeMap<Name, u8> =
            ZONES.iter().zip(1..).map(|(name, id)| (name.parse().unwrap(), id)).collect();
        let part = FirewallPart::of(&document);
        let resolved = resolve(&part, &Surroundings { zones, ..Surroundings::default() });
        let site = Site {
            interfaces: ZONES
                .iter()
                .map(|name| Interface {
                    name: name.parse().unwrap(),
                    device: format!("dev-{name}"),
                    zone: name.parse().unwrap(),
                    addresses: Vec::new(),
                })
                .collect(),
            ..Site::default()
        };
        let table = compile(&document.firewall, &site).table;
        let device = |id: u8| id.checked_sub(1).map_or(String::new(), |id| format!("dev-{}", ZONES[usize::from(id)]));
        for packet in &packets {
            let decision = evaluate(&resolved, packet);
            let expected = match decision.action {
                Action::Allow => Fate::Accepted,
                Action::Deny => Fate::Dropped,
                Action::Reject => Fate::Rejected(answer(packet.protocol)),
            };
            let base = if packet.to == 0 { "input" } else { "forward" };
            let (from, to) = (device(packet.from), device(packet.to));
            let fate = machine::run(&table, base, packet, (&from, &to));
            prop_assert_eq!(
                fate,
                expected,
                "{:?} by {:?}\n{}\n{}",
                packet,
                decision.rule.map(|rule| rule.name.as_str()),
                text,
                table
            );
        }
    }
}
