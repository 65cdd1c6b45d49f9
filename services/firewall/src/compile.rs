//! From configuration and interfaces to the contents of the datapath's maps. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use portcullis_bus::network::InterfaceStatus;
use portcullis_datapath_abi::{
    Interface, Zone, from_address,
    policy::{self, INTERFACE_SLOTS, MAX_ADDRESSES, MAX_ZONES, pair_index},
};
use portcullis_model::{Action, RouterService, part::FirewallPart};

/// What the maps shall hold, and where the programs shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Interfaces by slot.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Zones by id, one for each id.
    pub zones: Vec<Zone>,
    /// Indices of zone pairs whose new flows pass.
    pub allowed: BTreeSet<u32>,
    /// The router's addresses, to the index of their interface.
    pub addresses: BTreeMap<u32, u32>,
    /// Devices to attach to: name by index.
    pub devices: BTreeMap<u32, String>,
    /// What could not be compiled, one sentence each. It is refused, never let through.
    pub problems: Vec<String>,
}

/// Compiles. `current` are the zones in the map now, whose ids stay.
pub fn compile(part: &FirewallPart, interfaces: &[InterfaceStatus], current: &[Zone]) -> Desired {
    let mut desired = Desired::default();
    let ids = zone_ids(part, current, &mut desired.problems);
    desired.zones = vec![Zone::default(); MAX_ZONES as usize];
    for (name, id) in &ids {
        if let (Some(zone), Some(slot)) =
            (part.firewall.zones.get(*name), desired.zones.get_mut(usize::from(*id)))
        {
            *slot = Zone {
                services: zone.services.iter().fold(0, |bits, service| bits | bit(*service)),
                flags: if zone.masquerade { policy::MASQUERADE } else { 0 },
                name: name_bytes(name),
            };
        }
    }
    let mut decided = BTreeSet::new();
    for rule in &part.firewall.policies {
        if let (Some(from), Some(to)) = (ids.get(rule.from.as_str()), ids.get(rule.to.as_str())) {
            let pair = pair_index(*from, *to);
            // The first that fits decides.
            if decided.insert(pair) && rule.action == Action::Allow {
                desired.allowed.insert(pair);
            }
        }
    }
    for status in interfaces.iter().filter(|status| status.index != 0) {
        match part.interfaces.get(status.name.as_str()).and_then(|zone| ids.get(zone.as_str())) {
            Some(zone) => add_interface(&mut desired, status, *zone),
            // It stays out of the maps, and so everything on it is dropped.
            None => desired
                .problems
                .push(format!("interface {} belongs to no zone: it is closed", status.name)),
        }
        desired.devices.insert(status.index, status.device.clone());
    }
    desired
}

fn add_interface(desired: &mut Desired, status: &InterfaceStatus, zone: u8) {
    let mut addresses =
        status.addresses.iter().filter_map(|text| ipv4(text)).map(from_address).peekable();
    let interface = Interface {
        index: status.index,
        nat_address: addresses.peek().copied().unwrap_or_default(),
        mac: mac(&status.mac),
        zone,
        flags: 0,
    };
    let slot = status.index % INTERFACE_SLOTS;
    if let Some(other) = desired.interfaces.get(&slot) {
        desired.problems.push(format!(
            "interface {} (index {}) would share slot {slot} with index {}: it is closed",
            status.name, status.index, other.index
        ));
        return;
    }
    desired.interfaces.insert(slot, interface);
    for address in addresses {
        if desired.addresses.len() < MAX_ADDRESSES as usize {
            desired.addresses.insert(address, status.index);
        } else {
            desired.problems.push(format!("more than {MAX_ADDRESSES} addresses"));
        }
    }
}

/// Ids for all zones: those that have one keep it, new ones get the lowest that is free.
fn zone_ids<'a>(
    part: &'a FirewallPart,
    current: &[Zone],
    problems: &mut Vec<String>,
) -> BTreeMap<&'a str, u8> {
    let mut ids = BTreeMap::new();
    let mut free: BTreeSet<u8> = (1..MAX_ZONES as u8).collect();
    let mut new = Vec::new();
    for name in part.firewall.zones.keys() {
        let bytes = name_bytes(name.as_str());
        match current.iter().zip(0_u8..).find(|(zone, id)| *id != 0 && zone.name == bytes) {
            Some((_, id)) => {
                free.remove(&id);
                ids.insert(name.as_str(), id);
            }
            None => new.push(name.as_str()),
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
                ids.insert(name, id);
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

fn ipv4(with_length: &str) -> Option<Ipv4Addr> {
    with_length.split('/').next()?.parse().ok()
}

fn mac(text: &str) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (to, from) in bytes.iter_mut().zip(text.split(':')) {
        *to = u8::from_str_radix(from, 16).unwrap_or_default();
    }
    bytes
}
