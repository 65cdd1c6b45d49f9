//! `interfaces`: ports, addresses, default routes, and that networks do not overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Problems,
    addresses::{no_host_in, unusable, unusable_ip, unusable_mac},
    list,
};
use crate::{Document, Interface, InterfaceKind, Ipv4, Ipv6, Name, PortSelector};

/// Device names that mean something else to Linux: the loopback device, and the two entries of
/// /proc/sys/net/ipv4/conf that are no devices.
const RESERVED_DEVICES: [&str; 3] = ["lo", "all", "default"];

/// The least that IPv6 needs of a link (RFC 8200 section 5); the kernel takes IPv6 off a device with
/// less.
const SMALLEST_MTU6: u16 = 1280;

pub(super) fn check(document: &Document, problems: &mut Problems) {
    if document.interfaces.is_empty() {
        problems.add("interfaces", "at least one interface is needed");
    }
    let devices = selected_devices(document);
    for (name, interface) in &document.interfaces {
        let path = format!("interfaces.{name}");
        zone(document, &path, interface, problems);
        ports(&path, interface, problems);
        device_name(&devices, &path, name, interface, problems);
        if let Some(mtu) = interface.mtu {
            let fixed6 = matches!(interface.ipv6, Ipv6::Static { .. });
            let (least, unit) = match fixed6 {
                true => (SMALLEST_MTU6, "bytes with IPv6 addresses (RFC 8200 section 5)"),
                false => (576, "bytes"),
            };
            problems.range(format!("{path}.mtu"), mtu, least..=9216, unit);
        }
        if let Ipv4::Static { addresses, gateway, .. } = &interface.ipv4 {
            fixed_addresses(&path, addresses, problems);
            if let Some(gateway) = *gateway {
                gateway_address(&format!("{path}.ipv4.gateway"), gateway, addresses, problems);
            }
        }
        if let Ipv6::Static { addresses, gateway, .. } = &interface.ipv6 {
            let path = format!("{path}.ipv6");
            fixed_addresses6(&path, addresses, problems);
            if let Some(gateway) = *gateway {
                gateway_address6(&format!("{path}.gateway"), gateway, addresses, problems);
            }
        }
    }
    ports_selected_once(document, problems);
    networks_apart(document, "ipv4", |one| nets(one.ipv4.fixed_addresses()), problems);
    networks_apart(document, "ipv6", |one| nets(one.ipv6.fixed_addresses()), problems);
    metrics(document, problems);
}

fn zone(document: &Document, path: &str, interface: &Interface, problems: &mut Problems) {
    let zones = &document.firewall.zones;
    if !zones.contains_key(&interface.zone) {
        problems.add(
            format!("{path}.zone"),
            format!(
                "`{}` is not a zone; firewall.zones has: {}",
                interface.zone,
                list(zones.keys())
            ),
        );
    }
}

fn ports(path: &str, interface: &Interface, problems: &mut Problems) {
    if interface.kind == InterfaceKind::Ethernet {
        if interface.ports.len() != 1 {
            problems.add(
                format!("{path}.ports"),
                format!(
                    "{} ports, but kind \"ethernet\" has exactly one; kind \"bridge\" takes several",
                    interface.ports.len()
                ),
            );
        }
        if interface.ports.contains(&PortSelector::Others) {
            problems.add(
                format!("{path}.ports"),
                "`others` can be several NICs, which takes kind \"bridge\"; kind \"ethernet\" has exactly one port",
            );
        }
    }
    for (index, port) in interface.ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        match port {
            PortSelector::Device(device) if RESERVED_DEVICES.contains(&device.as_str()) => {
                problems.add(path, format!("`{device}` is not a NIC"));
            }
            PortSelector::Mac(mac) => {
                if let Some(why) = unusable_mac(*mac) {
                    problems.add(path, format!("{mac} {why}; a NIC's own address is needed"));
                }
            }
            PortSelector::Device(_) | PortSelector::First | PortSelector::Others => {}
        }
    }
}

