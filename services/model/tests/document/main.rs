//! Reading and writing the document: what replaced tables leave behind, errors with their place,
//! and that nothing that can be written is read as something else.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod errors;
mod firewalls;

use portcullis_model::{
    DhcpServer, Dns, Document, HostName, Interface, InterfaceKind, Ipv4, Ipv6, MacAddress, Name,
    Pool, PortSelector, Reservation, System, UpstreamAddress, validate::validate,
};
use proptest::{collection, option, prelude::*};

fn parse(text: &str) -> Document {
    Document::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn an_empty_document_is_the_defaults() {
    assert_eq!(parse(""), Document::default());
    assert_eq!(parse("version = 1\n[system]\n[dns]\n[firewall]\n"), Document::default());
}

#[test]
fn default_dhcp_server_stays_with_the_default_network_only() {
    let lan = |address: &str| {
        parse(&format!(
            "[interfaces.lan]\nzone = \"lan\"\nports = [\"eth1\"]\nipv4 = {{ method = \"static\", addresses = [\"{address}\"] }}"
        ))
    };
    assert_eq!(lan("192.168.77.1/24").dhcp, Document::default().dhcp);
    for other in ["192.168.77.1/25", "192.168.77.2/24", "10.0.0.1/24"] {
        assert!(lan(other).dhcp.is_empty(), "{other}");
    }
    let other_name = parse(
        "[interfaces.home]\nzone = \"lan\"\nports = [\"eth1\"]\nipv4 = { method = \"static\", addresses = [\"192.168.77.1/24\"] }",
    );
    assert!(other_name.dhcp.is_empty());
    assert!(parse("[interfaces.lan]\nzone = \"lan\"\nports = [\"eth1\"]").dhcp.is_empty());
    assert!(parse("[dhcp]").dhcp.is_empty(), "an empty table is written, too");
}

#[test]
fn default_policies_stay_with_their_zones_only() {
    let policies = |text: &str| parse(text).firewall.policies;
    assert_eq!(
        policies("[firewall.zones.lan]\n[firewall.zones.wan]\n[firewall.zones.guests]"),
        Document::default().firewall.policies
    );
    assert_eq!(policies("[firewall.zones.lan]\n[firewall.zones.internet]"), []);
    assert_eq!(policies("[firewall]\npolicies = []"), []);
    assert_eq!(policies("[firewall]\nmax_flows = 2048"), Document::default().firewall.policies);
}

#[test]
fn the_documented_example_is_valid() {
    let text = include_str!("../../../../docs/configuration-example.toml");
    let document = parse(text);
    let problems = validate(&document);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(parse(&document.to_toml().unwrap()), document);
}

#[test]
fn every_document_in_the_manual_is_valid() {
    let manual = include_str!("../../../../docs/configuration.md");
    let blocks: Vec<&str> =
        manual.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 3, "the manual has examples");
    for block in blocks {
        let problems = validate(&parse(block));
        assert!(problems.is_empty(), "{problems:?}\n{block}");
    }
}

#[test]
fn the_manual_names_every_field() {
    let manual = include_str!("../../../../docs/configuration.md");
    let example = parse(include_str!("../../../../docs/configuration-example.toml"));
    let toml = example.to_toml().unwrap();
    for key in toml.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.trim()) {
        assert!(manual.contains(&format!("`{key}`")), "`{key}` is not in the manual");
    }
}

/// A document in which all that can be left out is.
const SPARE: &str = r#"
[interfaces.a]
zone = "lan"
ports = ["eth1"]
[dhcp.a]
pool = { start = "192.0.2.10", end = "192.0.2.20" }
[firewall.zones.lan]
[[firewall.policies]]
from = "lan"
to = "lan"
action = "allow"
[[firewall.rules]]
name = "rule"
action = "allow"
[[firewall.port_forwards]]
name = "forward"
zone = "lan"
protocol = "tcp"
ports = [80]
to = "192.0.2.3"
"#;

