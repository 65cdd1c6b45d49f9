//! The difference between what is wanted and what is there, as an ordered list of changes.
//!
//! Pure. Nothing that is wanted and there is ever touched, so traffic over it goes on. Some changes
//! have side effects in the kernel (a route goes with its source address, a new bridge brings new
//! parameters), so one reads and plans again until the plan is empty; two passes do.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use portcullis_model::MacAddress;

use super::{ALIAS, Actual, Address, Device, Link, LinkKind, Route, Wanted, Way};

/// One change to the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a kernel parameter.
    SetSysctl {
        /// Path under `/proc/sys`.
        path: String,
        /// New value.
        value: String,
    },
    /// Delete a bridge that this service made.
    DeleteBridge,
    /// Make a bridge: no spanning tree, no forward delay.
    CreateBridge {
        /// Its hardware address.
        mac: Option<MacAddress>,
    },
    /// Switch spanning tree and forward delay of a bridge off.
    ConfigureBridge,
    /// Mark it as ours.
    SetAlias,
    /// Take our mark away.
    ClearAlias,
    /// Set the hardware address.
    SetMac(MacAddress),
    /// Set the MTU in bytes.
    SetMtu(u32),
    /// Make it a port of this bridge, or of none.
    SetMaster(Option<String>),
    /// Bring it up.
    SetUp,
    /// Take it down.
    SetDown,
    /// Add an address.
    AddAddress(IpNet),
    /// Remove an address.
    RemoveAddress(IpNet),
    /// Add a route.
    AddRoute(Way),
    /// Put this route in the place of ours with the same destination and metric.
    ReplaceRoute(Way),
    /// Remove a route.
    RemoveRoute(Way),
}

/// A change and the device that it is made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Kernel device name; empty for a kernel parameter.
    pub device: String,
    /// What to do.
    pub change: Change,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = &self.device;
        match &self.change {
            Change::SetSysctl { path, value } => write!(f, "{path} = {value}"),
            Change::DeleteBridge => write!(f, "{device}: delete the bridge"),
            Change::CreateBridge { mac: Some(mac) } => write!(f, "{device}: make a bridge {mac}"),
            Change::CreateBridge { mac: None } => write!(f, "{device}: make a bridge"),
            Change::ConfigureBridge => write!(f, "{device}: spanning tree off"),
            Change::SetAlias => write!(f, "{device}: alias {ALIAS}"),
            Change::ClearAlias => write!(f, "{device}: no alias"),
            Change::SetMac(mac) => write!(f, "{device}: hardware address {mac}"),
            Change::SetMtu(mtu) => write!(f, "{device}: MTU {mtu}"),
            Change::SetMaster(Some(bridge)) => write!(f, "{device}: port of {bridge}"),
            Change::SetMaster(None) => write!(f, "{device}: port of no bridge"),
            Change::SetUp => write!(f, "{device}: up"),
            Change::SetDown => write!(f, "{device}: down"),
            Change::AddAddress(address) => write!(f, "{device}: add address {address}"),
            Change::RemoveAddress(address) => write!(f, "{device}: remove address {address}"),
            Change::AddRoute(way) => write!(f, "{device}: add route {way}"),
            Change::ReplaceRoute(way) => write!(f, "{device}: replace route {way}"),
            Change::RemoveRoute(way) => write!(f, "{device}: remove route {way}"),
        }
    }
}

