//! `firewall`: zones that policies name, sizes and idle times.

use std::collections::BTreeMap;

use super::{Problems, list};
use crate::{Document, Timeouts};

/// What flow records call the router itself.
const ROUTER: &str = "router";

pub(super) fn check(document: &Document, problems: &mut Problems) {
    let firewall = &document.firewall;
    if firewall.zones.contains_key(ROUTER) {
        problems.add(
            format!("firewall.zones.{ROUTER}"),
            format!("`{ROUTER}` means the router itself; the zone needs another name"),
        );
    }
    policies(document, problems);
    problems.range("firewall.max_flows", firewall.max_flows, 1_024..=4_194_304, "flows");
    timeouts(&firewall.timeouts, problems);
}

fn policies(document: &Document, problems: &mut Problems) {
    let zones = &document.firewall.zones;
    let mut seen = BTreeMap::new();
    for (index, policy) in document.firewall.policies.iter().enumerate() {
        let path = format!("firewall.policies[{index}]");
        for (end, zone) in [("from", &policy.from), ("to", &policy.to)] {
            if !zones.contains_key(zone) {
                problems.add(
                    format!("{path}.{end}"),
                    format!("`{zone}` is not a zone; firewall.zones has: {}", list(zones.keys())),
                );
            }
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
        if value < least {
            problems.add(
                format!("firewall.timeouts.{field}"),
                format!("{value} is too short: at least {least} seconds{source}"),
            );
        }
    }
}
