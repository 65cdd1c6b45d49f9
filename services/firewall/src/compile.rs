//! From configuration and interfaces to the contents of the datapath's maps. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use portcullis_bus::network::InterfaceStatus;
use portcullis_datapath_abi::{
    Interface, Zone, from_address,
    policy::{self, BROADCAST, INTERFACE_SLOTS, MAX_ADDRESSES, MAX_ZONES},
};
use portcullis_model::{Label, Name, RouterService, part::FirewallPart};
use portcullis_policy::{Compiled, Nat, NatInterface, Resolved, Surroundings, compile_nat};

use crate::{
    datapath::{Device, Kind},
    purge::words6,
};

/// What the maps shall hold, and where the programs shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Interfaces by slot.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Zones by id, one for each id.
    pub zones: Vec<Zone>,
    /// The rules without names.
    pub resolved: Resolved,
    /// Numbers of the rules, which they keep.
    pub numbers: BTreeMap<Label, u16>,
    /// The rules as tables; `None` if they could not be compiled.
    pub policy: Option<Arc<Compiled>>,
    /// Port forwards, 1:1 addresses, pools.
    pub nat: Nat,
    /// The router's IPv4 addresses, to the index of their interface, and broadcast addresses of its subnets
    /// ([`BROADCAST`]).
    pub addresses: BTreeMap<u32, u32>,
    /// The router's IPv6 addresses, likewise.
    pub addresses6: BTreeMap<[u32; 4], u32>,
    /// Devices to attach to, by index.
    pub devices: BTreeMap<u32, Device>,
    /// What could not be compiled, one sentence each. It is refused, never let through.
    pub problems: Vec<String>,
}

/// What compiling starts from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing<'a> {
    /// The zones in the map now, whose ids stay.
    pub zones: &'a [Zone],
    /// The time, seconds since 1970.
    pub unix_s: u64,
    /// What was compiled before: rules keep their numbers, and what is the same is not done again.
    pub before: Option<&'a Desired>,
}

/// Compiles.
pub fn compile(
    part: &FirewallPart,
    interfaces: &[InterfaceStatus],
    standing: &Standing<'_>,
) -> Desired {
    let mut desired = Desired::default();
    let ids = zone_ids(part, standing.zones, &mut desired.problems);
    desired.zones = vec![Zone::default(); MAX_ZONES as usize];
    for (name, id) in &ids {
        if let (Some(zone), Some(slot)) =
            (part.firewall.zones.get(name.as_str()), desired.zones.get_mut(usize::from(*id)))
        {
            *slot = Zone {
                services: zone.services.iter().fold(0, |bits, service| bits | bit(*service)),
                // Those of the translation are added when its tables are made.
                flags: if zone.masquerade { policy::MASQUERADE } else { 0 },
                name: name_bytes(name.as_str()),
            };
        }
    }
    compile_policy(&mut desired, part, interfaces, &ids, standing);
    for status in interfaces.iter().filter(|status| status.index != 0) {
        match part.interfaces.get(status.name.as_str()).and_then(|zone| ids.get(zone)) {
            Some(zone) => add_interface(&mut desired, status, *zone),
            // It stays out of the maps, and so everything on it is dropped.
            None => desired
                .problems
                .push(format!("interface {} belongs to no zone: it is closed", status.name)),
        }
        desired.devices.insert(status.index, device(part, status));
    }
    add_broadcasts(&mut desired, interfaces);
    compile_translations(&mut desired, part, interfaces, &ids);
    desired
}

fn compile_translations(
    desired: &mut Desired,
    part: &FirewallPart,
    interfaces: &[InterfaceStatus],
    ids: &BTreeMap<Name, u8>,
) {
    let interfaces: Vec<NatInterface> = interfaces
        .iter()
        .filter(|status| status.index != 0)
        .filter_map(|status| {
            let zone = *ids.get(part.interfaces.get(status.name.as_str())?)?;
            let addresses = status.addresses.iter().filter_map(|text| match address(text) {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            });
            Some(NatInterface { zone, addresses: addresses.collect() })
        })
        .collect();
    let mut nat = compile_nat(&part.firewall, ids, &interfaces);
    for (id, flags) in &nat.zone_flags {
        if let Some(zone) = desired.zones.get_mut(usize::from(*id)) {
            zone.flags |= flags;
        }
    }
    desired.problems.append(&mut nat.problems);
    desired.nat = nat;
}

