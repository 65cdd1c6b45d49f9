//! From configuration, NICs and leases to the wanted state of the kernel. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portcullis_model::{Interface, InterfaceKind, Ipv4, Ipv6, Name, part::NetworkPart};

use crate::{
    client::lease::Grant,
    kernel::{
        Device, Link, LinkKind, Wanted, Way,
        plan::{Change, Step},
        sysctl::{self, Role, Roles},
    },
    ports,
};

/// The least MTU of a link with IPv6 (RFC 8200 section 5): with less the kernel takes IPv6 off it.
const SMALLEST_MTU6: u32 = 1280;

/// The present that configuration is applied to.
#[derive(Debug)]
pub struct Present<'a> {
    /// Devices by kernel index.
    pub links: &'a BTreeMap<u32, Link>,
    /// Leases in force by interface.
    pub leases: &'a BTreeMap<Name, Grant>,
    /// MTU of each device before this service changed it.
    pub original_mtus: &'a BTreeMap<String, u32>,
    /// Whether software devices count as physical ports.
    pub all_ports: bool,
    /// Which devices may be brought up.
    pub guard: &'a Guard,
}

/// Which devices are behind the firewall, so that nothing on the link meets an unfiltered router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// It does not matter.
    Off,
    /// Nobody has said.
    #[default]
    Unknown,
    /// These, by kernel index.
    Behind(BTreeSet<u32>),
}

impl Guard {
    fn covers(&self, link: Option<&Link>) -> bool {
        match self {
            Self::Off => true,
            Self::Unknown => false,
            Self::Behind(indices) => link.is_some_and(|link| indices.contains(&link.index)),
        }
    }
}

/// Which devices an interface has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The device with its addresses; none while its port is missing.
    pub device: Option<String>,
    /// Its physical ports.
    pub ports: Vec<String>,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// State of the kernel to reach.
    pub wanted: Wanted,
    /// Devices of each interface.
    pub placed: BTreeMap<Name, Placed>,
    /// What the user should know, by interface.
    pub problems: Vec<String>,
}

/// What the kernel's state shall be.
pub fn target(part: &NetworkPart, present: &Present<'_>) -> Target {
    let mut target = Target::default();
    let leases = target.usable_leases(part, present.leases);
    let present = &Present { leases: &leases, ..*present };
    let nics = ports::nics(present.links.values(), present.all_ports);
    let assigned = ports::assign(&part.interfaces, &nics);
    let mut roles = BTreeMap::new();
    for (name, interface) in &part.interfaces {
        let ports = assigned.get(name).cloned().unwrap_or_default();
        let placed = target.place(name, interface, ports, present);
        if let Some(device) = &placed.device {
            roles.insert(device.clone(), roles_of(interface, part));
        }
        target.placed.insert(name.clone(), placed);
    }
    target.routes(part, present);
    target.wanted.sysctls = sysctl::wanted(roles.iter().map(|(d, roles)| (d.as_str(), *roles)));
    target
}

fn roles_of(interface: &Interface, part: &NetworkPart) -> Roles {
    let role = |is_uplink: fn(&Interface) -> bool| {
        let uplinks = part.interfaces.values().filter(|one| is_uplink(one)).count();
        match (is_uplink(interface), uplinks) {
            (false, _) => Role::Inside,
            (true, 1) => Role::Uplink,
            (true, _) => Role::OneOfUplinks,
        }
    };
    Roles { ipv4: role(is_uplink4), ipv6: role(is_uplink6) }
}

fn is_uplink4(interface: &Interface) -> bool {
    matches!(interface.ipv4, Ipv4::Dhcp { .. } | Ipv4::Static { gateway: Some(_), .. })
}

fn is_uplink6(interface: &Interface) -> bool {
    matches!(interface.ipv6, Ipv6::Static { gateway: Some(_), .. })
}

impl Target {
    /// Whether a change is made because a lease says so.
    pub fn is_of_lease(&self, part: &NetworkPart, step: &Step) -> bool {
        let interface = part.interfaces.iter().find(|(name, _)| {
            self.placed.get(*name).is_some_and(|placed| {
                placed.device.as_ref() == Some(&step.device) || placed.ports.contains(&step.device)
            })
        });
        let Some((_, interface)) = interface else { return false };
        let of_lease = match &step.change {
            Change::AddAddress(net) => net.addr().is_ipv4(),
            Change::AddRoute(way) | Change::ReplaceRoute(way) => way.destination.addr().is_ipv4(),
            Change::SetMtu(_) => interface.mtu.is_none(),
            _ => false,
        };
        of_lease && matches!(interface.ipv4, Ipv4::Dhcp { .. })
    }

