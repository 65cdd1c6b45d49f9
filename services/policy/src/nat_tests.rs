#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

use portcullis_datapath::{
    nat::{Exit, Inbound, Source, inbound, outbound},
    simulation::{Simulation, nat::bytes},
};
use portcullis_datapath_abi::{FlowKey, flow::NO_MAPPING, nat::mss, policy::ROUTER};
use proptest::prelude::*;

use super::*;

const LAN: u8 = 1;
const WAN: u8 = 2;
const DMZ: u8 = 3;

fn zones() -> BTreeMap<Name, u8> {
    [("lan", LAN), ("wan", WAN), ("dmz", DMZ)].map(|(name, id)| (name.parse().unwrap(), id)).into()
}

fn interfaces() -> Vec<NatInterface> {
    [(LAN, &["192.168.1.1"][..]), (WAN, &["203.0.113.1", "203.0.113.2"]), (DMZ, &["10.0.0.1"])]
        .map(|(zone, addresses)| NatInterface {
            zone,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        })
        .into()
}

fn firewall(text: &str) -> Firewall {
    let zones = "zones.lan = {}\nzones.wan = { masquerade = true }\nzones.dmz = {}\n";
    let document = format!("[firewall]\n{zones}{text}");
    #[derive(serde::Deserialize)]
    struct Document {
        firewall: Firewall,
    }
    toml::from_str::<Document>(&document).unwrap().firewall
}

fn compiled(text: &str) -> Nat {
    compile_nat(&firewall(text), &zones(), &interfaces())
}

/// The datapath with these tables.
fn router(nat: &Nat) -> Simulation {
    let mut router = Simulation::default();
    macro_rules! fill {
        ($($trie:ident),*) => { $(
            for ((bits, key), value) in &nat.$trie {
                router.nat.$trie.insert(*bits, &bytes(key), *value);
            }
        )* };
    }
    fill!(externals, forward_ports, forward_sources, statics, pools, pool_blocks);
    router.nat.forwards = (0..).zip(nat.forwards.iter().copied()).collect();
    router.nat.reserved = (0..).zip(nat.reserved.iter().copied()).collect();
    router
}

fn ip(text: &str) -> u32 {
    from_address(text.parse().unwrap())
}

fn key(zone: u8, protocol: u8, source: (&str, u16), destination: (&str, u16)) -> FlowKey {
    FlowKey {
        source: ip(source.0),
        destination: ip(destination.0),
        source_port: source.1.to_be(),
        destination_port: destination.1.to_be(),
        protocol,
        zone,
        reserved: 0,
    }
}

/// Where a packet is led to: `inside`, "router" or "direct", and whether it passes without a rule
/// to the zone `to`.
fn led(router: &Simulation, key: &FlowKey, to: u8) -> (String, bool) {
    match inbound(router, &router.config, key) {
        Inbound::Direct => ("direct".to_owned(), false),
        Inbound::ToRouter => ("router".to_owned(), false),
        Inbound::Inside(inside) => {
            let address = portcullis_datapath_abi::address(inside.destination);
            (format!("{address}:{}", u16::from_be(inside.port)), inside.passes(key.zone, to))
        }
    }
}

fn exit(nat: &Nat, zone: u8) -> Exit {
    let address = interfaces().iter().find(|one| one.zone == zone).unwrap().addresses[0];
    Exit { address: from_address(address), flags: nat.zone_flags[&zone], zone }
}

fn leaves(router: &Simulation, nat: &Nat, key: &FlowKey) -> Source {
    outbound(router, &router.config, key, &exit(nat, WAN), false).unwrap()
}

