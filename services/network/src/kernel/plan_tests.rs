//! The plan against a model of the kernel that refuses what Linux refuses.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;

use super::*;
use crate::kernel::{Address, sysctl};

/// The part of Linux that the plan works on.
#[derive(Clone, Debug, Default)]
struct Kernel(Actual);

impl Kernel {
    fn with_nics(count: u8) -> Self {
        let mut kernel = Self::default();
        for number in 0..count {
            kernel.add_link(Link {
                name: format!("eth{number}"),
                mac: Some(MacAddress([2, 0, 0, 0, 0, number])),
                mtu: 1500,
                ..Link::default()
            });
        }
        for (path, _) in sysctl::wanted(std::iter::empty()) {
            kernel.0.sysctls.insert(path, "7".to_owned());
        }
        kernel
    }

    fn add_link(&mut self, link: Link) {
        let index = self.0.links.keys().max().map_or(1, |index| index + 1);
        for (path, _) in
            sysctl::wanted([(link.name.as_str(), sysctl::Roles::default())].into_iter())
        {
            self.0.sysctls.entry(path).or_insert_with(|| "7".to_owned());
        }
        self.0.links.insert(index, Link { index, ..link });
    }

    fn index(&self, device: &str) -> Result<u32, String> {
        self.0.link(device).map(|link| link.index).ok_or(format!("{device}: no such device"))
    }

    fn link(&mut self, device: &str) -> Result<&mut Link, String> {
        let index = self.index(device)?;
        Ok(self.0.links.get_mut(&index).unwrap())
    }

    fn apply(&mut self, step: &Step) -> Result<(), String> {
        let device = step.device.as_str();
        match &step.change {
            Change::SetSysctl { path, value } => {
                *self.0.sysctls.get_mut(path).ok_or("no such parameter")? = value.clone();
            }
            Change::CreateBridge { mac } => {
                if self.0.link(device).is_some() {
                    return Err("name taken".to_owned());
                }
                self.add_link(Link {
                    name: device.to_owned(),
                    kind: LinkKind::Bridge { stp: false, forward_delay: 0 },
                    mac: mac.or(Some(MacAddress([6; 6]))),
                    mac_set: mac.is_some(),
                    mtu: 1500,
                    ..Link::default()
                });
            }
            Change::DeleteBridge => {
                let index = self.index(device)?;
                self.0.links.remove(&index);
                self.0.sysctls.retain(|path, _| !path.contains(&format!("/{device}/")));
                self.0.addresses.retain(|address| address.index != index);
                self.0.routes.retain(|route| route.index != index);
                for link in self.0.links.values_mut().filter(|l| l.master == Some(index)) {
                    link.master = None;
                }
            }
            Change::ConfigureBridge => match &mut self.link(device)?.kind {
                LinkKind::Bridge { stp, forward_delay } => (*stp, *forward_delay) = (false, 0),
                _ => return Err("not a bridge".to_owned()),
            },
            Change::SetAlias => self.link(device)?.alias = Some(ALIAS.to_owned()),
            Change::ClearAlias => self.link(device)?.alias = None,
            Change::SetMac(mac) => {
                let link = self.link(device)?;
                (link.mac, link.mac_set) = (Some(*mac), true);
            }
            Change::SetMtu(mtu) => self.link(device)?.mtu = *mtu,
            Change::SetMaster(master) => {
                let master = master.as_deref().map(|name| self.index(name)).transpose()?;
                self.link(device)?.master = master;
            }
            Change::SetUp => self.link(device)?.up = true,
            Change::SetDown => {
                let index = self.index(device)?;
                self.link(device)?.up = false;
                self.0.routes.retain(|route| route.index != index);
            }
            Change::AddAddress(address) => {
                let index = self.index(device)?;
                if self.0.addresses.iter().any(|a| a.index == index && a.address == *address) {
                    return Err("address is there".to_owned());
                }
                self.0.addresses.push(Address { index, address: *address, ours: true });
            }
            Change::RemoveAddress(address) => {
                let index = self.index(device)?;
                self.0.addresses.retain(|a| a.index != index || a.address != *address);
                let gone = address.addr();
                if !self.0.addresses.iter().any(|a| a.address.addr() == gone) {
                    self.0.routes.retain(|route| route.way.source != Some(gone));
                }
            }
            Change::AddRoute(way) => {
                let taken = self.0.routes.iter().any(|r| same_place(&r.way, way));
                if taken {
                    return Err("route is there".to_owned());
                }
                self.add_route(device, way)?;
            }
            Change::ReplaceRoute(way) => {
                let old = self.0.routes.iter().position(|r| same_place(&r.way, way));
                if let Some(old) = old {
                    self.0.routes.remove(old);
                }
                self.add_route(device, way)?;
            }
            Change::RemoveRoute(way) => {
                let index = self.index(device)?;
                self.0.routes.retain(|route| route.index != index || route.way != *way);
            }
        }
        Ok(())
    }