/// What the document does not say, for the policy.
pub fn surroundings(
    part: &FirewallPart,
    interfaces: &[InterfaceStatus],
    ids: &BTreeMap<Name, u8>,
    standing: &Standing<'_>,
) -> Surroundings {
    let addresses = interfaces.iter().filter_map(|status| {
        let (name, _) = part.interfaces.get_key_value(status.name.as_str())?;
        let nets = status.addresses.iter().filter_map(|text| text.parse::<IpNet>().ok());
        Some((name.clone(), nets.collect()))
    });
    let outward = interfaces.iter().find(|status| status.gateway.is_some());
    let default_route =
        outward.and_then(|status| part.interfaces.get_key_value(status.name.as_str()));
    Surroundings {
        zones: ids.clone(),
        addresses: addresses.collect(),
        default_route: default_route.map(|(name, _)| name.clone()),
        unix_s: standing.unix_s,
        numbers: standing.before.map(|before| before.numbers.clone()).unwrap_or_default(),
    }
}

fn compile_policy(
    desired: &mut Desired,
    part: &FirewallPart,
    interfaces: &[InterfaceStatus],
    ids: &BTreeMap<Name, u8>,
    standing: &Standing<'_>,
) {
    let surroundings = surroundings(part, interfaces, ids, standing);
    let before = standing.before.map(|before| &before.resolved);
    desired.resolved = portcullis_policy::resolve(part, &surroundings);
    let numbers = desired.resolved.rules.iter().map(|rule| (rule.name.clone(), rule.number));
    desired.numbers = numbers.collect();
    if before == Some(&desired.resolved)
        && let Some(policy) = standing.before.and_then(|before| before.policy.clone())
    {
        desired.policy = Some(policy);
        return;
    }
    match portcullis_policy::compile(&desired.resolved) {
        Ok(policy) => desired.policy = Some(Arc::new(policy)),
        Err(error) => desired.problems.push(format!("rules: {error}; the old ones stay in force")),
    }
}

fn device(part: &FirewallPart, status: &InterfaceStatus) -> Device {
    let card = status.ports.iter().find(|port| port.device == status.device);
    let kind = match card {
        Some(port) if !port.driver.is_empty() => Kind::Card(port.driver.clone()),
        None if !status.ports.is_empty() => Kind::Bridge,
        _ => Kind::Virtual,
    };
    let wish = part.firewall.hooks.get(status.name.as_str()).copied().unwrap_or_default();
    Device { name: status.device.clone(), kind, wish }
}

fn add_interface(desired: &mut Desired, status: &InterfaceStatus, zone: u8) {
    let slot = status.index % INTERFACE_SLOTS;
    if let Some(other) = desired.interfaces.get(&slot) {
        desired.problems.push(format!(
            "interface {} (index {}) would share slot {slot} with index {}: it is closed",
            status.name, status.index, other.index
        ));
        return;
    }
    let mut nat_address = 0;
    for address in status.addresses.iter().filter_map(|text| address(text)) {
        if desired.addresses.len() + desired.addresses6.len() >= MAX_ADDRESSES as usize {
            let problem = format!("more than {MAX_ADDRESSES} addresses: {address} is closed");
            desired.problems.push(problem);
            continue;
        }
        match address {
            IpAddr::V4(address) => {
                let address = from_address(address);
                if nat_address == 0 {
                    nat_address = address;
                }
                desired.addresses.insert(address, status.index);
            }
            IpAddr::V6(address) => {
                desired.addresses6.insert(words6(address), status.index);
            }
        }
    }
    desired.interfaces.insert(
        slot,
        Interface { index: status.index, nat_address, mac: mac(&status.mac), zone, flags: 0 },
    );
}

/// Broadcast addresses of all subnets that the router is in, whatever zone they belong to: the kernel routes
/// nothing to any of them. Subnets of 31 bits have none (RFC 3021).
fn add_broadcasts(desired: &mut Desired, interfaces: &[InterfaceStatus]) {
    for status in interfaces.iter().filter(|status| status.index != 0) {
        for text in &status.addresses {
            let Ok(IpNet::V4(subnet)) = text.parse() else { continue };
            let address = from_address(subnet.broadcast());
            // What is also an address of the router is one.
            if subnet.prefix_len() > 30 || desired.addresses.contains_key(&address) {
                continue;
            }
            if desired.addresses.len() + desired.addresses6.len() >= MAX_ADDRESSES as usize {
                desired.problems.push(format!(
                    "more than {MAX_ADDRESSES} addresses: {}, the broadcast address of {subnet}, \
                     counts as one that nothing leads to",
                    subnet.broadcast()
                ));
                continue;
            }
            desired.addresses.insert(address, status.index | BROADCAST);
        }
    }
}

