//! `firewall.rules`: what they name exists, and there is a packet that fits them.

use std::collections::BTreeMap;

use super::{
    super::{Problems, addresses::unusable_mac, list},
    at_most, sets, zone,
};
use crate::{
    Action, Document, Name,
    firewall::{AddressRanges, Firewall, IcmpMatch, Protocol, ROUTER, Rule, Sets, ZoneMatch},
};

pub(super) fn check(document: &Document, resolved: &Sets, problems: &mut Problems) {
    let firewall = &document.firewall;
    at_most("firewall.rules", firewall.rules.len(), Firewall::MAX_RULES, "rules", problems);
    let mut names = BTreeMap::new();
    let mut ranges = 0_usize;
    for (index, rule) in firewall.rules.iter().enumerate() {
        let path = format!("firewall.rules[{index}]");
        if let Some(first) = names.insert(&rule.name, index) {
            problems.add(
                format!("{path}.name"),
                format!("`{}` is already the name of rules[{first}]", rule.name),
            );
        }
        zones(firewall, &path, rule, problems);
        lists(firewall, &path, rule, problems);
        hosts(document, &path, rule, problems);
        protocols(&path, rule, problems);
        limits(&path, rule, problems);
        // Once it is too much the others are not filled in: that is work without a bound.
        if ranges > Firewall::MAX_RULE_RANGES {
            continue;
        }
        let sources = resolved.addresses(&rule.sources);
        let destinations = resolved.addresses(&rule.destinations);
        let ports =
            [&rule.source_ports, &rule.destination_ports].map(|list| resolved.ports(list).len());
        ranges += sources.len() + destinations.len() + ports.iter().sum::<usize>();
        if ranges > Firewall::MAX_RULE_RANGES {
            problems.add(
                &path,
                format!(
                    "with it all rules come to more than {} ranges of addresses and ports, sets filled in",
                    Firewall::MAX_RULE_RANGES
                ),
            );
        }
        families(&path, rule, &sources, &destinations, problems);
    }
}

fn zones(firewall: &Firewall, path: &str, rule: &Rule, problems: &mut Problems) {
    for (field, zones) in [("from", &rule.from), ("to", &rule.to)] {
        let ZoneMatch::These(zones) = zones else { continue };
        if zones.is_empty() {
            problems.add(
                format!("{path}.{field}"),
                "at least one zone is needed; \"any\" means all of them",
            );
        }
        for (index, name) in zones.iter().enumerate() {
            let path = match zones.as_slice() {
                [_] => format!("{path}.{field}"),
                _ => format!("{path}.{field}[{index}]"),
            };
            match (field, name.as_str() == ROUTER) {
                ("to", true) => {}
                (_, true) => problems
                    .add(path, "the router itself may open any flow; only `to` can be `router`"),
                (_, false) => zone(firewall, path, name, problems),
            }
        }
    }
}

fn lists(firewall: &Firewall, path: &str, rule: &Rule, problems: &mut Problems) {
    sets::addresses(firewall, &format!("{path}.sources"), &rule.sources, problems);
    sets::addresses(firewall, &format!("{path}.destinations"), &rule.destinations, problems);
    sets::ports(firewall, &format!("{path}.source_ports"), &rule.source_ports, problems);
    sets::ports(firewall, &format!("{path}.destination_ports"), &rule.destination_ports, problems);
    for (index, mac) in rule.macs.iter().enumerate() {
        if let Some(why) = unusable_mac(*mac) {
            problems.add(
                format!("{path}.macs[{index}]"),
                format!("{mac} {why}; the address of a NIC is needed"),
            );
        }
    }
    if let Some(name) = &rule.schedule
        && !firewall.schedules.contains_key(name)
    {
        problems.add(
            format!("{path}.schedule"),
            format!(
                "`{name}` is not a schedule; firewall.schedules has: {}",
                list(firewall.schedules.keys())
            ),
        );
    }
}

fn hosts(document: &Document, path: &str, rule: &Rule, problems: &mut Problems) {
    for (index, host) in rule.destination_hosts.iter().enumerate() {
        let path = format!("{path}.destination_hosts[{index}].interface");
        let name = &host.interface;
        let Some(interface) = document.interfaces.get(name) else {
            problems.add(
                path,
                format!(
                    "`{name}` is not an interface; interfaces has: {}",
                    list(document.interfaces.keys())
                ),
            );
            continue;
        };
        if !document.firewall.zones.contains_key(&interface.zone) {
            problems.add(path, format!("interfaces.{name} is in no zone of firewall.zones"));
        } else if let ZoneMatch::These(zones) = &rule.to
            && !zones.contains(&interface.zone)
        {
            problems.add(
                path,
                format!(
                    "interfaces.{name} is in zone `{}`, but the rule is for flows to: {}",
                    interface.zone,
                    list(zones)
                ),
            );
        }
    }
}