#[test]
fn a_forward_leads_its_ports_to_the_host_and_keeps_the_offset() {
    let nat = compiled(
        r#"
        port_forwards = [
            { name = "web", zone = "wan", protocol = "tcp", ports = [80], to = "10.0.0.5" },
            { name = "games", zone = "wan", protocol = "both", ports = ["8000-8100"],
              to = "10.0.0.6", to_port = 9000, hairpin = false },
            { name = "off", enabled = false, zone = "wan", protocol = "tcp", ports = [25],
              to = "10.0.0.7" },
        ]"#,
    );
    assert_eq!(nat.problems, Vec::<String>::new());
    let router = router(&nat);
    let out = |protocol, port| {
        led(&router, &key(WAN, protocol, ("198.51.100.9", 5000), ("203.0.113.2", port)), DMZ)
    };
    let passes = |text: &str| (text.to_owned(), true);
    assert_eq!(out(TCP, 80), passes("10.0.0.5:80"));
    assert_eq!(out(UDP, 80), ("router".to_owned(), false));
    for (port, inside) in [(8000, 9000), (8063, 9063), (8100, 9100)] {
        assert_eq!(out(TCP, port), passes(&format!("10.0.0.6:{inside}")));
        assert_eq!(out(UDP, port), passes(&format!("10.0.0.6:{inside}")));
    }
    for port in [7999, 8101, 25, 81] {
        assert_eq!(out(TCP, port).0, "router", "{port}");
    }
    // From inside: only with hairpin, and it opens nothing between two other zones.
    let from = |zone, port, to| {
        led(&router, &key(zone, TCP, ("192.168.1.7", 5000), ("203.0.113.1", port)), to)
    };
    assert_eq!(from(LAN, 80, LAN), passes("10.0.0.5:80"));
    assert_eq!(from(LAN, 80, DMZ), ("10.0.0.5:80".to_owned(), false));
    assert_eq!(from(LAN, 8000, LAN).0, "router");
    // Not an external address.
    let other = key(LAN, TCP, ("192.168.1.7", 5000), ("192.0.2.1", 80));
    assert_eq!(led(&router, &other, WAN).0, "direct");
}

#[test]
fn the_first_forward_that_fits_decides_also_by_source() {
    let nat = compiled(
        r#"
        addresses.office = { members = ["198.51.100.0/25", "198.51.100.200-198.51.100.201"] }
        port_forwards = [
            { name = "a", zone = "wan", protocol = "tcp", ports = [22], to = "10.0.0.5",
              sources = ["@office"] },
            { name = "b", zone = "wan", protocol = "tcp", ports = ["20-30"], to = "10.0.0.6" },
            { name = "c", zone = "wan", protocol = "tcp", ports = ["1-65535"], to = "10.0.0.7" },
        ]"#,
    );
    assert_eq!(nat.problems, Vec::<String>::new());
    let router = router(&nat);
    for (source, port, inside) in [
        ("198.51.100.7", 22, "10.0.0.5:22"),
        ("198.51.100.201", 22, "10.0.0.5:22"),
        ("198.51.100.202", 22, "10.0.0.6:22"),
        ("198.51.100.7", 23, "10.0.0.6:23"),
        ("198.51.100.7", 31, "10.0.0.7:31"),
        ("198.51.100.7", 65_535, "10.0.0.7:65535"),
        ("198.51.100.7", 1, "10.0.0.7:1"),
    ] {
        let key = key(WAN, TCP, (source, 5000), ("203.0.113.1", port));
        assert_eq!(led(&router, &key, DMZ), (inside.to_owned(), true), "{source} {port}");
    }
    // The exposed host does not take all ports from masqueraded flows; the other forwards and our
    // own services do.
    let port = |wanted| {
        let key = key(LAN, TCP, ("192.168.1.7", wanted), ("192.0.2.1", 80));
        u16::from_be(leaves(&router, &nat, &key).port)
    };
    assert_eq!(port(5000), 5000);
    assert!(![22, 25, 443].contains(&port(22)) && port(25) != 25 && port(443) != 443);
}

#[test]
fn an_address_for_a_host_works_in_both_directions_and_opens_nothing() {
    let nat = compiled(
        r#"
        static_nat = [
            { zone = "wan", external = "203.0.113.2", internal = "10.0.0.9" },
            { zone = "wan", external = "203.0.113.1", internal = "10.0.0.8" },
        ]"#,
    );
    assert_eq!(nat.problems.len(), 1, "{:?}", nat.problems);
    assert!(nat.problems[0].contains("203.0.113.1"), "the address that all others take");
    let router = router(&nat);
    let inward = key(WAN, ICMP_ECHO, ("198.51.100.9", 77), ("203.0.113.2", 0));
    assert_eq!(led(&router, &inward, DMZ), ("10.0.0.9:0".to_owned(), false));
    let outward = key(DMZ, TCP, ("10.0.0.9", 100), ("198.51.100.9", 80));
    let source = leaves(&router, &nat, &outward);
    let expected =
        Source { address: ip("203.0.113.2"), port: 100_u16.to_be(), mapping: NO_MAPPING };
    assert_eq!(source, expected);
    let other = key(DMZ, TCP, ("10.0.0.8", 100), ("198.51.100.9", 80));
    assert_eq!(leaves(&router, &nat, &other).address, ip("203.0.113.1"), "masqueraded");
}

