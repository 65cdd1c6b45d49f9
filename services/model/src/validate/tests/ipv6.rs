//! What the validator says of IPv6 addresses, routes and upstreams.

use super::check;

#[test]
fn ipv6_addresses_are_those_of_hosts_in_networks_of_their_own() {
    let wan = |addresses: &str, rest: &str| {
        format!(
            "[interfaces.wan]\nzone = \"wan\"\nports = [\"eth0\"]\nipv4 = {{ method = \"dhcp\" }}\n\
             ipv6 = {{ method = \"static\", addresses = [{addresses}]{rest} }}\n\
             [interfaces.lan]\nzone = \"lan\"\nports = [\"eth1\"]\n\
             ipv4 = {{ method = \"static\", addresses = [\"192.168.77.1/24\"] }}\n\
             ipv6 = {{ method = \"static\", addresses = [\"2001:db8:77::1/64\"] }}\n"
        )
    };
    let at = "interfaces.wan.ipv6";
    check(&wan("\"2001:db8:1::2/64\"", ", gateway = \"2001:db8:1::1\""), &[]);
    check(&wan("\"2001:db8:1::2/64\"", ", gateway = \"fe80::1\""), &[]);
    for (addresses, rest, problem) in [
        ("", "", "addresses: at least one address is needed, as in [\"2001:db8:77::1/64\"]"),
        (
            "\"ff02::1/64\"",
            "",
            "addresses[0]: ff02::1 is a multicast address; a host address is needed",
        ),
        (
            "\"fe80::2/64\"",
            "",
            "addresses[0]: fe80::2 is a link-local address, which does not say by which interface; a host address is needed",
        ),
        (
            "\"2001:db8:1::/64\"",
            "",
            "addresses[0]: 2001:db8:1:: is the address of all routers in 2001:db8:1::/64",
        ),
        ("\"2001:db8:1::2/128\"", "", "addresses[0]: prefix length 128 is not allowed: 16 to 127"),
        (
            "\"2001:db8:1::2/64\"",
            ", gateway = \"2001:db8:2::1\"",
            "gateway: 2001:db8:2::1 is not link-local and in none of the interface's networks: 2001:db8:1::2/64",
        ),
        (
            "\"2001:db8:1::2/64\"",
            ", gateway = \"2001:db8:1::2\"",
            "gateway: 2001:db8:1::2 is this interface's own address",
        ),
        (
            "\"2001:db8:1::2/64\"",
            ", metric = 0",
            "metric: 0 is not allowed: 1 to 4294967295, lower is preferred",
        ),
        (
            "\"2001:db8:77::2/48\"",
            "",
            "addresses[0]: 2001:db8:77::/48 overlaps with 2001:db8:77::/64 of interfaces.lan; every interface needs a network of its own",
        ),
    ] {
        check(&wan(addresses, rest), &[&format!("{at}.{problem}")]);
    }
}

#[test]
fn default_routes_of_ipv6_have_different_metrics_too() {
    let uplink = |name: &str, number: u8, metric: &str| {
        format!(
            "[interfaces.{name}]\nzone = \"wan\"\nports = [\"eth{number}\"]\nipv6 = {{ method = \"static\", addresses = [\"2001:db8:{number}::2/64\"], gateway = \"fe80::1\"{metric} }}\n"
        )
    };
    check(
        &(uplink("a", 1, "") + &uplink("b", 2, "")),
        &[
            "interfaces.b.ipv6.metric: 100 is also the metric of interfaces.a; default routes need different ones",
        ],
    );
    check(&(uplink("a", 1, "") + &uplink("b", 2, ", metric = 200")), &[]);
    // The families have tables of their own.
    let both = uplink("a", 1, "").replace("ipv6", "ipv4 = { method = \"dhcp\" }\nipv6");
    check(&both, &[]);
}

#[test]
fn ipv6_needs_its_mtu() {
    let with = |mtu: u16, ipv6: &str| {
        format!("[interfaces.a]\nzone = \"wan\"\nports = [\"eth1\"]\nmtu = {mtu}\n{ipv6}")
    };
    let ipv6 = "ipv6 = { method = \"static\", addresses = [\"2001:db8::1/64\"] }";
    check(
        &with(1279, ipv6),
        &[
            "interfaces.a.mtu: 1279 is not allowed: 1280 to 9216 bytes with IPv6 addresses (RFC 8200 section 5)",
        ],
    );
    check(&with(1280, ipv6), &[]);
    check(&with(576, ""), &[]);
    for mtu in [575, 9217] {
        check(
            &with(mtu, ""),
            &[&format!("interfaces.a.mtu: {mtu} is not allowed: 576 to 9216 bytes")],
        );
    }
}

#[test]
fn mapped_addresses_are_nobodys() {
    check(
        "[interfaces.a]\nzone = \"wan\"\nports = [\"eth1\"]\nipv6 = { method = \"static\", addresses = [\"::ffff:192.0.2.1/120\"] }\n[dns]\nupstreams = [\"[::ffff:192.168.77.1]:53\"]",
        &[
            "interfaces.a.ipv6.addresses[0]: ::ffff:192.0.2.1 is an IPv4 address in the notation of IPv6, which no packet has; a host address is needed",
            "dns.upstreams[0]: ::ffff:192.168.77.1 is an IPv4 address in the notation of IPv6, which no packet has; the address of a DNS server is needed",
        ],
    );
}

#[test]
fn an_upstream_is_not_the_router_itself_in_either_family() {
    check(
        "[interfaces.a]\nzone = \"lan\"\nports = [\"eth1\"]\nipv6 = { method = \"static\", addresses = [\"2001:db8::1/64\"] }\n[dns]\nupstreams = [\"2001:db8::1\"]",
        &["dns.upstreams[0]: 2001:db8::1 is the router's own address; it would ask itself"],
    );
}