/// The NICs that are selected by their names, with the first interface that does.
fn selected_devices(document: &Document) -> BTreeMap<&str, &Name> {
    let mut devices = BTreeMap::new();
    for (name, interface) in &document.interfaces {
        for port in &interface.ports {
            if let PortSelector::Device(device) = port {
                devices.entry(device.as_str()).or_insert(name);
            }
        }
    }
    devices
}

/// A bridge becomes a device with the interface's name.
fn device_name(
    devices: &BTreeMap<&str, &Name>,
    path: &str,
    name: &Name,
    interface: &Interface,
    problems: &mut Problems,
) {
    if interface.kind != InterfaceKind::Bridge {
        return;
    }
    if RESERVED_DEVICES.contains(&name.as_str()) {
        problems.add(path, format!("a bridge cannot be named `{name}`, which Linux reserves"));
    }
    if let Some(other) = devices.get(name.as_str()) {
        problems.add(
            path,
            format!(
                "a bridge cannot be named as the NIC `{name}` that interfaces.{other}.ports selects"
            ),
        );
    }
}

fn ports_selected_once(document: &Document, problems: &mut Problems) {
    let mut selected: BTreeMap<&PortSelector, String> = BTreeMap::new();
    for (name, interface) in &document.interfaces {
        for (index, port) in interface.ports.iter().enumerate() {
            let path = format!("interfaces.{name}.ports[{index}]");
            match selected.get(port) {
                Some(first) => problems.add(
                    path,
                    format!(
                        "`{port}` is already selected by {first}; a port belongs to one interface"
                    ),
                ),
                None => {
                    selected.insert(port, path);
                }
            }
        }
    }
}