    fn add_route(&mut self, device: &str, way: &Way) -> Result<(), String> {
        let link = self.link(device)?.clone();
        let own = |a: &&Address| a.index == link.index;
        let reachable = way.onlink
            || way.gateway.is_none_or(|gateway| {
                self.0.addresses.iter().filter(own).any(|a| a.address.contains(&gateway))
            });
        let source_is_local = way
            .source
            .is_none_or(|source| self.0.addresses.iter().any(|a| a.address.addr() == source));
        if !link.up || !reachable || !source_is_local {
            return Err(format!("{device}: cannot add {way}"));
        }
        self.0.routes.push(Route { index: link.index, way: way.clone(), ours: true });
        Ok(())
    }

    /// Plans and applies until nothing is left to do.
    fn converge(&mut self, wanted: &Wanted) -> Result<Vec<Step>, TestCaseError> {
        let mut all = Vec::new();
        for _ in 0..3 {
            let steps = plan(wanted, &self.0);
            if steps.is_empty() {
                return Ok(all);
            }
            for step in steps {
                // The first pass may lose routes to side effects, but nothing may be refused.
                self.apply(&step)
                    .map_err(|error| TestCaseError::fail(format!("{step}: {error}\n{self:#?}")))?;
                all.push(step);
            }
        }
        Err(TestCaseError::fail(format!("no end: {:?}", plan(wanted, &self.0))))
    }
}

fn same_place(a: &Way, b: &Way) -> bool {
    a.destination == b.destination && a.metric == b.metric
}

const NICS: u8 = 4;

fn address() -> impl Strategy<Value = IpNet> {
    let prefixes = prop::sample::select(vec![(24, 64), (16, 48), (32_u8, 128_u8)]);
    (any::<bool>(), 0_u8..4, 1_u8..4, prefixes).prop_map(|(six, net, host, (short, long))| {
        if six {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, net.into(), 0, 0, 0, host.into());
            IpNet::new(IpAddr::V6(address), long).unwrap()
        } else {
            IpNet::new(IpAddr::V4(Ipv4Addr::new(10, net, 0, host)), short).unwrap()
        }
    })
}

prop_compose! {
    /// Each NIC is unused, on its own, or a port of one of two bridges.
    fn wanted()(
        roles in prop::collection::vec(0_u8..4, usize::from(NICS)),
        bridges in prop::collection::vec(any::<bool>(), 2),
        addresses in prop::collection::vec(prop::collection::btree_set(address(), 0..3), 6),
        mtus in prop::collection::vec(prop::option::of(1400_u32..1402), 6),
        routes in prop::collection::btree_map(
            (0_u8..3, 1_u32..3),
            (any::<prop::sample::Index>(), any::<bool>(), any::<bool>()),
            0..4,
        ),
    ) -> Wanted {
        let mut wanted = Wanted::default();
        // Two devices never have the same address.
        let mut used = BTreeSet::new();
        let mut own = |slot: usize| -> Vec<IpNet> {
            addresses[slot].iter().filter(|a| used.insert(a.addr())).copied().collect()
        };
        for (number, exists) in bridges.iter().enumerate() {
            if *exists {
                let device = Device {
                    bridge: Some(Some(MacAddress([2, 0, 0, 0, 0, 9]))),
                    mtu: mtus[4 + number],
                    addresses: own(4 + number),
                    ..Device::default()
                };
                wanted.devices.insert(format!("br{number}"), device);
            }
        }
        for (number, role) in roles.iter().enumerate() {
            let master = match role {
                0 => continue,
                1 => None,
                role => Some(format!("br{}", role - 2)).filter(|b| wanted.devices.contains_key(b)),
            };
            let addresses = if master.is_some() { Vec::new() } else { own(number) };
            let device = Device { master, mtu: mtus[number], addresses, ..Device::default() };
            wanted.devices.insert(format!("eth{number}"), device);
        }
        let with_address: Vec<_> =
            wanted.devices.iter().filter(|(_, device)| !device.addresses.is_empty()).collect();
        if !with_address.is_empty() {
            for ((net, metric), (device, via, sourced)) in routes {
                let (name, device) = device.get(&with_address);
                let own = device.addresses[0];
                let (destination, gateway) = match own {
                    IpNet::V4(_) => (format!("192.0.{net}.0/24"), "10.9.9.9"),
                    IpNet::V6(_) => (format!("2001:db8:ff:{net}::/64"), "2001:db8:99::9"),
                };
                let way = Way {
                    destination: destination.parse().unwrap(),
                    gateway: via.then(|| gateway.parse().unwrap()),
                    onlink: via,
                    source: sourced.then(|| own.addr()),
                    metric,
                };
                wanted.routes.push(((*name).clone(), way));
            }
        }
        let devices = wanted.devices.keys().map(|d| (d.as_str(), sysctl::Roles::default()));
        wanted.sysctls = sysctl::wanted(devices);
        wanted
    }
}