    fn place(
        &mut self,
        name: &Name,
        interface: &Interface,
        ports: Vec<String>,
        present: &Present<'_>,
    ) -> Placed {
        let lease = present.leases.get(name);
        let link = |device: &str| present.links.values().find(|link| link.name == device);
        // 576 is the least that IPv4 needs; what the driver takes at most is in the link.
        let mtu_of = |device: &str| {
            let asked = interface.mtu.or(lease.and_then(|lease| lease.mtu)).map(u32::from);
            let most = link(device).map_or(0, |link| link.max_mtu);
            let least = match interface.ipv6 {
                Ipv6::Static { .. } => SMALLEST_MTU6,
                Ipv6::None => 0,
            };
            match asked {
                // Told by the server, not by the user: what the NIC cannot do is not tried, nor does
                // it cost the addresses that the user wrote.
                Some(mtu) if interface.mtu.is_none() => {
                    let mtu = mtu.max(least);
                    Some(if most > 0 { mtu.min(most) } else { mtu })
                }
                Some(mtu) => Some(mtu),
                None => present.original_mtus.get(device).copied(),
            }
        };
        let addresses = addresses(interface, lease);
        let device = match interface.kind {
            InterfaceKind::Ethernet => {
                let Some(port) = ports.first() else {
                    self.problems.push(format!("{name}: none of its ports is there"));
                    return Placed::default();
                };
                let held = !present.guard.covers(link(port));
                let device =
                    Device { addresses, mtu: mtu_of(port), bridge: None, master: None, held };
                self.wanted.devices.insert(port.clone(), device);
                port.clone()
            }
            InterfaceKind::Bridge => {
                let bridge = name.to_string();
                let other =
                    link(&bridge).filter(|link| !matches!(link.kind, LinkKind::Bridge { .. }));
                if other.is_some() {
                    self.problems.push(format!(
                        "{name}: a device of this name is there and is not a bridge; choose another name"
                    ));
                    return Placed { device: None, ports };
                }
                for port in &ports {
                    // What arrives at a port goes to the bridge, or nowhere.
                    let device = Device {
                        master: Some(bridge.clone()),
                        mtu: mtu_of(port),
                        ..Device::default()
                    };
                    self.wanted.devices.insert(port.clone(), device);
                }
                let first = ports.first().and_then(|port| link(port));
                let mac = first.and_then(|link| link.permanent_mac.or(link.mac));
                let mtu = mtu_of(&bridge);
                let held = !present.guard.covers(link(&bridge));
                let device = Device { bridge: Some(mac), addresses, mtu, master: None, held };
                self.wanted.devices.insert(bridge.clone(), device);
                bridge
            }
        };
        Placed { device: Some(device), ports }
    }

    fn routes(&mut self, part: &NetworkPart, present: &Present<'_>) {
        let mut taken = BTreeSet::new();
        for (name, interface) in &part.interfaces {
            let Some(device) = self.placed.get(name).and_then(|placed| placed.device.clone())
            else {
                continue;
            };
            for mut way in ways(interface, present.leases.get(name)) {
                if matches!(interface.ipv4, Ipv4::Dhcp { .. })
                    && let Some((owner, network)) = owner(part, present, name, way.destination)
                {
                    self.problems.push(format!(
                        "{name}: the leased route to {} would lead {owner}'s network {network} away and is not used",
                        way.destination
                    ));
                    continue;
                }
                // One route for each destination and metric: of equal uplinks the first by name
                // is preferred.
                while !taken.insert((way.destination, way.metric)) {
                    way.metric = way.metric.saturating_add(1);
                }
                self.wanted.routes.push((device.clone(), way));
            }
        }
    }

