//! Rules and packets from few enough values that they often meet.

use std::{net::IpAddr, ops::Range};

use portcullis_model::{
    Action, Firewall, MacAddress, Policy,
    firewall::{AddressMatch, IcmpMatch, PortMatch, PortRange, Protocol, Rule, ZoneMatch},
};
use portcullis_policy::Packet;
use proptest::{collection, prelude::*, sample::select};

/// Addresses of which rules and packets are made.
const ADDRESSES: [&str; 14] = [
    "0.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.200",
    "10.0.1.1",
    "10.128.0.1",
    "192.0.2.7",
    "255.255.255.255",
    "::",
    "::1",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:1::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

fn addresses() -> impl Strategy<Value = IpAddr> {
    select(ADDRESSES.to_vec()).prop_map(|text| text.parse().unwrap())
}

pub(crate) fn matches() -> impl Strategy<Value = AddressMatch> {
    let net = (addresses(), any::<u8>()).prop_map(|(address, length)| {
        let length = length % if address.is_ipv4() { 33 } else { 129 };
        AddressMatch::Net(ipnet::IpNet::new_assert(address, length).trunc())
    });
    let range = (addresses(), addresses()).prop_filter_map("one family", |(a, b)| {
        (a.is_ipv4() == b.is_ipv4()).then(|| AddressMatch::Range(a.min(b), a.max(b)))
    });
    prop_oneof![2 => net, 1 => range]
}

pub(crate) fn ports() -> impl Strategy<Value = PortMatch> {
    let port = select(vec![1_u16, 22, 79, 80, 81, 255, 256, 443, 8000, 40_000, 65_534, 65_535]);
    (port.clone(), port)
        .prop_map(|(a, b)| PortMatch::Range(PortRange::new(a.min(b), a.max(b)).unwrap()))
}

fn macs() -> impl Strategy<Value = [u8; 6]> {
    select(vec![
        [2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 2],
        [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff],
        [0; 6],
    ])
}

fn zones(names: &'static [&'static str]) -> impl Strategy<Value = ZoneMatch> {
    let these = collection::vec(select(names), 1..3).prop_map(|names| {
        ZoneMatch::These(names.iter().map(|name| name.parse().unwrap()).collect())
    });
    prop_oneof![1 => Just(ZoneMatch::Any), 3 => these]
}

fn actions() -> impl Strategy<Value = Action> {
    select(vec![Action::Allow, Action::Deny, Action::Reject])
}

/// A rule; its name is given later.
fn rules() -> impl Strategy<Value = Rule> {
    let zones = (zones(&["lan", "wan", "dmz"]), zones(&["lan", "wan", "dmz", "router"]));
    let lists = (
        prop_oneof![Just(Vec::new()), collection::vec(matches(), 1..4)],
        prop_oneof![Just(Vec::new()), collection::vec(matches(), 1..4)],
        prop_oneof![4 => Just(Vec::new()), 1 => collection::vec(macs(), 1..3)],
    );
    let service = prop_oneof![
        Just((vec![], vec![], vec![], vec![])),
        collection::vec(select(vec![1_u8, 6, 17, 47, 58]), 1..3).prop_map(|protocols| (
            protocols,
            vec![],
            vec![],
            vec![]
        )),
        (
            select(vec![vec![6_u8], vec![17], vec![6, 17]]),
            collection::vec(ports(), 0..3),
            prop_oneof![3 => Just(vec![]), 1 => collection::vec(ports(), 1..3)]
        )
            .prop_map(|(protocols, to, from)| (protocols, to, from, vec![])),
        (
            select(vec![vec![1_u8], vec![58]]),
            select(vec![
                IcmpMatch::EchoRequest,
                IcmpMatch::Type { kind: 8, code: Some(0) },
                IcmpMatch::Type { kind: 13, code: None },
            ])
        )
            .prop_map(|(protocols, kind)| (protocols, vec![], vec![], vec![kind])),
    ];
    let then = (actions(), any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.9));
    (zones, lists, service, then).prop_map(|(zones, lists, service, then)| Rule {
        name: "x".parse().unwrap(),
        enabled: then.3,
        from: zones.0,
        to: zones.1,
        sources: lists.0,
        destinations: lists.1,
        destination_hosts: vec![],
        protocols: service.0.into_iter().map(Protocol).collect(),
        source_ports: service.2,
        destination_ports: service.1,
        icmp_types: service.3,
        macs: lists.2.into_iter().map(MacAddress).collect(),
        schedule: None,
        action: then.0,
        log: then.1,
        rate_limit: None,
        connections_per_source: None,
        full_cone: then.2 && then.0 == Action::Allow,
    })
}

pub(crate) fn firewalls(count: Range<usize>) -> impl Strategy<Value = Firewall> {
    let policy = (
        select(vec!["lan", "wan", "dmz"]),
        select(vec!["lan", "wan", "dmz"]),
        actions(),
        any::<bool>(),
    )
        .prop_map(|(from, to, action, log)| Policy {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            action,
            log,
        });
    (collection::vec(rules(), count), collection::vec(policy, 0..5)).prop_map(
        |(mut rules, policies)| {
            for (n, rule) in rules.iter_mut().enumerate() {
                rule.name = format!("r{n}").parse().unwrap();
            }
            Firewall { rules, policies, ..Firewall::default() }
        },
    )
}

pub(crate) fn packets() -> impl Strategy<Value = Packet> {
    let ports = select(vec![0_u16, 1, 22, 80, 100, 255, 256, 443, 8000, 50_000, 65_535]);
    let service = prop_oneof![
        (select(vec![6_u8, 17]), ports.clone(), ports),
        (
            select(vec![1_u8, 58]),
            Just(0_u16),
            select(vec![8_u16 << 8, 128 << 8, 13 << 8, 8 << 8 | 1, 3 << 8 | 4])
        ),
        Just((47_u8, 0_u16, 0_u16)),
    ];
    (1..4_u8, 0..4_u8, addresses(), addresses(), service, macs()).prop_map(
        |(from, to, source, destination, service, mac)| Packet {
            from,
            to,
            source,
            destination,
            protocol: service.0,
            source_port: service.1,
            destination_port: service.2,
            mac,
        },
    )
}