/// What to do, in this order, so that `actual` becomes `wanted`.
pub fn plan(wanted: &Wanted, actual: &Actual) -> Vec<Step> {
    let mut steps = Steps::default();
    // Parameters first: a device that comes up takes them over, and router advertisements must
    // not be accepted for a moment.
    steps.sysctls(wanted, actual);
    steps.devices(wanted, actual);
    steps.addresses(wanted, actual);
    steps.routes(wanted, actual);
    steps.0
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn push(&mut self, device: &str, change: Change) {
        self.0.push(Step { device: device.to_owned(), change });
    }

    fn sysctls(&mut self, wanted: &Wanted, actual: &Actual) {
        for (path, value) in &wanted.sysctls {
            // Absent: the kernel was built without it (IPv6), or its device is made later.
            if actual.sysctls.get(path).is_some_and(|now| now != value) {
                let change = Change::SetSysctl { path: path.clone(), value: value.clone() };
                self.push("", change);
            }
        }
    }

    fn devices(&mut self, wanted: &Wanted, actual: &Actual) {
        // First of all, before anything that filters on it is left: its bridge, or its interface.
        self.take_down(wanted, actual);
        for (name, device) in &wanted.devices {
            match (device.bridge, actual.link(name)) {
                (Some(mac), link) => self.bridge(name, mac, link),
                // The alias of somebody else is not overwritten.
                (None, Some(link)) if link.alias.is_none() => self.push(name, Change::SetAlias),
                (None, _) => {}
            }
        }
        self.masters(wanted, actual);
        // A bridge takes no MTU above that of its ports: ports first.
        for bridges in [false, true] {
            for (name, device) in &wanted.devices {
                if device.bridge.is_some() == bridges {
                    self.mtu_and_up(name, device, actual.link(name));
                }
            }
        }
        // Its ports have found another place by now, if they have one.
        for link in actual.links.values().filter(|link| is_left_bridge(wanted, link)) {
            self.push(&link.name, Change::DeleteBridge);
        }
    }

    /// The firewall leaves a device that belongs to no interface any more, and is not yet on one that
    /// comes out of a bridge: neither may be on its link meanwhile.
    fn take_down(&mut self, wanted: &Wanted, actual: &Actual) {
        for link in actual.links.values() {
            let is_port =
                link.master.and_then(|index| actual.links.get(&index)).is_some_and(|master| {
                    is_left_bridge(wanted, master) || is_wanted_bridge(wanted, &master.name)
                });
            let target = wanted.devices.get(&link.name);
            let given_up = target.is_none() && is_ours(link) && !is_left_bridge(wanted, link);
            let unfiltered = target.is_none_or(|device| device.held && device.master.is_none());
            if link.up && (given_up || is_port && unfiltered) {
                self.push(&link.name, Change::SetDown);
            }
            if given_up {
                self.push(&link.name, Change::ClearAlias);
            }
        }
    }

    fn bridge(&mut self, name: &str, mac: Option<MacAddress>, link: Option<&Link>) {
        let Some(link) = link else {
            self.push(name, Change::CreateBridge { mac });
            self.push(name, Change::SetAlias);
            return;
        };
        // The address stays for as long as the bridge lives: neighbours know it.
        if let Some(mac) = mac
            && !link.mac_set
            && link.mac != Some(mac)
        {
            self.push(name, Change::SetMac(mac));
        }
        if !matches!(link.kind, LinkKind::Bridge { stp: false, forward_delay: 0 }) {
            self.push(name, Change::ConfigureBridge);
        }
        if link.alias.as_deref() != Some(ALIAS) {
            self.push(name, Change::SetAlias);
        }
    }

    fn masters(&mut self, wanted: &Wanted, actual: &Actual) {
        let master_of = |link: &Link| link.master.and_then(|index| actual.links.get(&index));
        for link in actual.links.values() {
            let Some(master) = master_of(link) else { continue };
            // Only ports of bridges that we manage or delete are ours to detach.
            let managed = is_wanted_bridge(wanted, &master.name);
            let target = wanted.devices.get(&link.name);
            if target.map_or(managed, |device| device.master.is_none()) {
                self.push(&link.name, Change::SetMaster(None));
            }
        }
        for (name, device) in &wanted.devices {
            if let (Some(bridge), Some(link)) = (&device.master, actual.link(name))
                && master_of(link).map(|master| &master.name) != Some(bridge)
            {
                self.push(name, Change::SetMaster(Some(bridge.clone())));
            }
        }
    }

    fn mtu_and_up(&mut self, name: &str, device: &Device, link: Option<&Link>) {
        if let Some(mtu) = device.mtu
            && link.is_none_or(|link| link.mtu != mtu)
        {
            self.push(name, Change::SetMtu(mtu));
        }
        if !device.held && link.is_none_or(|link| !link.up) {
            self.push(name, Change::SetUp);
        }
    }

    /// New addresses before old ones go, so that a changed address in the same subnet becomes
    /// primary by promotion and the connected route never vanishes.
    fn addresses(&mut self, wanted: &Wanted, actual: &Actual) {
        for (name, device) in &wanted.devices {
            let index = actual.link(name).map(|link| link.index);
            for address in &device.addresses {
                let there = actual
                    .addresses
                    .iter()
                    .any(|a| Some(a.index) == index && a.address == *address);
                if !there {
                    self.push(name, Change::AddAddress(*address));
                }
            }
        }
        for address in actual.addresses.iter().filter(|address| address.ours) {
            let Some(link) = actual.links.get(&address.index) else { continue };
            let still = wanted
                .devices
                .get(&link.name)
                .is_some_and(|device| device.addresses.contains(&address.address));
            if !still && !self.deleted(&link.name) {
                self.push(&link.name, Change::RemoveAddress(address.address));
            }
        }
        for (name, device) in &wanted.devices {
            for address in ahead_of_first(device, actual.link(name), &actual.addresses) {
                self.push(name, Change::RemoveAddress(address));
                self.push(name, Change::AddAddress(address));
            }
        }
    }

    fn routes(&mut self, wanted: &Wanted, actual: &Actual) {
        let name_of = |route: &Route| actual.links.get(&route.index).map(|link| link.name.as_str());
        // By destination and metric: the kernel holds one of our routes for each.
        let mut replaced = BTreeSet::new();
        for (device, way) in &wanted.routes {
            let held = wanted.devices.get(device).is_some_and(|device| device.held);
            let up = actual.link(device).is_some_and(|link| link.up)
                && !self.has(device, &Change::SetDown);
            if held && !up {
                continue;
            }
            let same_place = actual.routes.iter().filter(|route| {
                route.ours
                    && route.way.destination == way.destination
                    && route.way.metric == way.metric
            });
            let mut there = false;
            let mut other = None;
            for route in same_place {
                match name_of(route) == Some(device) && route.way == *way {
                    true => there = true,
                    false => other = Some(route),
                }
            }
            match (there, other) {
                (true, _) => {}
                (false, Some(_)) => {
                    replaced.insert((way.destination, way.metric));
                    self.push(device, Change::ReplaceRoute(way.clone()));
                }
                (false, None) => self.push(device, Change::AddRoute(way.clone())),
            }
        }
        for route in actual.routes.iter().filter(|route| route.ours) {
            let Some(name) = name_of(route) else { continue };
            let still =
                wanted.routes.iter().any(|(device, way)| device == name && *way == route.way);
            let place = (route.way.destination, route.way.metric);
            if !still && !replaced.contains(&place) && !self.deleted(name) {
                self.push(name, Change::RemoveRoute(route.way.clone()));
            }
        }
    }

    fn deleted(&self, device: &str) -> bool {
        self.has(device, &Change::DeleteBridge)
    }

    fn has(&self, device: &str, change: &Change) -> bool {
        self.0.iter().any(|step| step.device == device && step.change == *change)
    }
}