const ICMP_ECHO: u8 = 1;

#[test]
fn a_source_keeps_its_address_of_the_pool() {
    let nat = compiled(
        r#"
        static_nat = [{ zone = "wan", external = "203.0.113.20", internal = "10.0.0.9" }]
        source_nat = [
            { zone = "wan", sources = ["192.168.1.0/25"],
              addresses = ["203.0.113.16/29", "203.0.113.99"] },
            { zone = "wan", sources = ["192.168.1.0/26"], addresses = ["203.0.113.200"] },
            { zone = "wan", sources = ["192.168.1.0/24"], addresses = ["203.0.113.100"] },
        ]"#,
    );
    assert_eq!(nat.problems, Vec::<String>::new());
    let router = router(&nat);
    let pool: BTreeSet<u32> = (16..24)
        .filter(|last| *last != 20)
        .chain([99])
        .map(|last| from_address(Ipv4Addr::new(203, 0, 113, last)))
        .collect();
    let mut used = BTreeSet::new();
    for host in 2..120 {
        let address = format!("192.168.1.{host}");
        let mut of_host = BTreeSet::new();
        for (protocol, port) in [(TCP, 5000), (UDP, 5001), (UDP, 5002), (ICMP_ECHO, 7)] {
            let key = key(LAN, protocol, (&address, port), ("198.51.100.9", 80));
            of_host.insert(leaves(&router, &nat, &key).address);
        }
        assert_eq!(of_host.len(), 1, "RFC 4787 REQ-2: paired");
        used.extend(of_host);
    }
    assert_eq!(used, pool, "all are used, but not the address of another host");
    let upper = key(LAN, TCP, ("192.168.1.200", 5000), ("198.51.100.9", 80));
    assert_eq!(leaves(&router, &nat, &upper).address, ip("203.0.113.100"));
    let masqueraded = key(DMZ, TCP, ("10.0.0.7", 5000), ("198.51.100.9", 80));
    assert_eq!(leaves(&router, &nat, &masqueraded).address, ip("203.0.113.1"));
    // The router's own flows keep the address that they have.
    let own = key(ROUTER, TCP, ("203.0.113.2", 443), ("198.51.100.9", 80));
    let source = leaves(&router, &nat, &own);
    assert_eq!((source.address, source.port), (own.source, own.source_port));
}

#[test]
fn settings_of_zones_are_in_their_flags() {
    let nat = compiled("");
    assert_eq!(mss(nat.zone_flags[&WAN]), MSS_BY_MTU, "the default of a masquerading zone");
    assert_eq!((mss(nat.zone_flags[&LAN]), nat.zone_flags[&LAN]), (0, 0));
    assert_eq!(nat.zone_flags[&WAN] & (MASQUERADE | STATIC_NAT | SOURCE_POOLS), MASQUERADE);
    let bytes = zone_flags(&Zone { mss_clamp: MssClamp::Bytes(1400), ..Zone::default() });
    assert_eq!(mss(bytes), 1400);
}

#[test]
fn what_names_an_unknown_zone_is_a_problem_and_not_translated() {
    let mut firewall = firewall(
        r#"
        port_forwards = [
            { name = "web", zone = "wan", protocol = "tcp", ports = [80], to = "10.0.0.5" },
        ]
        static_nat = [{ zone = "wan", external = "203.0.113.2", internal = "10.0.0.9" }]
        source_nat = [{ zone = "wan", addresses = ["203.0.113.200"] }]"#,
    );
    firewall.source_nat[0].addresses = vec!["2001:db8::1".parse().unwrap()];
    let none = compile_nat(&firewall, &BTreeMap::new(), &[]);
    assert_eq!(none.problems.len(), 3, "{:?}", none.problems);
    assert!(none.externals.is_empty() && none.forwards.is_empty() && none.statics.is_empty());
    let some = compile_nat(&firewall, &zones(), &interfaces());
    assert_eq!(some.problems.len(), 1, "a pool of IPv6 addresses: {:?}", some.problems);
}

