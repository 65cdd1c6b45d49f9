//! `firewall`: zones and policies, sizes and idle times; rules, sets and translations in files of
//! their own.

mod nat;
mod protection;
mod rules;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{Problems, list};
use crate::{
    Document, Name, Timeouts,
    firewall::{Firewall, ROUTER, Sets, ZoneMatch},
};

pub(super) fn check(document: &Document, problems: &mut Problems) {
    let firewall = &document.firewall;
    for (name, meaning) in [(ROUTER, "the router itself"), (ZoneMatch::ANY, "all zones")] {
        if firewall.zones.contains_key(name) {
            problems.add(
                format!("firewall.zones.{name}"),
                format!("`{name}` means {meaning}; the zone needs another name"),
            );
        }
    }
    at_most("firewall.zones", firewall.zones.len(), Firewall::MAX_ZONES, "zones", problems);
    hooks(document, problems);
    policies(document, problems);
    problems.range("firewall.max_flows", firewall.max_flows, 1_024..=4_194_304, "flows");
    timeouts(&firewall.timeouts, problems);
    let sets = Sets::of(firewall);
    sets::check(firewall, &sets, problems);
    rules::check(document, &sets, problems);
    nat::check(firewall, &sets, problems);
    protection::check(firewall, problems);
}

fn hooks(document: &Document, problems: &mut Problems) {
    for interface in document.firewall.hooks.keys() {
        if !document.interfaces.contains_key(interface) {
            problems.add(
                format!("firewall.hooks.{interface}"),
                format!(
                    "`{interface}` is not an interface; interfaces has: {}",
                    list(document.interfaces.keys())
                ),
            );
        }
    }
}

fn policies(document: &Document, problems: &mut Problems) {
    let firewall = &document.firewall;
    let mut seen = BTreeMap::new();
    for (index, policy) in firewall.policies.iter().enumerate() {
        let path = format!("firewall.policies[{index}]");
        for (end, name) in [("from", &policy.from), ("to", &policy.to)] {
            zone(firewall, format!("{path}.{end}"), name, problems);
        }
        match seen.get(&(&policy.from, &policy.to)) {
            Some(first) => problems.add(
                path,
                format!(
                    "has no effect: policies[{first}] decides already from `{}` to `{}`",
                    policy.from, policy.to
                ),
            ),
            None => {
                seen.insert((&policy.from, &policy.to), index);
            }
        }
    }
}

fn timeouts(timeouts: &Timeouts, problems: &mut Problems) {
    for (field, value, least, source) in [
        ("tcp_established_s", timeouts.tcp_established_s, 7_440, " (RFC 5382 REQ-5)"),
        ("tcp_transitory_s", timeouts.tcp_transitory_s, 240, " (RFC 5382 REQ-5)"),
        ("udp_s", timeouts.udp_s, 120, " (RFC 4787 REQ-5)"),
        ("udp_unreplied_s", timeouts.udp_unreplied_s, 30, ""),
        ("icmp_s", timeouts.icmp_s, 60, " (RFC 5508 REQ-2)"),
    ] {
        let path = format!("firewall.timeouts.{field}");
        if value < least {
            problems.add(path, format!("{value} is too short: at least {least} seconds{source}"));
        } else if value > Timeouts::MAX_S {
            problems.add(path, format!("{value} is too long: at most {} seconds", Timeouts::MAX_S));
        }
    }
    problems.range("firewall.timeouts.fragment_s", timeouts.fragment_s, 15..=120, "seconds");
}

/// `name` must be a zone.
fn zone(firewall: &Firewall, path: String, name: &Name, problems: &mut Problems) {
    if !firewall.zones.contains_key(name) {
        problems.add(
            path,
            format!("`{name}` is not a zone; firewall.zones has: {}", list(firewall.zones.keys())),
        );
    }
}

fn at_most(path: &str, count: usize, most: usize, what: &str, problems: &mut Problems) {
    if count > most {
        problems.add(path, format!("{count} {what} are too many: at most {most}"));
    }
}
