//! Each rule with its path and message. A case is a document and everything that is said of it,
//! so that no rule fires beside the one that is meant.

mod bounds;
mod ipv6;

use super::validate;
use crate::Document;

fn problems(toml: &str) -> Vec<String> {
    let document = Document::parse(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    validate(&document).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(toml: &str, expected: &[&str]) {
    assert_eq!(problems(toml), expected, "{toml}");
}

/// A LAN on `eth1` with the given addresses, and further lines.
fn lan(addresses: &str, more: &str) -> String {
    format!(
        "[interfaces.lan]\nzone = \"lan\"\nports = [\"eth1\"]\nipv4 = {{ method = \"static\", addresses = [{addresses}] }}\n{more}"
    )
}

/// The default LAN with a DHCP server of these settings.
fn server(settings: &str) -> String {
    lan("\"192.168.77.1/24\"", &format!("[dhcp.lan]\n{settings}"))
}

const POOL: &str = "pool = { start = \"192.168.77.100\", end = \"192.168.77.249\" }\n";

#[test]
fn defaults_are_valid() {
    check("", &[]);
    assert_eq!(validate(&Document::default()), []);
}

#[test]
fn all_problems_are_found_at_once() {
    check(
        "version = 2\n[dns]\ndomain = \"\"\n[firewall]\nmax_flows = 1\n[interfaces]\n",
        &[
            "version: 2 is not known; this release reads version 1",
            "interfaces: at least one interface is needed",
            "dns.domain: `` is not a domain: allowed are labels of 1 to 63 of a-z, 0-9 and -, with dots between, at most 189 characters, as in lan or home.example.org",
            "firewall.max_flows: 1 is not allowed: 1024 to 4194304 flows",
        ],
    );
}

#[test]
fn interface_zone_exists() {
    check(
        "[interfaces.dmz]\nzone = \"dmz\"\nports = [\"eth1\"]",
        &["interfaces.dmz.zone: `dmz` is not a zone; firewall.zones has: lan, wan"],
    );
    check(
        "[interfaces.dmz]\nzone = \"dmz\"\nports = [\"eth1\"]\n[firewall.zones]",
        &["interfaces.dmz.zone: `dmz` is not a zone; firewall.zones has: none is configured"],
    );
}

#[test]
fn ethernet_has_one_port() {
    check(
        "[interfaces.a]\nzone = \"lan\"\nports = []",
        &[
            "interfaces.a.ports: 0 ports, but kind \"ethernet\" has exactly one; kind \"bridge\" takes several",
        ],
    );
    check(
        "[interfaces.a]\nzone = \"lan\"\nports = [\"eth0\", \"eth1\"]",
        &[
            "interfaces.a.ports: 2 ports, but kind \"ethernet\" has exactly one; kind \"bridge\" takes several",
        ],
    );
    check(
        "[interfaces.a]\nzone = \"lan\"\nports = [\"others\"]",
        &[
            "interfaces.a.ports: `others` can be several NICs, which takes kind \"bridge\"; kind \"ethernet\" has exactly one port",
        ],
    );
    check("[interfaces.a]\nkind = \"bridge\"\nzone = \"lan\"\nports = []", &[]);
}

#[test]
fn ports_are_nics() {
    check(
        "[interfaces.a]\nzone = \"lan\"\nports = [\"lo\"]",
        &["interfaces.a.ports[0]: `lo` is not a NIC"],
    );
    check(
        "[interfaces.a]\nzone = \"lan\"\nports = [\"mac:01:00:5e:00:00:01\"]",
        &[
            "interfaces.a.ports[0]: 01:00:5e:00:00:01 is a group address (its first octet is odd); a NIC's own address is needed",
        ],
    );
    check(
        "[interfaces.a]\nzone = \"lan\"\nports = [\"mac:00:00:00:00:00:00\"]",
        &["interfaces.a.ports[0]: 00:00:00:00:00:00 is all zero; a NIC's own address is needed"],
    );
}

#[test]
fn ports_are_selected_once() {
    for port in ["first", "eth3", "mac:52:54:00:12:34:56"] {
        check(
            &format!(
                "[interfaces.a]\nzone = \"lan\"\nports = [\"{port}\"]\n[interfaces.b]\nzone = \"lan\"\nports = [\"{port}\"]"
            ),
            &[&format!(
                "interfaces.b.ports[0]: `{port}` is already selected by interfaces.a.ports[0]; a port belongs to one interface"
            )],
        );
    }
    check(
        "[interfaces.a]\nkind = \"bridge\"\nzone = \"lan\"\nports = [\"others\", \"eth2\", \"others\"]",
        &[
            "interfaces.a.ports[2]: `others` is already selected by interfaces.a.ports[0]; a port belongs to one interface",
        ],
    );
}

#[test]
fn bridge_names_are_free() {
    check(
        "[interfaces.eth1]\nkind = \"bridge\"\nzone = \"lan\"\nports = [\"others\"]\n[interfaces.wan]\nzone = \"wan\"\nports = [\"eth1\"]",
        &[
            "interfaces.eth1: a bridge cannot be named as the NIC `eth1` that interfaces.wan.ports selects",
        ],
    );
    for name in ["lo", "all", "default"] {
        check(
            &format!("[interfaces.{name}]\nkind = \"bridge\"\nzone = \"lan\"\nports = []"),
            &[&format!(
                "interfaces.{name}: a bridge cannot be named `{name}`, which Linux reserves"
            )],
        );
    }
    check("[interfaces.eth1]\nzone = \"lan\"\nports = [\"eth1\"]", &[]);
}

#[test]
fn mtu_is_sensible() {
    for mtu in [575, 9217] {
        check(
            &format!("[interfaces.a]\nzone = \"lan\"\nports = [\"eth1\"]\nmtu = {mtu}"),
            &[&format!("interfaces.a.mtu: {mtu} is not allowed: 576 to 9216 bytes")],
        );
    }
    check("[interfaces.a]\nzone = \"lan\"\nports = [\"eth1\"]\nmtu = 576", &[]);
}

#[test]
fn fixed_addresses_are_host_addresses() {
    for (address, problem) in [
        ("0.0.0.0/8", "0.0.0.0 is the unspecified address; a host address is needed"),
        (
            "0.1.2.3/8",
            "0.1.2.3 is in 0.0.0.0/8, which means \"this network\"; a host address is needed",
        ),
        ("127.0.0.1/8", "127.0.0.1 is a loopback address; a host address is needed"),
        (
            "169.254.1.1/16",
            "169.254.1.1 is a link-local address (169.254.0.0/16); a host address is needed",
        ),
        ("224.0.0.1/24", "224.0.0.1 is a multicast address; a host address is needed"),
        (
            "240.0.0.1/24",
            "240.0.0.1 is in the reserved block 240.0.0.0/4; a host address is needed",
        ),
        (
            "255.255.255.255/24",
            "255.255.255.255 is the broadcast address; a host address is needed",
        ),
        ("10.0.0.0/24", "10.0.0.0 is the network address of 10.0.0.0/24; a host address is needed"),
        (
            "10.0.0.255/24",
            "10.0.0.255 is the broadcast address of 10.0.0.0/24; a host address is needed",
        ),
        ("10.0.0.1/7", "prefix length 7 is not allowed: 8 to 30"),
        ("10.0.0.1/31", "prefix length 31 is not allowed: 8 to 30"),
        ("10.0.0.1/32", "prefix length 32 is not allowed: 8 to 30"),
    ] {
        check(
            &lan(&format!("\"{address}\""), ""),
            &[&format!("interfaces.lan.ipv4.addresses[0]: {problem}")],
        );
    }
    for address in ["10.0.0.1/8", "10.0.0.1/30", "10.0.0.254/24"] {
        check(&lan(&format!("\"{address}\""), ""), &[]);
    }
    check(
        &lan("", ""),
        &[
            "interfaces.lan.ipv4.addresses: at least one address is needed, as in [\"192.168.77.1/24\"]",
        ],
    );
    check(
        &lan("\"10.0.0.1/24\", \"10.0.0.1/16\"", ""),
        &["interfaces.lan.ipv4.addresses[1]: 10.0.0.1 is listed twice"],
    );
}

#[test]
fn networks_do_not_overlap() {
    let second = "[interfaces.b]\nzone = \"lan\"\nports = [\"eth2\"]\nipv4 = { method = \"static\", addresses = [\"10.1.0.1/16\", \"10.2.0.1/24\"] }";
    check(
        &lan("\"10.1.2.1/24\"", second),
        &[
            "interfaces.lan.ipv4.addresses[0]: 10.1.2.0/24 overlaps with 10.1.0.0/16 of interfaces.b; every interface needs a network of its own",
        ],
    );
    check(&lan("\"10.3.2.1/24\"", second), &[]);
    check(&lan("\"10.3.2.1/24\", \"10.3.2.2/24\"", ""), &[]);
}

#[test]
fn gateway_is_a_neighbour() {
    let with_gateway = |gateway: &str| {
        format!(
            "[interfaces.a]\nzone = \"wan\"\nports = [\"eth1\"]\nipv4 = {{ method = \"static\", addresses = [\"203.0.113.2/24\"], gateway = \"{gateway}\" }}"
        )
    };
    for (gateway, problem) in [
        ("203.0.114.1", "203.0.114.1 is in none of the interface's networks: 203.0.113.2/24"),
        ("203.0.113.2", "203.0.113.2 is this interface's own address"),
        ("203.0.113.0", "203.0.113.0 is the network address of 203.0.113.0/24"),
        ("203.0.113.255", "203.0.113.255 is the broadcast address of 203.0.113.0/24"),
        ("0.0.0.0", "0.0.0.0 is the unspecified address; a router's address is needed"),
    ] {
        check(&with_gateway(gateway), &[&format!("interfaces.a.ipv4.gateway: {problem}")]);
    }
    check(&with_gateway("203.0.113.1"), &[]);
}

#[test]
fn default_routes_differ_in_metric() {
    let two = |first: &str, second: &str| {
        format!(
            "[interfaces.a]\nzone = \"wan\"\nports = [\"eth1\"]\nipv4 = {{ method = \"dhcp\"{first} }}\n[interfaces.b]\nzone = \"wan\"\nports = [\"eth2\"]\nipv4 = {{ method = \"dhcp\"{second} }}"
        )
    };
    check(
        &two("", ""),
        &[
            "interfaces.b.ipv4.metric: 100 is also the metric of interfaces.a; default routes need different ones",
        ],
    );
    check(&two("", ", metric = 200"), &[]);
    check(
        &two("", ", metric = 0"),
        &["interfaces.b.ipv4.metric: 0 is not allowed: 1 to 4294967295, lower is preferred"],
    );
}

#[test]
fn dhcp_serves_an_interface_with_fixed_address() {
    check(
        &lan("\"192.168.77.1/24\"", &format!("[dhcp.guests]\n{POOL}")),
        &["dhcp.guests: `guests` is not an interface; allowed: lan"],
    );
    check(
        &format!(
            "[interfaces.wan]\nzone = \"wan\"\nports = [\"first\"]\nipv4.method = \"dhcp\"\n[dhcp.wan]\n{POOL}"
        ),
        &[
            "dhcp.wan: interfaces.wan has no fixed address; a DHCP server needs ipv4.method = \"static\"",
        ],
    );
}

#[test]
fn pool_fits_its_network() {
    for (start, end, expected) in [
        (
            "192.168.77.9",
            "192.168.77.5",
            vec!["dhcp.lan.pool: start 192.168.77.9 is above end 192.168.77.5; swap them"],
        ),
        (
            "192.168.76.100",
            "192.168.76.110",
            vec![
                "dhcp.lan.pool.start: 192.168.76.100 is outside 192.168.77.0/24",
                "dhcp.lan.pool.end: 192.168.76.110 is outside 192.168.77.0/24",
            ],
        ),
        (
            "192.168.77.0",
            "192.168.77.255",
            vec![
                "dhcp.lan.pool.start: 192.168.77.0 is the network address of 192.168.77.0/24",
                "dhcp.lan.pool.end: 192.168.77.255 is the broadcast address of 192.168.77.0/24",
                "dhcp.lan.pool: 192.168.77.0 to 192.168.77.255 contains the router's own address 192.168.77.1",
            ],
        ),
        (
            "192.168.77.1",
            "192.168.77.9",
            vec![
                "dhcp.lan.pool: 192.168.77.1 to 192.168.77.9 contains the router's own address 192.168.77.1",
            ],
        ),
    ] {
        check(&server(&format!("pool = {{ start = \"{start}\", end = \"{end}\" }}")), &expected);
    }
    check(&server("pool = { start = \"192.168.77.2\", end = \"192.168.77.2\" }"), &[]);
    let second_address =
        lan("\"192.168.77.1/24\", \"192.168.77.120/24\"", &format!("[dhcp.lan]\n{POOL}"));
    check(
        &second_address,
        &[
            "dhcp.lan.pool: 192.168.77.100 to 192.168.77.249 contains the router's own address 192.168.77.120",
        ],
    );
}

#[test]
fn lease_time_mtu_and_options() {
    for seconds in [119, 31_536_001] {
        check(
            &server(&format!("{POOL}lease_time_s = {seconds}")),
            &[&format!("dhcp.lan.lease_time_s: {seconds} is not allowed: 120 to 31536000 seconds")],
        );
    }
    check(
        &server(&format!("{POOL}mtu = 500")),
        &["dhcp.lan.mtu: 500 is not allowed: 576 to 9216 bytes"],
    );
    check(
        &server(&format!("{POOL}dns = [\"192.168.77.1\", \"224.0.0.1\"]\nntp = [\"0.0.0.0\"]")),
        &[
            "dhcp.lan.dns[1]: 224.0.0.1 is a multicast address; a host address is needed",
            "dhcp.lan.ntp[0]: 0.0.0.0 is the unspecified address; a host address is needed",
        ],
    );
    check(
        &server(&format!("{POOL}routers = [\"192.168.78.1\"]")),
        &["dhcp.lan.routers[0]: 192.168.78.1 is outside 192.168.77.0/24"],
    );
    let many = vec!["\"192.168.77.1\""; 64].join(", ");
    check(
        &server(&format!("{POOL}dns = [{many}]")),
        &["dhcp.lan.dns: 64 addresses do not fit into one DHCP option: at most 63"],
    );
}

#[test]
fn reservations_are_unique_hosts_of_the_network() {
    let reservations = |list: &str| server(&format!("{POOL}reservations = [{list}]"));
    let one = |mac: &str, address: &str, name: &str| {
        format!("{{ mac = \"{mac}\", address = \"{address}\", hostname = \"{name}\" }}")
    };
    let nas = one("52:54:00:00:00:01", "192.168.77.10", "nas");
    check(&reservations(&nas), &[]);
    for (second, problem) in [
        (
            one("52:54:00:00:00:01", "192.168.77.11", "tv"),
            "mac: 52:54:00:00:00:01 has a reservation already: reservations[0]",
        ),
        (
            one("52:54:00:00:00:02", "192.168.77.10", "tv"),
            "address: 192.168.77.10 is reserved already: reservations[0]",
        ),
        (
            one("52:54:00:00:00:02", "192.168.77.11", "NAS"),
            "hostname: `nas` is taken already by dhcp.lan.reservations[0].hostname; names are unique in the local domain",
        ),
        (
            one("52:54:00:00:00:02", "192.168.77.11", "portcullis"),
            "hostname: `portcullis` is taken already by system.hostname; names are unique in the local domain",
        ),
        (
            one("52:54:00:00:00:02", "192.168.78.11", "tv"),
            "address: 192.168.78.11 is outside 192.168.77.0/24",
        ),
        (
            one("52:54:00:00:00:02", "192.168.77.255", "tv"),
            "address: 192.168.77.255 is the broadcast address of 192.168.77.0/24",
        ),
        (
            one("52:54:00:00:00:02", "192.168.77.1", "tv"),
            "address: 192.168.77.1 is the router's own address",
        ),
        (
            one("53:54:00:00:00:02", "192.168.77.11", "tv"),
            "mac: 53:54:00:00:00:02 is a group address (its first octet is odd); a client's address is needed",
        ),
    ] {
        check(
            &reservations(&format!("{nas}, {second}")),
            &[&format!("dhcp.lan.reservations[1].{problem}")],
        );
    }
}

#[test]
fn domain_is_a_domain() {
    let domain = |domain: &str| format!("[dns]\ndomain = \"{domain}\"");
    let form = "is not a domain: allowed are labels of 1 to 63 of a-z, 0-9 and -, with dots between, at most 189 characters, as in lan or home.example.org";
    let long_label = "a".repeat(64);
    let long = vec!["a".repeat(60); 4].join(".");
    for wrong in ["", ".", "lan.", "a..b", "-a", "a_b", "ä", "a b", &long_label, &long] {
        check(&domain(wrong), &[&format!("dns.domain: `{wrong}` {form}")]);
    }
    for (reserved, by) in [
        ("local", "multicast DNS (RFC 6762)"),
        ("home.LOCAL", "multicast DNS (RFC 6762)"),
        ("localhost", "the host itself (RFC 6761)"),
        (
            "10.in-addr.arpa",
            "the DNS itself (RFC 3172); only home.arpa is for local names (RFC 8375)",
        ),
        ("192.168.77.1", "addresses: the last label is a number"),
    ] {
        check(
            &domain(reserved),
            &[&format!("dns.domain: `{reserved}` is reserved for {by}; lan is a good choice")],
        );
    }
    for right in ["lan", "home.arpa", "home.example.org", "xn--bcher-kva.example"] {
        check(&domain(right), &[]);
    }
}

#[test]
fn upstreams_are_other_servers() {
    for (upstream, problem) in [
        ("127.0.0.1", "127.0.0.1 is a loopback address; the address of a DNS server is needed"),
        ("[::1]:5353", "::1 is a loopback address; the address of a DNS server is needed"),
        (
            "fe80::1",
            "fe80::1 is a link-local address, which does not say by which interface; the address of a DNS server is needed",
        ),
        ("ff02::1", "ff02::1 is a multicast address; the address of a DNS server is needed"),
        ("192.168.77.1", "192.168.77.1 is the router's own address; it would ask itself"),
        ("9.9.9.9:0", "port 0 is not allowed: 1 to 65535"),
    ] {
        check(
            &format!("[dns]\nupstreams = [\"{upstream}\"]"),
            &[&format!("dns.upstreams[0]: {problem}")],
        );
    }
    check(
        "[dns]\nupstreams = [\"9.9.9.9\", \"2620:fe::fe\", \"9.9.9.9:53\"]",
        &["dns.upstreams[2]: 9.9.9.9 is listed twice"],
    );
    check(
        "[dns]\ncache_entries = 1000001",
        &["dns.cache_entries: 1000001 is not allowed: 0 to 1000000 answers"],
    );
}

#[test]
fn policies_name_zones_once() {
    check(
        "[firewall]\npolicies = [{ from = \"lan\", to = \"dmz\", action = \"allow\" }]",
        &["firewall.policies[0].to: `dmz` is not a zone; firewall.zones has: lan, wan"],
    );
    check(
        "[firewall]\npolicies = [{ from = \"dmz\", to = \"lan\", action = \"deny\" }]",
        &["firewall.policies[0].from: `dmz` is not a zone; firewall.zones has: lan, wan"],
    );
    check(
        "[firewall]\npolicies = [{ from = \"lan\", to = \"wan\", action = \"allow\" }, { from = \"lan\", to = \"wan\", action = \"deny\" }]",
        &["firewall.policies[1]: has no effect: policies[0] decides already from `lan` to `wan`"],
    );
    check(
        "[firewall.zones.lan]\n[firewall.zones.wan]\n[firewall.zones.router]",
        &["firewall.zones.router: `router` means the router itself; the zone needs another name"],
    );
    // A rule `from = "any"` would be for all zones, not for this one.
    check(
        "[firewall.zones.lan]\n[firewall.zones.wan]\n[firewall.zones.any]",
        &["firewall.zones.any: `any` means all zones; the zone needs another name"],
    );
}

#[test]
fn timeouts_are_those_of_the_rfcs() {
    for (field, least, source) in [
        ("tcp_established_s", 7440, " (RFC 5382 REQ-5)"),
        ("tcp_transitory_s", 240, " (RFC 5382 REQ-5)"),
        ("udp_s", 120, " (RFC 4787 REQ-5)"),
        ("udp_unreplied_s", 30, ""),
        ("icmp_s", 60, " (RFC 5508 REQ-2)"),
    ] {
        check(&format!("[firewall.timeouts]\n{field} = {least}"), &[]);
        let short = least - 1;
        check(
            &format!("[firewall.timeouts]\n{field} = {short}"),
            &[&format!(
                "firewall.timeouts.{field}: {short} is too short: at least {least} seconds{source}"
            )],
        );
    }
}

#[test]
fn metrics_are_not_0_whether_they_are_used_or_not() {
    check(
        &lan("\"192.168.77.1/24\"", "").replace("] }", "], metric = 0 }"),
        &["interfaces.lan.ipv4.metric: 0 is not allowed: 1 to 4294967295, lower is preferred"],
    );
}