/// What others do to the kernel behind the service's back.
#[derive(Clone, Debug)]
enum Drift {
    Down(prop::sample::Index),
    LoseAddress(prop::sample::Index),
    LoseRoute(prop::sample::Index),
    Detach(prop::sample::Index),
    SpanningTree(prop::sample::Index),
    Sysctl(prop::sample::Index),
    Mtu(prop::sample::Index),
}

fn drift() -> impl Strategy<Value = Drift> {
    let which = || any::<prop::sample::Index>();
    prop_oneof![
        which().prop_map(Drift::Down),
        which().prop_map(Drift::LoseAddress),
        which().prop_map(Drift::LoseRoute),
        which().prop_map(Drift::Detach),
        which().prop_map(Drift::SpanningTree),
        which().prop_map(Drift::Sysctl),
        which().prop_map(Drift::Mtu),
    ]
}

fn meddle(kernel: &mut Kernel, drift: &Drift) {
    let device = |which: &prop::sample::Index, kernel: &Kernel| {
        which.get(&kernel.0.links.values().collect::<Vec<_>>()).name.clone()
    };
    match drift {
        Drift::Down(which) => {
            let step = Step { device: device(which, kernel), change: Change::SetDown };
            kernel.apply(&step).unwrap();
        }
        Drift::LoseAddress(which) if !kernel.0.addresses.is_empty() => {
            let lost = which.get(&kernel.0.addresses).clone();
            let name = kernel.0.links[&lost.index].name.clone();
            let step = Step { device: name, change: Change::RemoveAddress(lost.address) };
            kernel.apply(&step).unwrap();
        }
        Drift::LoseRoute(which) if !kernel.0.routes.is_empty() => {
            let number = which.index(kernel.0.routes.len());
            kernel.0.routes.remove(number);
        }
        Drift::Detach(which) => {
            let name = device(which, kernel);
            kernel.link(&name).unwrap().master = None;
        }
        Drift::SpanningTree(which) => {
            let name = device(which, kernel);
            if let LinkKind::Bridge { stp, .. } = &mut kernel.link(&name).unwrap().kind {
                *stp = true;
            }
        }
        Drift::Sysctl(which) => {
            let paths: Vec<_> = kernel.0.sysctls.keys().cloned().collect();
            kernel.0.sysctls.insert(which.get(&paths).clone(), "8".to_owned());
        }
        Drift::Mtu(which) => {
            let name = device(which, kernel);
            kernel.link(&name).unwrap().mtu = 1300;
        }
        Drift::LoseAddress(_) | Drift::LoseRoute(_) => {}
    }
}

/// Addresses and routes of somebody else, on the first NIC.
fn foreign(kernel: &mut Kernel) -> (Address, Route) {
    let address = Address { index: 1, address: "172.16.0.1/24".parse().unwrap(), ours: false };
    let way = Way {
        destination: "172.17.0.0/16".parse().unwrap(),
        gateway: Some("172.16.0.2".parse().unwrap()),
        onlink: false,
        source: None,
        metric: 5,
    };
    let route = Route { index: 1, way, ours: false };
    kernel.0.addresses.push(address.clone());
    kernel.0.routes.push(route.clone());
    (address, route)
}

