//! `firewall.port_forwards`, `static_nat`, `source_nat`: one meaning for each external address and
//! port.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{
    super::{Problems, addresses::unusable},
    at_most, sets, zone,
};
use crate::{
    Name, RouterService,
    firewall::{AddressMatch, Firewall, ForwardProtocol, PortForward, PortRange, Sets},
};

pub(super) fn check(firewall: &Firewall, resolved: &Sets, problems: &mut Problems) {
    for (table, count) in [
        ("port_forwards", firewall.port_forwards.len()),
        ("static_nat", firewall.static_nat.len()),
        ("source_nat", firewall.source_nat.len()),
    ] {
        let path = format!("firewall.{table}");
        at_most(&path, count, Firewall::MAX_TRANSLATIONS, "entries", problems);
    }
    port_forwards(firewall, resolved, problems);
    static_nat(firewall, problems);
    source_nat(firewall, resolved, problems);
}

fn host(path: String, address: Ipv4Addr, problems: &mut Problems) {
    if let Some(why) = unusable(address) {
        problems.add(path, format!("{address} {why}; a host address is needed"));
    }
}

/// IPv6 is not translated, so only IPv4 makes sense.
fn only_ipv4(
    firewall: &Firewall,
    resolved: &Sets,
    path: &str,
    addresses: &[AddressMatch],
    problems: &mut Problems,
) {
    sets::addresses(firewall, path, addresses, problems);
    for (index, member) in addresses.iter().enumerate() {
        let has_ipv6 = match member {
            AddressMatch::Net(net) => net.network().is_ipv6(),
            AddressMatch::Range(first, _) => first.is_ipv6(),
            AddressMatch::Set(name) => resolved.set(name).is_some_and(|set| !set.v6.is_empty()),
        };
        if has_ipv6 {
            problems.add(
                format!("{path}[{index}]"),
                format!("`{member}` has IPv6 addresses: only IPv4 is translated"),
            );
        }
    }
}

fn port_forwards(firewall: &Firewall, resolved: &Sets, problems: &mut Problems) {
    let mut names = BTreeMap::new();
    // More are refused, and comparing each with all others is work.
    let forwards = firewall.port_forwards.iter().take(Firewall::MAX_TRANSLATIONS);
    for (index, forward) in forwards.enumerate() {
        let path = format!("firewall.port_forwards[{index}]");
        if let Some(first) = names.insert(&forward.name, index) {
            problems.add(
                format!("{path}.name"),
                format!("`{}` is already the name of port_forwards[{first}]", forward.name),
            );
        }
        zone(firewall, format!("{path}.zone"), &forward.zone, problems);
        for (position, address) in forward.addresses.iter().enumerate() {
            host(format!("{path}.addresses[{position}]"), *address, problems);
        }
        host(format!("{path}.to"), forward.to, problems);
        only_ipv4(firewall, resolved, &format!("{path}.sources"), &forward.sources, problems);
        ports(&path, forward, problems);
        if forward.enabled {
            let earlier = firewall.port_forwards.iter().take(index).enumerate();
            clashes(&path, forward, earlier, problems);
            services(firewall, &path, forward, problems);
        }
    }
}

fn ports(path: &str, forward: &PortForward, problems: &mut Problems) {
    let ports = forward.ports.as_slice();
    if ports.is_empty() {
        problems.add(format!("{path}.ports"), "at least one port is needed");
    }
    // Last port by the first one, of ranges that do not overlap.
    let mut taken: BTreeMap<u16, u16> = BTreeMap::new();
    for (position, range) in ports.iter().enumerate() {
        let before = taken.range(..=range.last()).next_back();
        if before.is_some_and(|(_, last)| *last >= range.first()) {
            problems.add(format!("{path}.ports[{position}]"), format!("`{range}` is listed twice"));
        } else {
            taken.insert(range.first(), range.last());
        }
    }
    let Some(to_port) = forward.to_port else { return };
    match ports {
        [range] => {
            let most = u16::MAX - (range.last() - range.first());
            problems.range(format!("{path}.to_port"), to_port, 1..=most, "for this many ports");
        }
        _ => problems.add(
            format!("{path}.to_port"),
            "only with one entry in `ports`; several need a port forward each",
        ),
    }
}