/// Ids for all zones: those that have one keep it, new ones get the lowest that is free.
fn zone_ids(
    part: &FirewallPart,
    current: &[Zone],
    problems: &mut Vec<String>,
) -> BTreeMap<Name, u8> {
    let mut ids = BTreeMap::new();
    let mut free: BTreeSet<u8> = (1..MAX_ZONES as u8).collect();
    let mut new = Vec::new();
    for name in part.firewall.zones.keys() {
        let bytes = name_bytes(name.as_str());
        match current.iter().zip(0_u8..).find(|(zone, id)| *id != 0 && zone.name == bytes) {
            Some((_, id)) => {
                free.remove(&id);
                ids.insert(name.clone(), id);
            }
            None => new.push(name),
        }
    }
    // Ids of zones that are going away are taken last: their flows are still to be purged.
    let (unused, used): (Vec<u8>, Vec<u8>) = free
        .into_iter()
        .partition(|id| current.get(usize::from(*id)).is_none_or(|zone| zone.name == [0; 16]));
    let mut free = unused.into_iter().chain(used);
    for name in new {
        match free.next() {
            Some(id) => {
                ids.insert(name.clone(), id);
            }
            None => problems.push(format!(
                "zone {name}: there are more than {}: its interfaces are closed",
                MAX_ZONES - 1
            )),
        }
    }
    ids
}

fn bit(service: RouterService) -> u32 {
    match service {
        RouterService::Dhcp => policy::DHCP,
        RouterService::Dns => policy::DNS,
        RouterService::Ping => policy::PING,
        RouterService::Web => policy::WEB,
    }
}