    /// The leases that can be used. A WAN that gives out the LAN's own addresses is common behind a
    /// second router: what the kernel makes of such a one, a route to its prefix and the address of
    /// a host, would lead the LAN's packets to the WAN or to the router.
    fn usable_leases(
        &mut self,
        part: &NetworkPart,
        leases: &BTreeMap<Name, Grant>,
    ) -> BTreeMap<Name, Grant> {
        let mut usable = leases.clone();
        for (name, grant) in leases {
            let leased = grant.address.trunc();
            for (other, interface) in &part.interfaces {
                let Ipv4::Static { addresses, .. } = &interface.ipv4 else { continue };
                // Uplinks may well lead to the same network.
                let inside = addresses.iter().find(|network| {
                    !is_uplink4(interface) && network.contains(&grant.address.addr())
                });
                let overlaps = addresses.iter().find(|network| {
                    network.contains(&leased.addr()) || leased.contains(&network.network())
                });
                if let Some(network) = inside {
                    usable.remove(name);
                    self.problems.push(format!(
                        "{name}: the leased address {} is in {other}'s {network} and is not used; give {other} another network",
                        grant.address
                    ));
                } else if let Some(network) = overlaps {
                    self.problems.push(format!(
                        "{name}: the leased network {leased} overlaps {other}'s {network}; give {other} another network"
                    ));
                }
            }
        }
        usable
    }
}

/// The interface other than `name` that has all of `destination` on its own link. A route of a DHCP
/// server (RFC 3442) must not lead that elsewhere: a longer prefix would win over the link's own.
fn owner<'a>(
    part: &'a NetworkPart,
    present: &Present<'_>,
    name: &Name,
    destination: IpNet,
) -> Option<(&'a Name, IpNet)> {
    let others = part.interfaces.iter().filter(|(other, _)| *other != name);
    others
        .flat_map(|(other, interface)| {
            let own = addresses(interface, present.leases.get(other));
            own.into_iter().map(move |network| (other, network.trunc()))
        })
        .find(|(_, network)| network.contains(&destination))
}

fn addresses(interface: &Interface, lease: Option<&Grant>) -> Vec<IpNet> {
    let leased;
    let v4: &[Ipv4Net] = match &interface.ipv4 {
        Ipv4::None => &[],
        Ipv4::Dhcp { .. } => {
            leased = lease.map(|lease| lease.address);
            leased.as_slice()
        }
        Ipv4::Static { addresses, .. } => addresses,
    };
    let v6 = interface.ipv6.fixed_addresses();
    v4.iter().copied().map(IpNet::V4).chain(v6.iter().copied().map(IpNet::V6)).collect()
}

fn ways(interface: &Interface, lease: Option<&Grant>) -> Vec<Way> {
    let mut all = ways4(interface, lease);
    if let Ipv6::Static { addresses, gateway: Some(gateway), metric } = &interface.ipv6 {
        let own: Vec<_> = addresses.iter().copied().map(IpNet::V6).collect();
        let everywhere = IpNet::V6(Ipv6Net::default());
        let mut way = way(everywhere, Some(IpAddr::V6(*gateway)), &own, None, *metric);
        // Every link has link-local addresses.
        way.onlink &= !gateway.is_unicast_link_local();
        all.push(way);
    }
    all
}

fn ways4(interface: &Interface, lease: Option<&Grant>) -> Vec<Way> {
    match (&interface.ipv4, lease) {
        (Ipv4::Static { addresses, gateway: Some(gateway), metric }, _) => {
            let own: Vec<_> = addresses.iter().copied().map(IpNet::V4).collect();
            let everywhere = IpNet::V4(Ipv4Net::default());
            vec![way(everywhere, Some(IpAddr::V4(*gateway)), &own, None, *metric)]
        }
        (Ipv4::Dhcp { metric }, Some(lease)) => {
            let own = lease.address;
            lease
                .routes
                .iter()
                // The kernel makes the route to the own prefix by itself.
                .filter(|(destination, gateway)| gateway.is_some() || *destination != own.trunc())
                .map(|(destination, gateway)| {
                    let (own, source) = (IpNet::V4(own), Some(IpAddr::V4(own.addr())));
                    let gateway = gateway.map(IpAddr::V4);
                    way(IpNet::V4(*destination), gateway, &[own], source, *metric)
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

fn way(
    destination: IpNet,
    gateway: Option<IpAddr>,
    own: &[IpNet],
    source: Option<IpAddr>,
    metric: u32,
) -> Way {
    // Some providers lease a /32, or have the gateway outside of the prefix.
    let onlink = gateway.is_some_and(|gateway| !own.iter().any(|net| net.contains(&gateway)));
    Way { destination, gateway, onlink, source, metric }
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