/// What the table under a heading of the manual is about, such as `[firewall.zones.NAME]`.
fn table_of(heading: &str, document: &toml::Table) -> Option<toml::Table> {
    let path = heading.trim_start_matches(['#', ' ', '`', '[']).trim_end_matches([']', '`']);
    let mut table = document.clone();
    for key in path.split('.') {
        // Names of entries are in capitals.
        let named = key.chars().all(char::is_uppercase);
        let value = if named { table.values().next() } else { table.get(key) };
        table = match value?.clone() {
            toml::Value::Array(list) => list.first()?.as_table()?.clone(),
            value => value.as_table()?.clone(),
        };
    }
    Some(table)
}

/// What a cell says, unless it says it in words.
fn value_in(cell: &str) -> Option<toml::Value> {
    let quoted = cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
    let read: Result<toml::Table, _> = format!("x = {}", quoted.unwrap_or(cell)).parse();
    match read {
        Ok(mut table) => table.remove("x"),
        Err(_) => quoted.map(|text| toml::Value::String(text.to_owned())),
    }
}

#[test]
fn the_manual_tells_the_true_defaults() {
    let manual = include_str!("../../../../docs/configuration.md");
    let defaults = parse(SPARE).to_toml().unwrap().parse().unwrap();
    let mut table = None;
    let mut compared = Vec::new();
    for line in manual.lines() {
        if line.starts_with('#') {
            table = table_of(line, &defaults);
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, field, default, ..] = cells.as_slice() else { continue };
        let field = field.trim_matches('`');
        let value = table.as_ref().and_then(|table| table.get(field));
        if let (Some(value), Some(told)) = (value, value_in(default)) {
            assert_eq!(*value, told, "{line}");
            compared.push(field);
        }
    }
    assert!(compared.len() >= 30, "{compared:?}");
}

#[test]
fn corpus_of_the_fuzzer() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus/config_document");
    let mut files = 0;
    for entry in std::fs::read_dir(&corpus).expect("the corpus is in the repository") {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if let Ok(text) = std::str::from_utf8(&bytes) {
            read_validate_write(text);
            files += 1;
        }
    }
    assert!(files >= 5, "{files} files in {}", corpus.display());
}

fn read_validate_write(text: &str) {
    let read = Document::read(text);
    if let Err(errors) = &read {
        assert!(!errors.is_empty() && Document::parse(text).is_err());
    }
    if let Ok(document) = read {
        let _ = validate(&document);
        let again = document.to_toml().expect("a document can be written");
        assert_eq!(Document::parse(&again).as_ref(), Ok(&document));
    }
}

// --- arbitrary documents -------------------------------------------------------------------

fn names() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9_-]{0,14}".prop_map(|text| name(&text))
}

fn hosts() -> impl Strategy<Value = HostName> {
    "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn addresses() -> impl Strategy<Value = std::net::Ipv4Addr> {
    any::<u32>().prop_map(Into::into)
}

fn macs() -> impl Strategy<Value = MacAddress> {
    any::<[u8; 6]>().prop_map(MacAddress)
}

fn networks() -> impl Strategy<Value = ipnet::Ipv4Net> {
    (addresses(), 0..=32_u8)
        .prop_map(|(address, length)| ipnet::Ipv4Net::new_assert(address, length))
}

fn ports() -> impl Strategy<Value = PortSelector> {
    prop_oneof![
        Just(PortSelector::First),
        Just(PortSelector::Others),
        "[a-z][a-z0-9.@-]{0,14}".prop_map(|text| text.parse().unwrap()),
        macs().prop_map(PortSelector::Mac),
    ]
}

fn ipv4() -> impl Strategy<Value = Ipv4> {
    prop_oneof![
        Just(Ipv4::None),
        any::<u32>().prop_map(|metric| Ipv4::Dhcp { metric }),
        (collection::vec(networks(), 0..4), option::of(addresses()), any::<u32>())
            .prop_map(|(addresses, gateway, metric)| Ipv4::Static { addresses, gateway, metric }),
    ]
}