/// A zone's name as the map has it.
pub fn name_bytes(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// A zone's name from the map; empty if the id is unused.
pub fn name_text(bytes: &[u8; 16]) -> String {
    bytes.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}

fn address(with_length: &str) -> Option<IpAddr> {
    with_length.split('/').next()?.parse().ok()
}

fn mac(text: &str) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (to, from) in bytes.iter_mut().zip(text.split(':')) {
        *to = u8::from_str_radix(from, 16).unwrap_or_default();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use portcullis_bus::network::PortStatus;
    use portcullis_model::{Action, Document, firewall::Hook};

    use super::*;

    fn part(text: &str) -> FirewallPart {
        FirewallPart::of(&Document::parse(text).unwrap_or_else(|error| panic!("{error}")))
    }

    fn interface(name: &str, index: u32, addresses: &[&str]) -> InterfaceStatus {
        InterfaceStatus {
            name: name.to_owned(),
            device: name.to_owned(),
            index,
            mac: format!("02:00:00:00:00:{index:02x}"),
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            ..InterfaceStatus::default()
        }
    }

    #[test]
    fn subnets_have_broadcast_addresses() {
        let interfaces = [
            interface("lan", 2, &["192.168.77.1/24", "192.168.77.2/24", "fd00::1/64"]),
            // The broadcast address of the first subnet is the router's in the second.
            interface("wan", 3, &["10.0.0.1/30", "10.0.0.3/8", "10.1.0.0/31", "10.2.0.1/32"]),
            interface("closed", 4, &["10.9.0.1/16"]),
        ];
        let desired = compile(&part(""), &interfaces, &Standing::default());
        let of = |octets: [u8; 4]| desired.addresses.get(&u32::from_ne_bytes(octets)).copied();
        assert_eq!(of([192, 168, 77, 255]), Some(2 | BROADCAST));
        assert_eq!(of([10, 0, 0, 3]), Some(3));
        assert_eq!(of([10, 255, 255, 255]), Some(3 | BROADCAST));
        assert_eq!(
            of([10, 9, 255, 255]),
            Some(4 | BROADCAST),
            "it is in the routing table all the same"
        );
        assert_eq!(desired.addresses.len(), 2 + 4 + 3);
    }

    #[test]
    fn interfaces_of_both_families_get_their_zone_and_addresses() {
        let interfaces = [
            interface("lan", 2, &["192.168.77.1/24", "fd00::1/64", "fe80::1/64"]),
            interface("wan", 3, &["198.51.100.2/24", "198.51.100.3/24"]),
        ];
        let desired = compile(&part(""), &interfaces, &Standing::default());
        assert!(desired.problems.is_empty(), "{:?}", desired.problems);
        let zone = |name: &str| {
            desired.zones.iter().position(|zone| name_text(&zone.name) == name).unwrap_or(0)
        };
        let [lan, wan] = [2, 3].map(|slot| desired.interfaces.get(&slot).copied());
        assert_eq!(
            lan,
            Some(Interface {
                index: 2,
                nat_address: u32::from_ne_bytes([192, 168, 77, 1]),
                mac: [2, 0, 0, 0, 0, 2],
                zone: zone("lan") as u8,
                flags: 0
            })
        );
        assert_eq!(wan.map(|wan| usize::from(wan.zone)), Some(zone("wan")));
        assert_eq!(wan.map(|wan| wan.nat_address), Some(u32::from_ne_bytes([198, 51, 100, 2])));
        let router = desired.addresses.values().filter(|index| *index & BROADCAST == 0);
        assert_eq!(router.count(), 3);
        assert_eq!(
            desired.addresses6.get(&words6("fd00::1".parse().unwrap_or_else(|_| panic!()))),
            Some(&2)
        );
        assert!(desired.policy.is_some());
        let pair = |from, to| desired.resolved.default_of(zone(from) as u8, zone(to) as u8).action;
        assert_eq!([pair("lan", "wan"), pair("wan", "lan")], [Action::Allow, Action::Deny]);
        assert_eq!(
            desired.zones.get(zone("wan")).map(|zone| zone.flags & policy::MASQUERADE),
            Some(1)
        );
    }

    #[test]
    fn an_interface_without_zone_or_slot_is_attached_but_closed() {
        let interfaces =
            [interface("lan", 2, &[]), interface("wan", 1026, &[]), interface("odd", 7, &[])];
        let desired = compile(&part(""), &interfaces, &Standing::default());
        assert_eq!(desired.interfaces.keys().collect::<Vec<_>>(), [&2]);
        assert_eq!(desired.devices.len(), 3);
        let [shared, odd] = desired.problems.as_slice() else { panic!("{:?}", desired.problems) };
        assert!(shared.contains("wan (index 1026) would share slot 2"), "{shared}");
        assert!(odd.contains("odd belongs to no zone"), "{odd}");
    }

    #[test]
    fn zones_keep_their_ids_and_new_ones_take_those_never_used_first() {
        let first = compile(&part(""), &[], &Standing::default());
        let id = |desired: &Desired, name: &str| {
            desired.zones.iter().position(|zone| name_text(&zone.name) == name)
        };
        // Sorts before the others.
        let mut part = part("");
        part.firewall.zones.retain(|name, _| name.as_str() == "lan");
        let name = "aaa".to_owned().try_into().unwrap_or_else(|_| panic!());
        part.firewall.zones.insert(name, portcullis_model::Zone::default());
        let second = compile(&part, &[], &Standing { zones: &first.zones, ..Standing::default() });
        assert_eq!(id(&second, "lan"), id(&first, "lan"));
        assert_eq!(id(&second, "wan"), None);
        assert_ne!(id(&second, "aaa"), id(&first, "wan"), "flows of wan are still to be purged");
    }

    #[test]
    fn rules_that_are_the_same_are_not_compiled_again() {
        let first = compile(&part(""), &[], &Standing::default());
        let again = |interfaces: &[InterfaceStatus]| {
            let standing =
                Standing { zones: &first.zones, before: Some(&first), ..Standing::default() };
            let second = compile(&part(""), interfaces, &standing);
            match (&first.policy, &second.policy) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => panic!("compiles"),
            }
        };
        assert!(again(&[]));
        assert!(again(&[interface("lan", 2, &["192.168.77.1/24"])]));
    }

    #[test]
    fn devices_are_what_the_network_service_says_they_are() {
        let mut part = part("");
        let lan = "lan".to_owned().try_into().unwrap_or_else(|_| panic!());
        part.firewall.hooks.insert(lan, Hook::Xdp);
        let port = |device: &str| PortStatus {
            device: device.to_owned(),
            driver: "igc".to_owned(),
            ..PortStatus::default()
        };
        let card = InterfaceStatus { ports: vec![port("lan")], ..interface("lan", 2, &[]) };
        let bridge =
            InterfaceStatus { ports: vec![port("eth1"), port("eth2")], ..interface("wan", 3, &[]) };
        let desired =
            compile(&part, &[card, bridge, interface("ppp", 4, &[])], &Standing::default());
        let kinds: Vec<_> = desired.devices.values().map(|device| &device.kind).collect();
        assert_eq!(kinds, [&Kind::Card("igc".to_owned()), &Kind::Bridge, &Kind::Virtual]);
        let wishes: Vec<_> = desired.devices.values().map(|device| device.wish).collect();
        assert_eq!(wishes, [Hook::Xdp, Hook::Auto, Hook::Auto]);
    }
}
