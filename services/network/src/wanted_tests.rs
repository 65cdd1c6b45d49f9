#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::Ipv4Addr;

use portcullis_model::Document;

use super::*;

fn link(index: u32, name: &str) -> (u32, Link) {
    let bus_path = Some(format!("/sys/devices/pci0000:00/0000:00:0{index}.0/000"));
    let mac = Some(portcullis_model::MacAddress([2, 0, 0, 0, 0, index.try_into().unwrap()]));
    let link =
        Link { index, name: name.to_owned(), bus_path, mac, max_mtu: 9000, ..Link::default() };
    (index, link)
}

fn lease(address: &str, routes: &[(&str, Option<&str>)]) -> Grant {
    Grant {
        address: address.parse().unwrap(),
        server: Ipv4Addr::new(10, 9, 0, 1),
        lease_s: 3600,
        renewal_s: 1800,
        rebinding_s: 3150,
        routes: routes
            .iter()
            .map(|(net, via)| (net.parse().unwrap(), via.map(|via| via.parse().unwrap())))
            .collect(),
        dns: Vec::new(),
        ntp: Vec::new(),
        domain: None,
        mtu: Some(1400),
    }
}

fn target_of(toml: &str, leases: &[(&str, Grant)]) -> Target {
    let leases = leases.iter().map(|(name, l)| (name.parse().unwrap(), l.clone())).collect();
    let present = Present {
        links: &BTreeMap::from([link(2, "eth0"), link(3, "eth1"), link(4, "eth2")]),
        leases: &leases,
        original_mtus: &BTreeMap::from([("eth1".to_owned(), 1500)]),
        all_ports: false,
        guard: &Guard::Off,
    };
    target(&NetworkPart::of(&Document::parse(toml).unwrap()), &present)
}

#[test]
fn only_what_is_behind_the_firewall_may_come_up() {
    let held = |guard: &Guard| -> Vec<String> {
        let present = Present {
            links: &BTreeMap::from([link(2, "eth0"), link(3, "eth1"), link(4, "eth2")]),
            leases: &BTreeMap::new(),
            original_mtus: &BTreeMap::new(),
            all_ports: false,
            guard,
        };
        let target = target(&NetworkPart::of(&Document::parse("").unwrap()), &present);
        let devices = target.wanted.devices.into_iter();
        devices.filter(|(_, device)| device.held).map(|(name, _)| name).collect()
    };
    // The bridge is not made yet; its ports lead nowhere but to it.
    assert_eq!(held(&Guard::Unknown), ["eth0", "lan"]);
    assert_eq!(held(&Guard::Behind(BTreeSet::from([3, 4]))), ["eth0", "lan"]);
    assert_eq!(held(&Guard::Behind(BTreeSet::from([2]))), ["lan"]);
    assert!(held(&Guard::Off).is_empty());
}

fn routes(target: &Target) -> Vec<String> {
    target.wanted.routes.iter().map(|(device, way)| format!("{device} {way}")).collect()
}

#[test]
fn the_defaults_with_a_lease() {
    let grant = lease("10.9.0.100/24", &[("0.0.0.0/0", Some("10.9.0.1"))]);
    let target = target_of("", &[("wan", grant)]);
    let devices = &target.wanted.devices;
    assert_eq!(devices["eth0"].addresses, ["10.9.0.100/24".parse().unwrap()]);
    assert_eq!(devices["eth0"].mtu, Some(1400));
    assert_eq!(devices["eth1"].master.as_deref(), Some("lan"));
    // What was changed once is set back.
    assert_eq!((devices["eth1"].mtu, devices["eth2"].mtu), (Some(1500), None));
    // The bridge has the first port's hardware address.
    assert_eq!(devices["lan"].bridge, Some(Some(portcullis_model::MacAddress([2, 0, 0, 0, 0, 3]))));
    assert_eq!(routes(&target), ["eth0 0.0.0.0/0 via 10.9.0.1 src 10.9.0.100 metric 100"]);
    assert_eq!(target.problems, Vec::<String>::new());
}

#[test]
fn a_gateway_outside_of_the_prefix_is_on_the_link() {
    let grant = lease("203.0.113.5/32", &[("0.0.0.0/0", Some("198.51.100.1"))]);
    let target = target_of("", &[("wan", grant)]);
    assert_eq!(
        routes(&target),
        ["eth0 0.0.0.0/0 via 198.51.100.1 onlink src 203.0.113.5 metric 100"]
    );
}

#[test]
fn equal_uplinks_get_metrics_in_the_order_of_their_names() {
    let toml = r#"
        [interfaces.a]
        zone = "wan"
        ports = ["eth0"]
        ipv4 = { method = "dhcp" }
        [interfaces.b]
        zone = "wan"
        ports = ["eth1"]
        ipv4 = { method = "static", addresses = ["10.8.0.2/24"], gateway = "10.8.0.1" }
    "#;
    let grant = lease("10.9.0.100/24", &[("0.0.0.0/0", Some("10.9.0.1"))]);
    let target = target_of(toml, &[("a", grant)]);
    assert_eq!(
        routes(&target),
        [
            "eth0 0.0.0.0/0 via 10.9.0.1 src 10.9.0.100 metric 100",
            "eth1 0.0.0.0/0 via 10.8.0.1 metric 101"
        ]
    );
    let sysctl = |path: &str| {
        let path = format!("net/{path}");
        target.wanted.sysctls.iter().find(|(p, _)| *p == path).map(|(_, value)| value.as_str())
    };
    for device in ["eth0", "eth1"] {
        // Several uplinks: packets may come by any, and leave by the one that has a link.
        assert_eq!(sysctl(&format!("ipv4/conf/{device}/rp_filter")), Some("2"));
        let linkdown = |version| format!("{version}/conf/{device}/ignore_routes_with_linkdown");
        assert_eq!(sysctl(&linkdown("ipv4")), Some("1"));
        assert_eq!(sysctl(&linkdown("ipv6")), Some("0"));
    }
}

