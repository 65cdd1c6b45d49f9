//! Bringing the maps to what [`crate::compile`] wants: only what differs is written, and in an order
//! in which nothing passes that neither the old nor the new policy allows.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_datapath_abi::{FlowEntry, FlowKey, Interface, Zone, flow::ORIGINAL, policy};

use crate::{
    compile::Desired,
    datapath::{Maps, Result, Walk},
};

/// What flows must not survive a change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gone {
    /// Addresses that the router no longer has.
    pub addresses: BTreeSet<u32>,
    /// Ids of zones that no longer exist.
    pub zones: BTreeSet<u8>,
}

impl Gone {
    /// Whether nothing is gone.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.zones.is_empty()
    }

    /// Whether a direction of a flow is bound to something that is gone.
    pub fn concerns(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        [key.source, key.destination, entry.source, entry.destination]
            .iter()
            .any(|address| self.addresses.contains(address))
            || self.zones.contains(&key.zone)
            || self.zones.contains(&entry.peer_zone)
    }
}

/// Writes what differs. Returns whether anything did, and what is gone.
///
/// # Errors
/// If the kernel refuses a write; the maps are then between old and new, and the next call goes on.
pub fn install(maps: &mut Maps, desired: &Desired) -> Result<(bool, Gone)> {
    let mut changed = false;
    let mut gone = Gone::default();
    // Pairs that lose their permission first.
    let pairs = maps.pairs()?;
    let verdict = |index: u32| {
        if desired.allowed.contains(&index) { policy::ALLOW } else { policy::DENY }
    };
    for pass in [policy::DENY, policy::ALLOW] {
        if pass == policy::ALLOW {
            changed |= install_zones(maps, desired, &mut gone)?;
            changed |= install_interfaces(maps, desired)?;
            changed |= install_addresses(maps, desired, &mut gone)?;
        }
        for (index, actual) in (0_u32..).zip(&pairs) {
            if verdict(index) == pass && *actual != pass {
                maps.set_pair(index, pass)?;
                changed = true;
            }
        }
    }
    Ok((changed, gone))
}

fn install_zones(maps: &mut Maps, desired: &Desired, gone: &mut Gone) -> Result<bool> {
    let mut changed = false;
    for (id, (actual, wanted)) in (0_u32..).zip(maps.zones()?.iter().zip(&desired.zones)) {
        if actual != wanted {
            if actual.name != Zone::default().name && actual.name != wanted.name {
                gone.zones.insert(id as u8);
            }
            maps.set_zone(id, wanted)?;
            changed = true;
        }
    }
    Ok(changed)
}

fn install_interfaces(maps: &mut Maps, desired: &Desired) -> Result<bool> {
    let mut changed = false;
    for (slot, actual) in (0_u32..).zip(maps.interfaces()?) {
        let wanted = desired.interfaces.get(&slot).copied().unwrap_or_default();
        if actual != wanted {
            if actual.index != wanted.index && actual != Interface::default() {
                // Never half one interface and half another.
                maps.set_interface(slot, &Interface::default())?;
            }
            maps.set_interface(slot, &wanted)?;
            changed = true;
        }
    }
    Ok(changed)
}

fn install_addresses(maps: &mut Maps, desired: &Desired, gone: &mut Gone) -> Result<bool> {
    let mut changed = false;
    let actual: BTreeMap<u32, u32> = maps.addresses()?.into_iter().collect();
    for (address, interface) in &desired.addresses {
        if actual.get(address) != Some(interface) {
            maps.set_address(*address, *interface)?;
            changed = true;
        }
    }
    for address in actual.keys().filter(|address| !desired.addresses.contains_key(address)) {
        maps.remove_address(*address)?;
        gone.addresses.insert(*address);
        changed = true;
    }
    Ok(changed)
}

/// Removes the flows that are bound to what is gone; returns how many.
///
/// # Errors
/// What the kernel says.
pub fn purge(maps: &mut Maps, gone: &Gone) -> Result<u64> {
    let mut removed = 0;
    if gone.is_empty() {
        return Ok(removed);
    }
    let mut walk = Walk::default();
    while let Some(entries) = maps.walk(&mut walk)? {
        let doomed: Vec<_> =
            entries.iter().filter(|(key, entry)| gone.concerns(key, entry)).copied().collect();
        for (key, entry) in doomed {
            maps.remove_flow(&key)?;
            if entry.flags & ORIGINAL != 0 {
                removed += 1;
            }
        }
    }
    Ok(removed)
}
