//! Which NIC belongs to which interface. Pure.
//!
//! 1. Ports named outright (`eth1`, `mac:...`) are claimed first; any Ethernet device will do.
//! 2. `first` claims the first unclaimed physical NIC in the order of bus addresses.
//! 3. `others` claims all that are left.
//!
//! Among several claims on one NIC the interface that is first by name wins.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use portcullis_model::{Interface, InterfaceKind, MacAddress, Name, PortSelector};

use crate::kernel::{Link, LinkKind};

/// A device that can be a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Kernel device name.
    pub device: String,
    /// Hardware addresses that `mac:` selects it by: the permanent one, and the current one.
    pub macs: Vec<MacAddress>,
    /// Path of the hardware, with bus address; none for software devices.
    pub bus_path: Option<String>,
    /// Whether `first` and `others` may take it.
    pub physical: bool,
}

/// The devices that can be ports, in the order of their bus addresses. With `all_ports`, software
/// devices (veth) count as physical: for tests and development in network namespaces.
pub fn nics<'a>(links: impl Iterator<Item = &'a Link>, all_ports: bool) -> Vec<Nic> {
    let mut nics: Vec<Nic> = links
        .filter(|link| link.kind == LinkKind::Ethernet)
        .map(|link| Nic {
            device: link.name.clone(),
            macs: link.permanent_mac.into_iter().chain(link.mac).collect(),
            bus_path: link.bus_path.clone(),
            physical: link.bus_path.is_some() || all_ports,
        })
        .collect();
    nics.sort_by(|a, b| {
        by_bus(a.bus_path.as_deref(), b.bus_path.as_deref())
            .then_with(|| natural(&a.device, &b.device))
    });
    nics
}