fn protocols(path: &str, rule: &Rule, problems: &mut Problems) {
    let named =
        |fits: fn(&Protocol) -> bool| !rule.protocols.is_empty() && rule.protocols.iter().all(fits);
    for (field, ports) in
        [("source_ports", &rule.source_ports), ("destination_ports", &rule.destination_ports)]
    {
        if !ports.is_empty() && !named(|protocol| protocol.has_ports()) {
            problems.add(
                format!("{path}.{field}"),
                format!(
                    "only TCP and UDP have ports: `protocols` must be [\"tcp\"], [\"udp\"] or both, and is {}",
                    written(&rule.protocols)
                ),
            );
        }
    }
    if !rule.icmp_types.is_empty() && !named(|protocol| protocol.is_icmp()) {
        problems.add(
            format!("{path}.icmp_types"),
            format!(
                "only ICMP has these types: `protocols` must be [\"icmp\"] or [\"icmpv6\"], and is {}",
                written(&rule.protocols)
            ),
        );
    } else if rule.protocols.iter().any(|protocol| rule.protocols.first() != Some(protocol)) {
        for (index, kind) in rule.icmp_types.iter().enumerate() {
            if matches!(kind, IcmpMatch::Type { .. }) {
                problems.add(
                    format!("{path}.icmp_types[{index}]"),
                    format!(
                        "`{kind}` means different things in ICMP and ICMPv6: one of them is needed in `protocols`, not both"
                    ),
                );
            }
        }
    }
}

fn written(protocols: &[Protocol]) -> String {
    if protocols.is_empty() { "empty".to_owned() } else { list(protocols) }
}

/// Which families a part of a rule is for: IPv4, IPv6.
type Families = (bool, bool);

/// The parts of a rule must be for one family at least together.
fn families(
    path: &str,
    rule: &Rule,
    sources: &AddressRanges,
    destinations: &AddressRanges,
    problems: &mut Problems,
) {
    const BOTH: Families = (true, true);
    let hosts = !rule.destination_hosts.is_empty();
    let protocol = |icmp: &Protocol| *icmp == Protocol::ICMP;
    let protocol6 = |icmp: &Protocol| *icmp == Protocol::ICMPV6;
    let parts: [(&str, bool, Families); 3] = [
        ("sources", rule.sources.is_empty(), (!sources.v4.is_empty(), !sources.v6.is_empty())),
        (
            "destinations",
            rule.destinations.is_empty() && !hosts,
            (!destinations.v4.is_empty(), !destinations.v6.is_empty() || hosts),
        ),
        (
            "protocols",
            rule.protocols.is_empty(),
            (!rule.protocols.iter().all(protocol6), !rule.protocols.iter().all(protocol)),
        ),
    ];
    let mut together = BOTH;
    for (field, any, families) in parts {
        let families = if any { BOTH } else { families };
        // A set without members fits nothing, which is what it says.
        if families == (false, false) {
            return;
        }
        let (v4, v6) = (together.0 && families.0, together.1 && families.1);
        if !(v4 || v6) {
            let (this, that) = if families.0 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            problems.add(
                format!("{path}.{field}"),
                format!(
                    "only {this}, but the fields before are only for {that}: no packet fits the rule"
                ),
            );
            return;
        }
        together = (v4, v6);
    }
}

fn limits(path: &str, rule: &Rule, problems: &mut Problems) {
    for (field, given) in [
        ("rate_limit", rule.rate_limit.is_some()),
        ("connections_per_source", rule.connections_per_source.is_some()),
        ("full_cone", rule.full_cone),
    ] {
        if given && rule.action != Action::Allow {
            problems.add(
                format!("{path}.{field}"),
                "the rule lets nothing in: only with action = \"allow\"",
            );
        }
    }
    if let Some(limit) = &rule.rate_limit {
        let path = format!("{path}.rate_limit");
        problems.range(
            format!("{path}.per_second"),
            limit.per_second,
            1..=1_000_000,
            "new flows a second",
        );
        problems.range(format!("{path}.burst"), limit.burst, 1..=1_000_000, "new flows");
    }
    if let Some(most) = rule.connections_per_source {
        problems.range(format!("{path}.connections_per_source"), most, 1..=1_000_000, "flows");
    }
    if rule.full_cone && rule.to == ZoneMatch::These(vec![Name::from_static(ROUTER)]) {
        problems.add(
            format!("{path}.full_cone"),
            "flows to the router itself are not translated: `to` must be another zone",
        );
    }
}
