//! Each rule of `firewall`'s rules, sets and translations with its path and message.

use crate::{Document, validate::validate};

#[track_caller]
fn check(toml: &str, expected: &[&str]) {
    let document = Document::parse(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    let problems: Vec<_> = validate(&document).iter().map(ToString::to_string).collect();
    assert_eq!(problems, expected, "{toml}");
}

/// A rule with these settings.
#[track_caller]
fn rule(settings: &str, expected: &[&str]) {
    check(&format!("[[firewall.rules]]\nname = \"a\"\naction = \"allow\"\n{settings}"), expected);
}

/// A port forward from the WAN with these settings beside its port, 80, and host.
#[track_caller]
fn forwards(settings: &[&str], expected: &[&str]) {
    let mut text = String::new();
    for (name, settings) in ["a", "b", "c"].iter().zip(settings) {
        text += &format!(
            "[[firewall.port_forwards]]\nname = \"{name}\"\nzone = \"wan\"\nto = \"192.168.77.20\"\n{settings}\n"
        );
    }
    check(&text, expected);
}

#[test]
fn sets_exist_and_do_not_contain_themselves() {
    check(
        "[firewall.addresses.a]\nmembers = [\"@b\", \"@x\"]\n[firewall.addresses.b]\nmembers = [\"10.0.0.1\", \"@a\"]\n",
        &[
            "firewall.addresses.a.members[1]: `@x` is not an address set; firewall.addresses has: a, b",
            "firewall.addresses.b.members[1]: a set must not contain itself: a -> b -> a",
        ],
    );
    check(
        "[firewall.ports.a]\nmembers = [\"@a\", \"@x\"]\n",
        &[
            "firewall.ports.a.members[1]: `@x` is not a port set; firewall.ports has: a",
            "firewall.ports.a.members[0]: a set must not contain itself: a -> a",
        ],
    );
    check(
        "[firewall.addresses.a]\nmembers = [\"@b\", \"@c\"]\n[firewall.addresses.b]\nmembers = [\"@c\"]\n[firewall.addresses.c]\nmembers = []\n",
        &[],
    );
    check(
        "[firewall.schedules.never]\ndays = []\n",
        &[
            "firewall.schedules.never.days: at least one day is needed, of mon, tue, wed, thu, fri, sat, sun",
        ],
    );
}

#[test]
fn rules_name_what_there_is() {
    rule(
        "from = [\"lan\", \"moon\"]\nto = \"sun\"\nsources = [\"@x\"]\nschedule = \"s\"\n",
        &[
            "firewall.rules[0].from[1]: `moon` is not a zone; firewall.zones has: lan, wan",
            "firewall.rules[0].to: `sun` is not a zone; firewall.zones has: lan, wan",
            "firewall.rules[0].sources[0]: `@x` is not an address set; firewall.addresses has: none is configured",
            "firewall.rules[0].schedule: `s` is not a schedule; firewall.schedules has: none is configured",
        ],
    );
    rule("from = \"lan\"\nto = \"router\"\n", &[]);
    rule(
        "from = \"router\"\nto = []\n",
        &[
            "firewall.rules[0].from: the router itself may open any flow; only `to` can be `router`",
            "firewall.rules[0].to: at least one zone is needed; \"any\" means all of them",
        ],
    );
    rule(
        "macs = [\"01:00:5e:00:00:01\"]\n",
        &[
            "firewall.rules[0].macs[0]: 01:00:5e:00:00:01 is a group address (its first octet is odd); the address of a NIC is needed",
        ],
    );
    check(
        "[firewall]\nrules = [{ name = \"a\", action = \"deny\" }, { name = \"a\", action = \"deny\" }]",
        &["firewall.rules[1].name: `a` is already the name of rules[0]"],
    );
}

#[test]
fn hosts_are_behind_an_interface_of_the_rules_zones() {
    let host = |interface: &str, to: &str| {
        format!(
            "to = \"{to}\"\ndestination_hosts = [{{ interface = \"{interface}\", suffix = \"::1\" }}]\n"
        )
    };
    rule(&host("lan", "lan"), &[]);
    rule(&host("lan", "any"), &[]);
    rule(
        &host("moon", "lan"),
        &[
            "firewall.rules[0].destination_hosts[0].interface: `moon` is not an interface; interfaces has: lan, wan",
        ],
    );
    rule(
        &host("lan", "wan"),
        &[
            "firewall.rules[0].destination_hosts[0].interface: interfaces.lan is in zone `lan`, but the rule is for flows to: wan",
        ],
    );
    check(
        "[interfaces.a]\nzone = \"moon\"\nports = [\"eth0\"]\n[[firewall.rules]]\nname = \"a\"\naction = \"allow\"\ndestination_hosts = [{ interface = \"a\", suffix = \"::1\" }]\n",
        &[
            "interfaces.a.zone: `moon` is not a zone; firewall.zones has: lan, wan",
            "firewall.rules[0].destination_hosts[0].interface: interfaces.a is in no zone of firewall.zones",
        ],
    );
}

#[test]
fn ports_and_types_belong_to_protocols() {
    rule(
        "protocols = [\"tcp\", \"udp\"]\ndestination_ports = [53]\nsource_ports = [\"1-2\"]\n",
        &[],
    );
    rule(
        "destination_ports = [53]\n",
        &[
            "firewall.rules[0].destination_ports: only TCP and UDP have ports: `protocols` must be [\"tcp\"], [\"udp\"] or both, and is empty",
        ],
    );
    rule(
        "protocols = [\"tcp\", 47]\nsource_ports = [\"@x\"]\n",
        &[
            "firewall.rules[0].source_ports[0]: `@x` is not a port set; firewall.ports has: none is configured",
            "firewall.rules[0].source_ports: only TCP and UDP have ports: `protocols` must be [\"tcp\"], [\"udp\"] or both, and is tcp, 47",
        ],
    );
    rule(
        "protocols = [\"tcp\"]\nicmp_types = [\"8\"]\n",
        &[
            "firewall.rules[0].icmp_types: only ICMP has these types: `protocols` must be [\"icmp\"] or [\"icmpv6\"], and is tcp",
        ],
    );
    rule("protocols = [\"icmp\", \"icmpv6\"]\nicmp_types = [\"echo-request\"]\n", &[]);
    rule(
        "protocols = [\"icmp\", \"icmpv6\"]\nicmp_types = [\"echo-request\", \"13\"]\n",
        &[
            "firewall.rules[0].icmp_types[1]: `13` means different things in ICMP and ICMPv6: one of them is needed in `protocols`, not both",
        ],
    );
}

#[test]
fn some_packet_fits() {
    rule(
        "sources = [\"10.0.0.0/8\"]\ndestinations = [\"2001:db8::/32\"]\n",
        &[
            "firewall.rules[0].destinations: only IPv6, but the fields before are only for IPv4: no packet fits the rule",
        ],
    );
    rule(
        "sources = [\"2001:db8::/32\"]\nprotocols = [\"icmp\"]\n",
        &[
            "firewall.rules[0].protocols: only IPv4, but the fields before are only for IPv6: no packet fits the rule",
        ],
    );
    rule("sources = [\"10.0.0.0/8\", \"2001:db8::/32\"]\nprotocols = [\"icmpv6\"]\n", &[]);
    rule(
        "to = \"lan\"\ndestinations = [\"10.0.0.0/8\"]\ndestination_hosts = [{ interface = \"lan\", suffix = \"::1\" }]\nprotocols = [\"icmpv6\"]\n",
        &[],
    );
}

#[test]
fn limits_are_of_rules_that_allow() {
    rule("rate_limit = { per_second = 1 }\nconnections_per_source = 1\nfull_cone = true\n", &[]);
    check(
        "[[firewall.rules]]\nname = \"a\"\naction = \"deny\"\nrate_limit = { per_second = 1 }\nconnections_per_source = 1\nfull_cone = true\n",
        &[
            "firewall.rules[0].rate_limit: the rule lets nothing in: only with action = \"allow\"",
            "firewall.rules[0].connections_per_source: the rule lets nothing in: only with action = \"allow\"",
            "firewall.rules[0].full_cone: the rule lets nothing in: only with action = \"allow\"",
        ],
    );
    rule(
        "rate_limit = { per_second = 0, burst = 2000000 }\nconnections_per_source = 0\n",
        &[
            "firewall.rules[0].rate_limit.per_second: 0 is not allowed: 1 to 1000000 new flows a second",
            "firewall.rules[0].rate_limit.burst: 2000000 is not allowed: 1 to 1000000 new flows",
            "firewall.rules[0].connections_per_source: 0 is not allowed: 1 to 1000000 flows",
        ],
    );
    rule(
        "to = \"router\"\nfull_cone = true\n",
        &[
            "firewall.rules[0].full_cone: flows to the router itself are not translated: `to` must be another zone",
        ],
    );
}

#[test]
fn port_forwards_name_a_host_and_ports() {
    forwards(&["protocol = \"tcp\"\nports = [80, \"8000-8100\"]\nsources = [\"10.0.0.0/8\"]"], &[]);
    check(
        "[[firewall.port_forwards]]\nname = \"a\"\nzone = \"moon\"\nto = \"224.0.0.1\"\naddresses = [\"0.0.0.0\"]\nprotocol = \"tcp\"\nports = []\nsources = [\"2001:db8::1\", \"@x\"]\n",
        &[
            "firewall.port_forwards[0].zone: `moon` is not a zone; firewall.zones has: lan, wan",
            "firewall.port_forwards[0].addresses[0]: 0.0.0.0 is the unspecified address; a host address is needed",
            "firewall.port_forwards[0].to: 224.0.0.1 is a multicast address; a host address is needed",
            "firewall.port_forwards[0].sources[1]: `@x` is not an address set; firewall.addresses has: none is configured",
            "firewall.port_forwards[0].sources[0]: `2001:db8::1` has IPv6 addresses: only IPv4 is translated",
            "firewall.port_forwards[0].ports: at least one port is needed",
        ],
    );
    forwards(
        &["protocol = \"tcp\"\nports = [80, \"70-90\"]\nto_port = 1"],
        &[
            "firewall.port_forwards[0].ports[1]: `70-90` is listed twice",
            "firewall.port_forwards[0].to_port: only with one entry in `ports`; several need a port forward each",
        ],
    );
    forwards(
        &["protocol = \"tcp\"\nports = [\"10-19\"]\nto_port = 65527"],
        &[
            "firewall.port_forwards[0].to_port: 65527 is not allowed: 1 to 65526 for this many ports",
        ],
    );
}

#[test]
fn a_port_leads_to_one_host() {
    let clash = "firewall.port_forwards[1].ports: `80` is already forwarded by port_forwards[0] (`a`); a port of an address leads to one host";
    forwards(
        &["protocol = \"tcp\"\nports = [\"1-90\"]", "protocol = \"both\"\nports = [80]"],
        &[clash],
    );
    forwards(&["protocol = \"tcp\"\nports = [80]", "protocol = \"udp\"\nports = [80]"], &[]);
    forwards(
        &["protocol = \"tcp\"\nports = [80]\nenabled = false", "protocol = \"tcp\"\nports = [80]"],
        &[],
    );
    let on =
        |address: &str| format!("protocol = \"tcp\"\nports = [80]\naddresses = [\"{address}\"]");
    forwards(&[&on("203.0.113.1"), &on("203.0.113.2")], &[]);
    forwards(&[&on("203.0.113.1"), &on("203.0.113.1")], &[clash]);
    forwards(&[&on("203.0.113.1"), "protocol = \"tcp\"\nports = [80]"], &[clash]);
    check(
        "[[firewall.port_forwards]]\nname = \"a\"\nzone = \"lan\"\nto = \"192.168.77.20\"\nprotocol = \"tcp\"\nports = [\"400-500\"]\n",
        &[
            "firewall.port_forwards[0].ports: port 443 is the router's service `web`, which firewall.zones.lan.services opens there",
        ],
    );
}

#[test]
fn an_address_stands_for_one_host() {
    let entry = |external: &str, internal: &str| {
        format!(
            "[[firewall.static_nat]]\nzone = \"wan\"\nexternal = \"{external}\"\ninternal = \"{internal}\"\n"
        )
    };
    check(
        &(entry("203.0.113.1", "10.0.0.1")
            + &entry("203.0.113.1", "10.0.0.2")
            + &entry("203.0.113.3", "10.0.0.1")
            + &entry("127.0.0.1", "10.0.0.4")),
        &[
            "firewall.static_nat[1].external: 203.0.113.1 is already external in static_nat[0] of this zone",
            "firewall.static_nat[2].internal: 10.0.0.1 is already internal in static_nat[0] of this zone",
            "firewall.static_nat[3].external: 127.0.0.1 is a loopback address; a host address is needed",
        ],
    );
    let forward = "[[firewall.port_forwards]]\nname = \"a\"\nzone = \"wan\"\nto = \"10.0.0.9\"\nprotocol = \"tcp\"\nports = [80]\naddresses = [\"203.0.113.1\"]\n";
    check(
        &(entry("203.0.113.1", "10.0.0.1") + forward),
        &[
            "firewall.static_nat[0].external: 203.0.113.1 has ports in port_forwards[0]; here all its ports lead to 10.0.0.1",
        ],
    );
}

#[test]
fn pools_have_addresses() {
    let pool = |addresses: &str| {
        format!("[[firewall.source_nat]]\nzone = \"wan\"\naddresses = [{addresses}]\n")
    };
    check(&pool("\"203.0.113.0/28\""), &[]);
    check(
        &(pool("") + &pool("\"10.0.0.0/8\"") + &pool("\"2001:db8::1\", \"224.0.0.1\"")),
        &[
            "firewall.source_nat[0].addresses: 0 is not allowed: 1 to 65536 addresses",
            "firewall.source_nat[1].addresses: 16777216 is not allowed: 1 to 65536 addresses",
            "firewall.source_nat[2].addresses[0]: `2001:db8::1` has IPv6 addresses: only IPv4 is translated",
            "firewall.source_nat[2].addresses: 224.0.0.1 is a multicast address; hosts could not use it",
        ],
    );
}

#[test]
fn protection_export_and_log_are_in_range() {
    check(
        "[firewall]\nhooks = { moon = \"xdp\" }\n[firewall.protection]\nblocklist = [\"@x\"]\nzones = [\"sun\"]\nsyn = { total = 100000001 }\n\
         [firewall.flow_export]\ncollectors = [\"127.0.0.1\", \"192.0.2.1:0\"]\nactive_timeout_s = 9\n[firewall.log]\nper_second = 0\n[firewall.timeouts]\nfragment_s = 14\nudp_s = 2592001\n",
        &[
            "firewall.hooks.moon: `moon` is not an interface; interfaces has: lan, wan",
            "firewall.timeouts.udp_s: 2592001 is too long: at most 2592000 seconds",
            "firewall.timeouts.fragment_s: 14 is not allowed: 15 to 120 seconds",
            "firewall.protection.blocklist[0]: `@x` is not an address set; firewall.addresses has: none is configured",
            "firewall.protection.zones[0]: `sun` is not a zone; firewall.zones has: lan, wan",
            "firewall.protection.syn.total: 100000001 is not allowed: 0 to 100000000 packets a second (0 is no limit)",
            "firewall.flow_export.collectors[0]: 127.0.0.1 is a loopback address; a host address is needed",
            "firewall.flow_export.collectors[1]: port 0 is not allowed: 1 to 65535",
            "firewall.flow_export.active_timeout_s: 9 is not allowed: 10 to 86400 seconds",
            "firewall.log.per_second: 0 is not allowed: 1 to 10000 lines",
        ],
    );
}

#[test]
fn there_are_bounds() {
    let mut zones = String::new();
    for n in 0..32 {
        zones += &format!("[firewall.zones.z{n}]\n");
    }
    check(
        &("[interfaces.a]\nzone = \"z0\"\nports = [\"eth0\"]\n".to_owned() + &zones),
        &["firewall.zones: 32 zones are too many: at most 31"],
    );
    let mut rules = String::new();
    for n in 0..16_385 {
        rules += &format!("{{ name = \"{n}\", action = \"deny\" }},");
    }
    check(
        &format!("[firewall]\nrules = [{rules}]"),
        &["firewall.rules: 16385 rules are too many: at most 16384"],
    );
}

/// Values whose form is wrong are not read at all.
#[test]
fn forms_are_told_where_they_are_wrong() {
    for (text, path, message) in [
        (
            "[firewall.addresses.a]\nmembers = [\"10.0.0.1/24\"]",
            "firewall.addresses.a.members[0]",
            "the network is 10.0.0.0/24",
        ),
        (
            "[firewall.addresses.a]\nmembers = [\"10.0.0.9-10.0.0.1\"]",
            "firewall.addresses.a.members[0]",
            "goes backwards",
        ),
        (
            "[firewall.addresses.a]\nmembers = [\"10.0.0.9-::1\"]",
            "firewall.addresses.a.members[0]",
            "in one address family and ends in the other",
        ),
        ("[firewall.ports.a]\nmembers = [80, 0]", "firewall.ports.a.members[1]", "1 to 65535"),
        (
            "[firewall.ports.a]\nmembers = [\"90-80\"]",
            "firewall.ports.a.members[0]",
            "goes backwards",
        ),
        ("[firewall.schedules.a]\nfrom = \"24:01\"", "firewall.schedules.a.from", "00:00 to 24:00"),
        ("[firewall.schedules.a]\nto = \"1:00\"", "firewall.schedules.a.to", "two digits each"),
        ("[firewall.zones.a]\nmss_clamp = 100", "firewall.zones.a.mss_clamp", "536 to 8960"),
        (
            "[[firewall.rules]]\nname = \"a\"\naction = \"allow\"\nprotocols = [256]",
            "firewall.rules[0].protocols[0]",
            "numbers from 0 to 255",
        ),
        (
            "[[firewall.rules]]\nname = \"a\"\naction = \"allow\"\nto = 7",
            "firewall.rules[0].to",
            "a zone, a list of zones or \"any\"",
        ),
        (
            "[[firewall.rules]]\nname = \"a\"\naction = \"allow\"\ndestination_hosts = [{ interface = \"lan\", suffix = \"2001:db8::1\" }]",
            "firewall.rules[0].destination_hosts[0].suffix",
            "first 64 bits are zero",
        ),
        (
            "[[firewall.rules]]\nname = \"A\"\naction = \"allow\"",
            "firewall.rules[0].name",
            "`A` is not a name",
        ),
    ] {
        let error = Document::parse(text).expect_err(text);
        assert_eq!(error.path, path, "{error}");
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn ipv4_is_written_as_ipv4() {
    check(
        "[firewall.addresses.a]\nmembers = [\"::ffff:10.0.0.0/104\", \"::/0\", \"::fffe:ffff:ffff-::ffff:1.2.3.4\"]\n\
         [firewall.protection]\nblocklist = [\"::ffff:192.0.2.1\"]\n",
        &[
            "firewall.addresses.a.members[0]: `::ffff:10.0.0.0/104` has IPv4 addresses in the notation of IPv6; they are written as in 192.0.2.0/24",
            "firewall.addresses.a.members[2]: `::fffe:ffff:ffff-::ffff:1.2.3.4` has IPv4 addresses in the notation of IPv6; they are written as in 192.0.2.0/24",
            "firewall.protection.blocklist[0]: `::ffff:192.0.2.1` has IPv4 addresses in the notation of IPv6; they are written as in 192.0.2.0/24",
        ],
    );
}

/// A chain of sets, each in the one before it; `order` says which name stands at which place.
fn chain(table: &str, leaf: &str, length: usize, order: fn(usize, usize) -> usize) -> String {
    let mut text = String::new();
    for place in 0..length {
        let name = |place| format!("s{:05}", order(place, length));
        let member = match place + 1 {
            next if next < length => format!("\"@{}\"", name(next)),
            _ => leaf.to_owned(),
        };
        text += &format!("[firewall.{table}.{}]\nmembers = [{member}]\n", name(place));
    }
    text
}

#[test]
fn sets_stand_within_sets_only_so_deep() {
    let downwards: fn(usize, usize) -> usize = |place, _| place;
    let upwards: fn(usize, usize) -> usize = |place, length| length - place;
    for (table, leaf) in [("addresses", "\"10.0.0.1\""), ("ports", "80")] {
        for order in [downwards, upwards] {
            check(&chain(table, leaf, 16, order), &[]);
            for length in [17, 20_000] {
                let document = Document::parse(&chain(table, leaf, length, order)).unwrap();
                let problems = validate(&document);
                let [problem] = problems.as_slice() else { panic!("{problems:?}") };
                assert!(problem.path.starts_with(&format!("firewall.{table}.s")), "{problem}");
                assert_eq!(problem.message, "sets stand within sets, more than 16 deep");
            }
        }
    }
}

/// `count` addresses that do not touch.
fn scattered(count: u32) -> String {
    let one = |n: u32| format!("\"10.{}.{}.{}\",", n >> 15, n >> 7 & 255, n << 1 & 255);
    (0..count).map(one).collect()
}

#[test]
fn a_short_document_does_not_stand_for_an_endless_one() {
    // Named again and again it is still one set.
    let set = format!("[firewall.addresses.many]\nmembers = [{}]\n", scattered(20_000));
    check(
        &format!("{set}[firewall.addresses.same]\nmembers = [{}]\n", "\"@many\",".repeat(50_000)),
        &[],
    );
    let mut copies = set.clone();
    for n in 10..30 {
        copies += &format!("[firewall.addresses.n{n}]\nmembers = [\"@many\", \"192.0.2.{n}\"]\n");
    }
    check(
        &copies,
        &[
            "firewall.addresses.n22: with it all sets come to more than 262144 ranges, those that they name filled in",
        ],
    );
    let mut rules = set;
    for n in 0..60 {
        rules += &format!(
            "[[firewall.rules]]\nname = \"r{n}\"\nsources = [\"@many\"]\naction = \"deny\"\n"
        );
    }
    check(
        &rules,
        &[
            "firewall.rules[52]: with it all rules come to more than 1048576 ranges of addresses and ports, sets filled in",
        ],
    );
}