/// Hardware before software; bus paths component by component.
fn by_bus(a: Option<&str>, b: Option<&str>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => {
            let mut theirs = b.split('/');
            for ours in a.split('/') {
                let order = theirs.next().map_or(Ordering::Greater, |b| natural(ours, b));
                if order != Ordering::Equal {
                    return order;
                }
            }
            if theirs.next().is_some() { Ordering::Less } else { Ordering::Equal }
        }
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

/// PCI addresses have a fixed width; in names like `virtio10` and `eth10` the longer is the later.
fn natural(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Devices of each interface, in the order of its selectors; an interface without a port that is
/// there has none.
pub fn assign(interfaces: &BTreeMap<Name, Interface>, nics: &[Nic]) -> BTreeMap<Name, Vec<String>> {
    let mut claimed = BTreeSet::new();
    // By interface and number of the selector.
    let mut claims: BTreeMap<(&Name, usize), Vec<String>> = BTreeMap::new();
    for round in [Round::Named, Round::First, Round::Others] {
        for (name, interface) in interfaces {
            for (number, selector) in interface.ports.iter().enumerate() {
                if round != Round::of(selector) {
                    continue;
                }
                let one = round == Round::First || interface.kind == InterfaceKind::Ethernet;
                let fits = nics.iter().filter(|nic| {
                    selects(selector, nic)
                        // A bridge is no port, least of all of itself.
                        && nic.device != name.as_str()
                        && !claimed.contains(&nic.device)
                });
                let taken: Vec<_> = fits
                    .take(if one { 1 } else { usize::MAX })
                    .map(|nic| nic.device.clone())
                    .collect();
                claimed.extend(taken.iter().cloned());
                claims.insert((name, number), taken);
            }
        }
    }
    interfaces
        .keys()
        .map(|name| {
            let devices = claims.iter().filter(|((owner, _), _)| *owner == name);
            (name.clone(), devices.flat_map(|(_, devices)| devices.clone()).collect())
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Named,
    First,
    Others,
}

impl Round {
    fn of(selector: &PortSelector) -> Self {
        match selector {
            PortSelector::Device(_) | PortSelector::Mac(_) => Self::Named,
            PortSelector::First => Self::First,
            PortSelector::Others => Self::Others,
        }
    }
}

fn selects(selector: &PortSelector, nic: &Nic) -> bool {
    match selector {
        PortSelector::Device(device) => nic.device == *device,
        PortSelector::Mac(mac) => nic.macs.contains(mac),
        PortSelector::First | PortSelector::Others => nic.physical,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn nic(device: &str, bus: Option<&str>) -> Link {
        Link { name: device.to_owned(), bus_path: bus.map(str::to_owned), ..Link::default() }
    }

    fn interface(kind: InterfaceKind, ports: &[&str]) -> Interface {
        Interface {
            kind,
            zone: "lan".parse().unwrap(),
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
            mtu: None,
            ipv4: portcullis_model::Ipv4::None,
            ipv6: portcullis_model::Ipv6::None,
        }
    }

    fn assigned(interfaces: &[(&str, Interface)], nics: &[Nic]) -> Vec<(String, Vec<String>)> {
        let interfaces =
            interfaces.iter().map(|(name, i)| (name.parse().unwrap(), i.clone())).collect();
        assign(&interfaces, nics).into_iter().map(|(n, d)| (n.to_string(), d)).collect()
    }

    fn devices(nics: &[Nic]) -> Vec<&str> {
        nics.iter().map(|nic| nic.device.as_str()).collect()
    }

    #[test]
    fn order_is_that_of_bus_addresses() {
        let links = [
            nic("eth0", Some("/sys/devices/pci0000:00/0000:00:1f.0/virtio2/000")),
            nic("eth1", Some("/sys/devices/pci0000:00/0000:00:03.0/virtio10/000")),
            nic("eth2", Some("/sys/devices/pci0000:00/0000:00:03.0/virtio10/001")),
            nic("usb0", Some("/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/000")),
            nic("veth0", None),
        ];
        assert_eq!(devices(&nics(links.iter(), false)), ["eth1", "eth2", "usb0", "eth0", "veth0"]);
    }

    #[test]
    fn the_defaults_take_the_first_and_bridge_the_others() {
        let links = [nic("eth0", Some("/a/1")), nic("eth1", Some("/a/2")), nic("veth0", None)];
        let interfaces = [
            ("wan", interface(InterfaceKind::Ethernet, &["first"])),
            ("lan", interface(InterfaceKind::Bridge, &["others"])),
        ];
        let nics = nics(links.iter(), false);
        assert_eq!(
            assigned(&interfaces, &nics),
            [("lan".into(), vec!["eth1".into()]), ("wan".into(), vec!["eth0".into()])]
        );
    }

    #[test]
    fn first_skips_what_is_named_outright() {
        let links =
            [nic("eth0", Some("/a/1")), nic("eth1", Some("/a/2")), nic("eth2", Some("/a/3"))];
        let interfaces = [
            ("lan", interface(InterfaceKind::Bridge, &["eth0", "others"])),
            ("wan", interface(InterfaceKind::Ethernet, &["first"])),
        ];
        let nics = nics(links.iter(), false);
        assert_eq!(
            assigned(&interfaces, &nics),
            [
                ("lan".into(), vec!["eth0".into(), "eth2".into()]),
                ("wan".into(), vec!["eth1".into()])
            ]
        );
    }

    #[test]
    fn a_hardware_address_selects_by_the_permanent_one() {
        let mac = "52:54:00:12:34:56".parse().unwrap();
        let link = Link { permanent_mac: Some(mac), ..nic("eth7", Some("/a/1")) };
        let interfaces = [("wan", interface(InterfaceKind::Ethernet, &["mac:52:54:00:12:34:56"]))];
        assert_eq!(
            assigned(&interfaces, &nics([link].iter(), false)),
            [("wan".into(), vec!["eth7".into()])]
        );
    }

    #[test]
    fn a_missing_port_and_a_taken_port_leave_the_interface_without() {
        let links = [nic("eth0", Some("/a/1"))];
        let interfaces = [
            ("a", interface(InterfaceKind::Ethernet, &["eth0"])),
            ("b", interface(InterfaceKind::Ethernet, &["eth0"])),
            ("c", interface(InterfaceKind::Ethernet, &["eth9"])),
        ];
        assert_eq!(
            assigned(&interfaces, &nics(links.iter(), false)),
            [("a".into(), vec!["eth0".into()]), ("b".into(), vec![]), ("c".into(), vec![])]
        );
    }

    #[test]
    fn software_devices_are_taken_only_by_name_unless_asked_for() {
        let links = [nic("veth0", None), nic("veth1", None)];
        let interfaces = [
            ("lan", interface(InterfaceKind::Bridge, &["veth1"])),
            ("wan", interface(InterfaceKind::Ethernet, &["first"])),
        ];
        assert_eq!(
            assigned(&interfaces, &nics(links.iter(), false)),
            [("lan".into(), vec!["veth1".into()]), ("wan".into(), vec![])]
        );
        assert_eq!(
            assigned(&interfaces, &nics(links.iter(), true)),
            [("lan".into(), vec!["veth1".into()]), ("wan".into(), vec!["veth0".into()])]
        );
    }
}