fn fixed_addresses(path: &str, addresses: &[Ipv4Net], problems: &mut Problems) {
    if addresses.is_empty() {
        problems.add(
            format!("{path}.ipv4.addresses"),
            "at least one address is needed, as in [\"192.168.77.1/24\"]",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, network) in addresses.iter().enumerate() {
        let path = format!("{path}.ipv4.addresses[{index}]");
        let address = network.addr();
        if let Some(why) = unusable(address) {
            problems.add(&path, format!("{address} {why}; a host address is needed"));
        } else if !(8..=30).contains(&network.prefix_len()) {
            problems.add(
                &path,
                format!("prefix length {} is not allowed: 8 to 30", network.prefix_len()),
            );
        } else if let Some(why) = no_host_in(*network, address) {
            problems.add(&path, format!("{why}; a host address is needed"));
        }
        if !seen.insert(address) {
            problems.add(&path, format!("{address} is listed twice"));
        }
    }
}

fn gateway_address(path: &str, gateway: Ipv4Addr, own: &[Ipv4Net], problems: &mut Problems) {
    if let Some(why) = unusable(gateway) {
        problems.add(path, format!("{gateway} {why}; a router's address is needed"));
        return;
    }
    if own.iter().any(|network| network.addr() == gateway) {
        problems.add(path, format!("{gateway} is this interface's own address"));
        return;
    }
    match own.iter().find(|network| network.contains(&gateway)) {
        None => problems
            .add(path, format!("{gateway} is in none of the interface's networks: {}", list(own))),
        Some(network) => {
            if let Some(why) = no_host_in(*network, gateway) {
                problems.add(path, why);
            }
        }
    }
}

fn fixed_addresses6(path: &str, addresses: &[Ipv6Net], problems: &mut Problems) {
    if addresses.is_empty() {
        problems.add(
            format!("{path}.addresses"),
            "at least one address is needed, as in [\"2001:db8:77::1/64\"]",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, network) in addresses.iter().enumerate() {
        let path = format!("{path}.addresses[{index}]");
        let address = network.addr();
        if let Some(why) = unusable_ip(IpAddr::V6(address)) {
            problems.add(&path, format!("{address} {why}; a host address is needed"));
        } else if !(16..=127).contains(&network.prefix_len()) {
            problems.add(
                &path,
                format!("prefix length {} is not allowed: 16 to 127", network.prefix_len()),
            );
        } else if network.prefix_len() < 127 && address == network.network() {
            // RFC 4291 section 2.6.1; RFC 6164 makes an exception of /127.
            problems.add(
                &path,
                format!("{address} is the address of all routers in {}", network.trunc()),
            );
        }
        if !seen.insert(address) {
            problems.add(&path, format!("{address} is listed twice"));
        }
    }
}

fn gateway_address6(path: &str, gateway: Ipv6Addr, own: &[Ipv6Net], problems: &mut Problems) {
    if own.iter().any(|network| network.addr() == gateway) {
        problems.add(path, format!("{gateway} is this interface's own address"));
        return;
    }
    if gateway.is_unicast_link_local() {
        return;
    }
    if let Some(why) = unusable_ip(IpAddr::V6(gateway)) {
        problems.add(path, format!("{gateway} {why}; a router's address is needed"));
    } else if !own.iter().any(|network| network.contains(&gateway)) {
        problems.add(
            path,
            format!(
                "{gateway} is not link-local and in none of the interface's networks: {}",
                list(own)
            ),
        );
    }
}

fn nets<N: Copy + Into<IpNet>>(addresses: &[N]) -> Vec<IpNet> {
    addresses.iter().map(|address| (*address).into().trunc()).collect()
}

/// Networks of two interfaces do not overlap, so that it is known where an address is.
fn networks_apart(
    document: &Document,
    family: &str,
    networks: impl Fn(&Interface) -> Vec<IpNet>,
    problems: &mut Problems,
) {
    let mut taken: BTreeMap<IpNet, &Name> = BTreeMap::new();
    let mut lengths = BTreeSet::new();
    for (name, interface) in &document.interfaces {
        let networks = networks(interface);
        for (index, network) in networks.iter().enumerate() {
            // Networks are one within the other, or apart: those within come next in order.
            let around = lengths.range(..network.prefix_len()).filter_map(|length| {
                taken.get_key_value(&IpNet::new(network.addr(), *length).ok()?.trunc())
            });
            let within = taken.range(network..).take_while(|(other, _)| network.contains(*other));
            if let Some((other, owner)) = around.chain(within).next() {
                problems.add(
                    format!("interfaces.{name}.{family}.addresses[{index}]"),
                    format!(
                        "{network} overlaps with {other} of interfaces.{owner}; every interface needs a network of its own"
                    ),
                );
            }
        }
        for network in networks {
            lengths.insert(network.prefix_len());
            taken.entry(network).or_insert(name);
        }
    }
}

/// Metrics are allowed, and default routes of one family have different ones: the kernel keeps one
/// for each metric.
fn metrics(document: &Document, problems: &mut Problems) {
    let mut taken: BTreeMap<(&str, u32), &Name> = BTreeMap::new();
    for (name, interface) in &document.interfaces {
        let ipv4 = match interface.ipv4 {
            Ipv4::Dhcp { metric } => Some((metric, true)),
            Ipv4::Static { gateway, metric, .. } => Some((metric, gateway.is_some())),
            Ipv4::None => None,
        };
        let ipv6 = match interface.ipv6 {
            Ipv6::Static { gateway, metric, .. } => Some((metric, gateway.is_some())),
            Ipv6::None => None,
        };
        for (family, metric) in [("ipv4", ipv4), ("ipv6", ipv6)] {
            let Some((metric, routed)) = metric else { continue };
            let path = format!("interfaces.{name}.{family}.metric");
            if metric == 0 {
                problems.add(&path, "0 is not allowed: 1 to 4294967295, lower is preferred");
            }
            if !routed {
                continue;
            }
            match taken.get(&(family, metric)) {
                Some(other) => problems.add(
                    path,
                    format!("{metric} is also the metric of interfaces.{other}; default routes need different ones"),
                ),
                None => {
                    taken.insert((family, metric), name);
                }
            }
        }
    }
}