proptest! {
    #[test]
    fn prefixes_are_exactly_the_numbers(first in 0..2000_u32, length in 0..2000_u32, odd: u32) {
        let last = first + length;
        let mut next = first;
        for (number, bits) in split(first, last, 16) {
            prop_assert_eq!(number, next);
            prop_assert!(number.is_multiple_of(1 << (16 - bits)));
            next += 1 << (16 - bits);
        }
        prop_assert_eq!(next, last + 1);
        let all: Vec<_> = split(odd, u32::MAX, 32).collect();
        prop_assert_eq!(
            all.iter().map(|(_, bits)| 1_u64 << (32 - bits)).sum::<u64>(),
            u64::from(u32::MAX - odd) + 1
        );
    }

    /// The tables lead where the first entry of the document that fits leads.
    #[test]
    fn forwards_are_as_the_document_says(
        entries in prop::collection::vec(
            // Zone, protocols, first port, how many, to port, sources, hairpin, address.
            (any::<bool>(), 0..3_usize, 1..60_u16, 0..30_u16, prop::option::of(1..60_u16),
             prop::option::of(0..4_u8), any::<bool>(), prop::option::of(1..3_u8)),
            0..5,
        ),
        packets in prop::collection::vec(
            (0..3_usize, any::<bool>(), 0..100_u16, 0..8_u8, 1..3_u8), 20,
        ),
    ) {
        let mut list = String::new();
        for (index, (wan, protocol, first, more, to_port, source, hairpin, address)) in
            entries.iter().enumerate()
        {
            let zone = if *wan { "wan" } else { "lan" };
            let protocol = ["tcp", "udp", "both"][*protocol];
            let last = first + more;
            list += &format!(
                r#"{{ name = "f{index}", zone = "{zone}", protocol = "{protocol}",
                     ports = ["{first}-{last}"], to = "10.0.0.{}", hairpin = {hairpin}"#,
                index + 10,
            );
            if let Some(port) = to_port {
                list += &format!(", to_port = {port}");
            }
            if let Some(source) = source {
                list += &format!(r#", sources = ["198.51.100.{}/31"]"#, source * 2);
            }
            if let Some(address) = address.filter(|_| *wan) {
                list += &format!(r#", addresses = ["203.0.113.{address}"]"#);
            }
            list += "},\n";
        }
        let nat = compiled(&format!("port_forwards = [{list}]").replace('\n', " "));
        let router = router(&nat);
        for (zone, tcp, port, source, address) in packets {
            let zone = [LAN, WAN, DMZ][zone];
            let key = key(
                zone,
                if tcp { TCP } else { UDP },
                (&format!("198.51.100.{source}"), 5000),
                (&format!("203.0.113.{address}"), port),
            );
            let expected = entries.iter().enumerate().find(|(_, entry)| {
                let (wan, protocol, first, more, _, wanted_source, hairpin, wanted) = entry;
                *wan
                    && wanted.is_none_or(|wanted| wanted == address)
                    && (*protocol == 2 || (*protocol == 0) == tcp)
                    && (*first..=first + more).contains(&port)
                    && wanted_source.is_none_or(|wanted| source / 2 == wanted)
                    && (zone == WAN || *hairpin)
            });
            let expected = match expected {
                None => ("router".to_owned(), false),
                Some((index, (_, _, first, _, to_port, ..))) => {
                    let port = to_port.unwrap_or(*first) + port - first;
                    (format!("10.0.0.{}:{port}", index + 10), zone == WAN)
                }
            };
            // A list holds four candidates for a port; five entries can be more, and say so.
            if nat.problems.is_empty() {
                prop_assert_eq!(led(&router, &key, DMZ).0, expected.0);
                if zone != DMZ {
                    prop_assert_eq!(led(&router, &key, DMZ).1, expected.1);
                }
            }
        }
    }
}