fn ipv6() -> impl Strategy<Value = Ipv6> {
    let network = (any::<std::net::Ipv6Addr>(), 0..=128_u8)
        .prop_map(|(address, length)| ipnet::Ipv6Net::new_assert(address, length));
    prop_oneof![
        Just(Ipv6::None),
        (collection::vec(network, 0..4), option::of(any::<std::net::Ipv6Addr>()), any::<u32>())
            .prop_map(|(addresses, gateway, metric)| Ipv6::Static { addresses, gateway, metric }),
    ]
}

fn interfaces() -> impl Strategy<Value = Interface> {
    let kind = prop_oneof![Just(InterfaceKind::Ethernet), Just(InterfaceKind::Bridge)];
    let ports = collection::vec(ports(), 0..4);
    (kind, names(), ports, option::of(any::<u16>()), ipv4(), ipv6()).prop_map(
        |(kind, zone, ports, mtu, ipv4, ipv6)| Interface { kind, zone, ports, mtu, ipv4, ipv6 },
    )
}

fn servers() -> impl Strategy<Value = DhcpServer> {
    let list = || collection::vec(addresses(), 0..3);
    let reservation = (macs(), addresses(), option::of(hosts()))
        .prop_map(|(mac, address, hostname)| Reservation { mac, address, hostname });
    (
        (addresses(), addresses()),
        any::<u32>(),
        (list(), list(), list()),
        option::of(any::<u16>()),
        collection::vec(reservation, 0..4),
    )
        .prop_map(|((start, end), lease_time_s, (routers, dns, ntp), mtu, reservations)| {
            DhcpServer {
                pool: Pool { start, end },
                lease_time_s,
                routers,
                dns,
                ntp,
                mtu,
                reservations,
            }
        })
}

fn documents() -> impl Strategy<Value = Document> {
    let upstream = any::<std::net::SocketAddr>().prop_map(|address| {
        // The text form has neither flow label nor scope.
        UpstreamAddress(std::net::SocketAddr::new(address.ip(), address.port()))
    });
    let dns = (any::<String>(), collection::vec(upstream, 0..4), any::<u32>())
        .prop_map(|(domain, upstreams, cache_entries)| Dns { domain, upstreams, cache_entries });
    (
        any::<u32>(),
        hosts(),
        collection::btree_map(names(), interfaces(), 0..4),
        collection::btree_map(names(), servers(), 0..3),
        dns,
        firewalls::firewalls(),
    )
        .prop_map(|(version, hostname, interfaces, dhcp, dns, firewall)| Document {
            version,
            system: System { hostname },
            interfaces,
            dhcp,
            dns,
            firewall,
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(document in documents()) {
        let toml = document.to_toml().unwrap();
        prop_assert_eq!(parse(&toml), document);
    }

    #[test]
    fn validation_and_parts_end(document in documents()) {
        let _ = validate(&document);
        let _ = portcullis_model::part::NetworkPart::of(&document);
        let _ = portcullis_model::part::FirewallPart::of(&document);
        let _ = portcullis_model::part::DhcpPart::of(&document);
        let _ = portcullis_model::part::DnsPart::of(&document);
        let _ = portcullis_model::part::WebPart::of(&document);
    }

    #[test]
    fn any_text_is_a_document_or_an_error(text in any::<String>()) {
        read_validate_write(&text);
    }

    /// Texts that are nearly documents: lines of the example, changed and shuffled.
    #[test]
    fn damaged_documents_are_documents_or_errors(
        picks in collection::vec((0..200_usize, 0..60_usize, any::<char>()), 0..40)
    ) {
        let example = include_str!("../../../../docs/configuration-example.toml");
        let lines: Vec<&str> = example.lines().collect();
        let mut text = String::new();
        for (line, column, c) in picks {
            let mut line: Vec<char> = lines[line % lines.len()].chars().collect();
            if column < line.len() {
                line[column] = c;
            }
            text.extend(line);
            text.push('\n');
        }
        read_validate_write(&text);
    }
}