/// Whether the kernel has exactly what is wanted of what is ours.
fn assert_reached(kernel: &Kernel, wanted: &Wanted) -> Result<(), TestCaseError> {
    let actual = &kernel.0;
    for (name, device) in &wanted.devices {
        let link = actual.link(name).unwrap();
        prop_assert!(link.up);
        if let Some(mtu) = device.mtu {
            prop_assert_eq!(link.mtu, mtu);
        }
        let master = link.master.map(|index| actual.links[&index].name.clone());
        prop_assert_eq!(&master, &device.master);
        if device.bridge.is_some() {
            prop_assert_eq!(link.kind, LinkKind::Bridge { stp: false, forward_delay: 0 });
        }
    }
    let ours: BTreeMap<&str, BTreeSet<IpNet>> = wanted
        .devices
        .iter()
        .map(|(name, device)| (name.as_str(), device.addresses.iter().copied().collect()))
        .collect();
    for link in actual.links.values() {
        let there: BTreeSet<_> = actual
            .addresses
            .iter()
            .filter(|a| a.index == link.index && a.ours)
            .map(|a| a.address)
            .collect();
        prop_assert_eq!(&there, &ours.get(link.name.as_str()).cloned().unwrap_or_default());
    }
    for (name, device) in &wanted.devices {
        let index = actual.link(name).unwrap().index;
        let order: Vec<IpNet> = actual
            .addresses
            .iter()
            .filter(|a| a.index == index && a.ours && a.address.addr().is_ipv4())
            .map(|a| a.address)
            .collect();
        let first = device.addresses.iter().find(|net| net.addr().is_ipv4());
        prop_assert_eq!(order.first(), first);
        for address in &order {
            let same = |net: &&IpNet| net.trunc() == address.trunc();
            prop_assert_eq!(order.iter().find(same), device.addresses.iter().find(same));
        }
    }
    let routes: BTreeSet<_> = actual
        .routes
        .iter()
        .filter(|route| route.ours)
        .map(|route| (actual.links[&route.index].name.clone(), route.way.clone()))
        .collect();
    prop_assert_eq!(&routes, &wanted.routes.iter().cloned().collect());
    for (path, value) in &wanted.sysctls {
        prop_assert_eq!(actual.sysctls.get(path), Some(value), "{}", path);
    }
    for link in actual.links.values() {
        let bridge = matches!(link.kind, LinkKind::Bridge { .. });
        prop_assert!(!bridge || wanted.devices.contains_key(&link.name));
        // What is no longer managed is a port of nothing, and down.
        let managed = wanted.devices.contains_key(&link.name);
        prop_assert!(managed || link.master.is_none() && !link.up && link.alias.is_none());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_wanted_is_reached_and_then_left_alone(
        before in wanted(),
        after in wanted(),
        drifts in prop::collection::vec(drift(), 0..6),
    ) {
        let mut kernel = Kernel::with_nics(NICS);
        kernel.converge(&before)?;
        assert_reached(&kernel, &before)?;
        prop_assert_eq!(plan(&before, &kernel.0), Vec::new());
        for drift in &drifts {
            meddle(&mut kernel, drift);
        }
        let (address, route) = foreign(&mut kernel);
        kernel.converge(&after)?;
        assert_reached(&kernel, &after)?;
        prop_assert_eq!(plan(&after, &kernel.0), Vec::new());
        prop_assert!(kernel.0.addresses.contains(&address));
        let given_up =
            before.devices.contains_key("eth0") && !after.devices.contains_key("eth0");
        prop_assert!(given_up || kernel.0.routes.contains(&route), "a route goes with its link only");
    }

    #[test]
    fn what_is_held_stays_as_it_is_until_it_is_let_go(before in wanted(), after in wanted()) {
        let mut kernel = Kernel::with_nics(NICS);
        kernel.converge(&before)?;
        let standalone = |wanted: &Wanted| -> BTreeSet<String> {
            let devices = wanted.devices.iter().filter(|(_, device)| device.master.is_none());
            devices.map(|(name, _)| name.clone()).collect()
        };
        let mut held = after.clone();
        for device in held.devices.values_mut().filter(|device| device.master.is_none()) {
            device.held = true;
        }
        // The firewall is on what it was on, for as long as that is not over.
        let filtered = standalone(&before);
        for _ in 0..2 {
            for step in plan(&held, &kernel.0) {
                kernel.apply(&step).map_err(TestCaseError::fail)?;
                let on_links = kernel.0.links.values().filter(|l| l.up && l.master.is_none());
                for link in on_links {
                    prop_assert!(filtered.contains(&link.name), "{} after {}", link.name, step);
                }
            }
        }
        prop_assert_eq!(plan(&held, &kernel.0), Vec::new());
        // What filtered goes on, and where it ends nothing is up.
        let up = kernel.0.links.values().filter(|link| link.up && link.master.is_none());
        let up: BTreeSet<String> = up.map(|link| link.name.clone()).collect();
        prop_assert_eq!(up, &filtered & &standalone(&after));
        kernel.converge(&after)?;
        assert_reached(&kernel, &after)?;
    }

    #[test]
    fn what_stays_is_not_touched(before in wanted(), after in wanted()) {
        let mut kernel = Kernel::with_nics(NICS);
        kernel.converge(&before)?;
        let steps = kernel.converge(&after)?;
        for step in steps {
            let old = before.devices.get(&step.device);
            let new = after.devices.get(&step.device);
            let both = |has: &dyn Fn(&Device) -> bool| old.is_some_and(has) && new.is_some_and(has);
            let needless = match &step.change {
                Change::RemoveAddress(a) => {
                    // One that is new stands before it, so it steps back.
                    let before_it = |device: &Device| -> BTreeSet<IpNet> {
                        let others = device.addresses.iter().take_while(|other| *other != a);
                        others.filter(|net| net.addr().is_ipv4()).copied().collect()
                    };
                    let order = a.addr().is_ipv4() && old.map(before_it) != new.map(before_it);
                    both(&|device| device.addresses.contains(a)) && !order
                }
                Change::DeleteBridge => both(&|device| device.bridge.is_some()),
                Change::SetMaster(master) => {
                    let master = master.clone();
                    both(&|device| device.master == master)
                        // A bridge that was deleted and made again takes its ports along.
                        && master.is_some_and(|m| before.devices.contains_key(&m))
                }
                Change::SetUp | Change::SetDown => old.is_some() && new.is_some(),
                _ => false,
            };
            prop_assert!(!needless, "{}", step);
        }
    }
}

#[test]
fn a_device_that_nobody_wants_goes_down_and_one_of_somebody_else_stays() {
    let wanted = Wanted {
        devices: BTreeMap::from([("eth0".to_owned(), Device::default())]),
        ..Wanted::default()
    };
    let mut kernel = Kernel::with_nics(2);
    kernel.link("eth1").unwrap().up = true;
    kernel.converge(&wanted).unwrap();
    assert!(kernel.0.link("eth0").unwrap().up);
    let steps = kernel.converge(&Wanted::default()).unwrap();
    let shown: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["eth0: down", "eth0: no alias"]);
    assert!(kernel.0.link("eth1").unwrap().up);
}