#[test]
fn a_leased_network_that_overlaps_the_lan_is_told() {
    let grant = lease("192.168.5.50/16", &[("0.0.0.0/0", Some("192.168.5.1"))]);
    let target = target_of("", &[("wan", grant)]);
    assert_eq!(
        target.problems,
        [
            "wan: the leased network 192.168.0.0/16 overlaps lan's 192.168.77.1/24; give lan another network"
        ]
    );
    // The LAN's prefix is longer, and so wins.
    assert_eq!(target.wanted.devices["eth0"].addresses, ["192.168.5.50/16".parse().unwrap()]);
    assert_eq!(routes(&target).len(), 1);
}

/// The kernel would make a route to the prefix, which is as good as the LAN's or better, and take
/// packets to the host with the address for its own.
#[test]
fn a_server_cannot_take_a_network_of_the_lan_by_the_address_that_it_leases() {
    for address in ["192.168.77.50/24", "192.168.77.129/25", "192.168.77.20/32", "192.168.77.20/16"]
    {
        let grant = lease(address, &[("0.0.0.0/0", Some("192.168.77.254"))]);
        let target = target_of("", &[("wan", grant)]);
        assert!(target.wanted.devices["eth0"].addresses.is_empty(), "{address}");
        assert_eq!(routes(&target), Vec::<String>::new());
        assert_eq!(
            target.problems,
            [format!(
                "wan: the leased address {address} is in lan's 192.168.77.1/24 and is not used; give lan another network"
            )]
        );
    }
}

/// Two uplinks to the same network are no conflict.
#[test]
fn leases_of_the_same_network_are_used_both() {
    let toml = r#"
        [interfaces.a]
        zone = "wan"
        ports = ["eth0"]
        ipv4 = { method = "dhcp" }
        [interfaces.b]
        zone = "wan"
        ports = ["eth1"]
        ipv4 = { method = "dhcp" }
    "#;
    let leases = [("a", lease("10.9.0.100/24", &[])), ("b", lease("10.9.0.101/24", &[]))];
    let target = target_of(toml, &leases);
    assert_eq!(target.problems, Vec::<String>::new());
    assert_eq!(target.wanted.devices["eth1"].addresses, ["10.9.0.101/24".parse().unwrap()]);
}

#[test]
fn a_device_in_the_way_of_a_bridge_is_told() {
    let toml = r#"
        [interfaces.eth0]
        kind = "bridge"
        zone = "lan"
        ports = ["eth1"]
    "#;
    let target = target_of(toml, &[]);
    assert!(target.problems[0].starts_with("eth0: a device of this name is there"));
    assert!(target.wanted.devices.is_empty());
}

#[test]
fn the_servers_mtu_is_bounded_by_the_nic_and_the_users_rules() {
    let huge = Grant { mtu: Some(65_000), ..lease("10.9.0.100/24", &[]) };
    let toml = |mtu: &str| {
        format!(
            "[interfaces.wan]\nzone = \"wan\"\nports = [\"eth0\"]\n{mtu}\nipv4 = {{ method = \"dhcp\" }}"
        )
    };
    let mtu = |toml: &str| target_of(toml, &[("wan", huge.clone())]).wanted.devices["eth0"].mtu;
    assert_eq!(mtu(&toml("")), Some(9000));
    assert_eq!(mtu(&toml("mtu = 1492")), Some(1492));
}

#[test]
fn the_servers_mtu_does_not_take_ipv6_off_the_link() {
    let mtu_with = |ipv6: &str| {
        let toml = format!(
            "[interfaces.wan]\nzone = \"wan\"\nports = [\"eth0\"]\nipv4 = {{ method = \"dhcp\" }}\n{ipv6}"
        );
        let small = Grant { mtu: Some(576), ..lease("10.9.0.100/24", &[]) };
        target_of(&toml, &[("wan", small)]).wanted.devices["eth0"].mtu
    };
    assert_eq!(mtu_with(""), Some(576));
    let ipv6 = "ipv6 = { method = \"static\", addresses = [\"2001:db8::2/64\"] }";
    assert_eq!(mtu_with(ipv6), Some(1280));
}

#[test]
fn a_server_cannot_lead_other_networks_to_itself() {
    let grant = lease(
        "10.9.0.100/24",
        &[
            ("0.0.0.0/0", Some("10.9.0.1")),
            ("10.9.0.128/25", Some("10.9.0.1")),
            ("192.168.0.0/16", Some("10.9.0.1")),
            ("192.168.77.0/24", Some("10.9.0.1")),
            ("192.168.77.128/25", Some("10.9.0.1")),
            ("192.168.77.20/32", None),
        ],
    );
    let target = target_of("", &[("wan", grant)]);
    // What is longer than the LAN's own prefix would win over it.
    assert_eq!(
        routes(&target),
        [
            "eth0 0.0.0.0/0 via 10.9.0.1 src 10.9.0.100 metric 100",
            "eth0 10.9.0.128/25 via 10.9.0.1 src 10.9.0.100 metric 100",
            "eth0 192.168.0.0/16 via 10.9.0.1 src 10.9.0.100 metric 100",
        ]
    );
    assert_eq!(target.problems.len(), 3, "{:?}", target.problems);
    assert_eq!(
        target.problems[1],
        "wan: the leased route to 192.168.77.128/25 would lead lan's network 192.168.77.0/24 away and is not used"
    );
}
