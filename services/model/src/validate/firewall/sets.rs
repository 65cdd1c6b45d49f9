//! `firewall.addresses`, `firewall.ports`, `firewall.schedules`: sets exist and do not contain
//! themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::super::{Problems, list};
use crate::{
    Name,
    firewall::{AddressMatch, Excess, ExcessOf, Firewall, PortMatch, Sets},
};

pub(super) fn check(firewall: &Firewall, resolved: &Sets, problems: &mut Problems) {
    let inner = |member: &AddressMatch| match member {
        AddressMatch::Set(name) => Some(name.clone()),
        AddressMatch::Net(_) | AddressMatch::Range(..) => None,
    };
    for (name, set) in &firewall.addresses {
        addresses(firewall, &format!("firewall.addresses.{name}.members"), &set.members, problems);
    }
    let graph: Graph = firewall
        .addresses
        .iter()
        .map(|(name, set)| (name.clone(), set.members.iter().map(inner).collect()))
        .collect();
    cycles("firewall.addresses", &graph, problems);

    let inner = |member: &PortMatch| match member {
        PortMatch::Set(name) => Some(name.clone()),
        PortMatch::Range(_) => None,
    };
    for (name, set) in &firewall.ports {
        ports(firewall, &format!("firewall.ports.{name}.members"), &set.members, problems);
    }
    let graph: Graph = firewall
        .ports
        .iter()
        .map(|(name, set)| (name.clone(), set.members.iter().map(inner).collect()))
        .collect();
    cycles("firewall.ports", &graph, problems);
    excess(resolved, problems);

    for (name, schedule) in &firewall.schedules {
        if schedule.days.is_empty() {
            problems.add(
                format!("firewall.schedules.{name}.days"),
                "at least one day is needed, of mon, tue, wed, thu, fri, sat, sun",
            );
        }
    }
}

fn excess(resolved: &Sets, problems: &mut Problems) {
    let Some(Excess { table, set, of }) = resolved.excess() else { return };
    let what = match of {
        ExcessOf::Nesting => {
            format!("sets stand within sets, more than {} deep", Sets::MAX_NESTING)
        }
        ExcessOf::Ranges => format!(
            "with it all sets come to more than {} ranges, those that they name filled in",
            Sets::MAX_RANGES
        ),
    };
    problems.add(format!("firewall.{table}.{set}"), what);
}

/// Sets named in a list of addresses must exist, and IPv4 is written as IPv4: in the notation of IPv6
/// (::ffff:0:0/96) it is no address of a packet, and would fit nothing.
pub(super) fn addresses(
    firewall: &Firewall,
    path: &str,
    members: &[AddressMatch],
    problems: &mut Problems,
) {
    for (index, member) in members.iter().enumerate() {
        if let AddressMatch::Set(name) = member
            && !firewall.addresses.contains_key(name)
        {
            problems.add(
                format!("{path}[{index}]"),
                format!(
                    "`@{name}` is not an address set; firewall.addresses has: {}",
                    list(firewall.addresses.keys())
                ),
            );
        }
        let mapped = |address: &IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
        };
        let ends = match member {
            AddressMatch::Net(net) => [net.network(), net.broadcast()],
            AddressMatch::Range(first, last) => [*first, *last],
            AddressMatch::Set(_) => continue,
        };
        // A network around all of them, as ::/0, is one of IPv6.
        if ends.iter().any(mapped) {
            problems.add(
                format!("{path}[{index}]"),
                format!("`{member}` has IPv4 addresses in the notation of IPv6; they are written as in 192.0.2.0/24"),
            );
        }
    }
}

/// Sets named in a list of ports must exist.
pub(super) fn ports(
    firewall: &Firewall,
    path: &str,
    members: &[PortMatch],
    problems: &mut Problems,
) {
    for (index, member) in members.iter().enumerate() {
        if let PortMatch::Set(name) = member
            && !firewall.ports.contains_key(name)
        {
            problems.add(
                format!("{path}[{index}]"),
                format!(
                    "`@{name}` is not a port set; firewall.ports has: {}",
                    list(firewall.ports.keys())
                ),
            );
        }
    }
}

/// The sets that each set names, by the position of the member.
type Graph = BTreeMap<Name, Vec<Option<Name>>>;

/// Reports each member through which a set contains itself, once for each cycle.
fn cycles(table: &str, graph: &Graph, problems: &mut Problems) {
    let mut done = BTreeSet::new();
    for name in graph.keys() {
        let mut trail = Vec::new();
        visit(table, graph, name, &mut trail, &mut done, problems);
    }
}

fn visit(
    table: &str,
    graph: &Graph,
    name: &Name,
    trail: &mut Vec<Name>,
    done: &mut BTreeSet<Name>,
    problems: &mut Problems,
) {
    // What is deeper is refused for that.
    if done.contains(name) || trail.len() > Sets::MAX_NESTING {
        return;
    }
    trail.push(name.clone());
    for (index, inner) in graph.get(name).into_iter().flatten().enumerate() {
        let Some(inner) = inner else { continue };
        match trail.iter().position(|earlier| earlier == inner) {
            Some(start) => {
                let way: Vec<_> =
                    trail.iter().skip(start).chain([inner]).map(ToString::to_string).collect();
                problems.add(
                    format!("{table}.{name}.members[{index}]"),
                    format!("a set must not contain itself: {}", way.join(" -> ")),
                );
            }
            None => visit(table, graph, inner, trail, done, problems),
        }
    }
    trail.pop();
    done.insert(name.clone());
}