#[test]
fn the_first_address_is_the_first_whatever_was_before() {
    let wanted = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
        let device = Device { addresses, ..Device::default() };
        Wanted { devices: BTreeMap::from([("eth0".to_owned(), device)]), ..Wanted::default() }
    };
    let (a, b, c) = ("10.0.0.1/24", "10.0.0.2/24", "10.9.0.1/24");
    for (before, after, expected) in [
        (vec![a, b], vec![b, a], vec!["remove address 10.0.0.1/24", "add address 10.0.0.1/24"]),
        (
            vec![b],
            vec![a, b],
            vec![
                "add address 10.0.0.1/24",
                "remove address 10.0.0.2/24",
                "add address 10.0.0.2/24",
            ],
        ),
        (vec![c, a], vec![a, c], vec!["remove address 10.9.0.1/24", "add address 10.9.0.1/24"]),
        (vec![a, c], vec![a, b, c], vec!["add address 10.0.0.2/24"]),
        (vec![a, b, c], vec![a, c], vec!["remove address 10.0.0.2/24"]),
    ] {
        let mut kernel = Kernel::with_nics(1);
        kernel.converge(&wanted(&before)).unwrap();
        let steps = kernel.converge(&wanted(&after)).unwrap();
        let shown: Vec<String> =
            steps.iter().map(|step| step.to_string().replace("eth0: ", "")).collect();
        assert_eq!(shown, expected, "{before:?} {after:?}");
    }
}

#[test]
fn a_changed_address_is_added_before_the_old_one_goes() {
    let device = |address: &str| Wanted {
        devices: BTreeMap::from([(
            "eth0".to_owned(),
            Device { addresses: vec![address.parse().unwrap()], ..Device::default() },
        )]),
        ..Wanted::default()
    };
    let mut kernel = Kernel::with_nics(1);
    kernel.converge(&device("192.168.77.1/24")).unwrap();
    let shown: Vec<_> =
        plan(&device("192.168.77.2/24"), &kernel.0).iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["eth0: add address 192.168.77.2/24", "eth0: remove address 192.168.77.1/24"]
    );
}