/// IPv4 addresses of ours that the kernel has before one that shall be the first: of all, which is the
/// source of what leaves elsewhere, or of its subnet, which is the primary one there. The kernel puts
/// what is added behind what is there, and makes the next one of a subnet primary when the first goes.
fn ahead_of_first(device: &Device, link: Option<&Link>, addresses: &[Address]) -> Vec<IpNet> {
    let Some(index) = link.map(|link| link.index) else { return Vec::new() };
    let there: Vec<&Address> = addresses.iter().filter(|one| one.index == index).collect();
    let place = |net: &IpNet| there.iter().position(|one| one.address == *net);
    let wanted: Vec<&IpNet> = device.addresses.iter().filter(|net| net.addr().is_ipv4()).collect();
    let mut ahead = Vec::new();
    for address in there.iter().filter(|one| one.ours).map(|one| one.address) {
        if !wanted.contains(&&address) {
            continue;
        }
        let of_subnet = wanted.iter().find(|net| net.trunc() == address.trunc());
        let is_ahead = wanted.first().into_iter().chain(of_subnet).any(|first| {
            **first != address && place(first).is_none_or(|first| Some(first) > place(&address))
        });
        if is_ahead {
            ahead.push(address);
        }
    }
    ahead
}

fn is_ours(link: &Link) -> bool {
    link.alias.as_deref() == Some(ALIAS)
}

fn is_wanted_bridge(wanted: &Wanted, name: &str) -> bool {
    wanted.devices.get(name).is_some_and(|device| device.bridge.is_some())
}

/// Whether it is a bridge that we made and nobody wants any more.
fn is_left_bridge(wanted: &Wanted, link: &Link) -> bool {
    matches!(link.kind, LinkKind::Bridge { .. })
        && is_ours(link)
        && !is_wanted_bridge(wanted, &link.name)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