/// A port of an address leads to one host.
fn clashes<'a>(
    path: &str,
    forward: &PortForward,
    earlier: impl Iterator<Item = (usize, &'a PortForward)>,
    problems: &mut Problems,
) {
    for (index, other) in earlier.filter(|(_, other)| other.enabled) {
        let addresses = forward.addresses.is_empty()
            || other.addresses.is_empty()
            || forward.addresses.iter().any(|address| other.addresses.contains(address));
        if other.zone != forward.zone || !addresses || !other.protocol.overlaps(forward.protocol) {
            continue;
        }
        let taken = |range: &&PortRange| other.ports.iter().any(|port| port.overlaps(**range));
        if let Some(range) = forward.ports.iter().find(taken) {
            problems.add(
                format!("{path}.ports"),
                format!(
                    "`{range}` is already forwarded by port_forwards[{index}] (`{}`); a port of an address leads to one host",
                    other.name
                ),
            );
        }
    }
}

/// The zone's services of the router are on the same addresses.
fn services(firewall: &Firewall, path: &str, forward: &PortForward, problems: &mut Problems) {
    let Some(zone) = firewall.zones.get(&forward.zone) else { return };
    for service in &zone.services {
        let (name, protocol, port) = match service {
            RouterService::Dhcp => ("dhcp", ForwardProtocol::Udp, 67),
            RouterService::Dns => ("dns", ForwardProtocol::Both, 53),
            RouterService::Web => ("web", ForwardProtocol::Tcp, 443),
            RouterService::Ping => continue,
        };
        if protocol.overlaps(forward.protocol)
            && forward.ports.iter().any(|range| range.contains(port))
        {
            problems.add(
                format!("{path}.ports"),
                format!(
                    "port {port} is the router's service `{name}`, which firewall.zones.{}.services opens there",
                    forward.zone
                ),
            );
        }
    }
}

fn static_nat(firewall: &Firewall, problems: &mut Problems) {
    let mut seen: BTreeMap<(&Name, &str, Ipv4Addr), usize> = BTreeMap::new();
    for (index, entry) in firewall.static_nat.iter().enumerate() {
        let path = format!("firewall.static_nat[{index}]");
        zone(firewall, format!("{path}.zone"), &entry.zone, problems);
        for (field, address) in [("external", entry.external), ("internal", entry.internal)] {
            let path = format!("{path}.{field}");
            host(path.clone(), address, problems);
            if let Some(first) = seen.insert((&entry.zone, field, address), index) {
                problems.add(
                    path,
                    format!("{address} is already {field} in static_nat[{first}] of this zone"),
                );
            }
        }
        let taken = firewall.port_forwards.iter().enumerate().find(|(_, forward)| {
            forward.enabled
                && forward.zone == entry.zone
                && forward.addresses.contains(&entry.external)
        });
        if let Some((forward, _)) = taken {
            problems.add(
                format!("{path}.external"),
                format!(
                    "{} has ports in port_forwards[{forward}]; here all its ports lead to {}",
                    entry.external, entry.internal
                ),
            );
        }
    }
}

fn source_nat(firewall: &Firewall, resolved: &Sets, problems: &mut Problems) {
    for (index, entry) in firewall.source_nat.iter().enumerate() {
        let path = format!("firewall.source_nat[{index}]");
        zone(firewall, format!("{path}.zone"), &entry.zone, problems);
        only_ipv4(firewall, resolved, &format!("{path}.sources"), &entry.sources, problems);
        let path = format!("{path}.addresses");
        only_ipv4(firewall, resolved, &path, &entry.addresses, problems);
        let pool = resolved.addresses(&entry.addresses);
        problems.range(path.clone(), pool.count_v4(), 1..=65_536, "addresses");
        for (first, last) in &pool.v4 {
            for address in [*first, *last] {
                if let Some(why) = unusable(address) {
                    problems.add(path.clone(), format!("{address} {why}; hosts could not use it"));
                    break;
                }
            }
        }
    }
}
