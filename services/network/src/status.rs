//! What the bus tells about interfaces and leases. Pure.

use ipnet::{IpNet, Ipv4Net};
use portcullis_bus::network::{InterfaceStatus, PortStatus, WanLease};
use portcullis_model::{Ipv4, MacAddress, Name, part::NetworkPart};

use crate::{
    client::shell::View,
    kernel::{Actual, Link, Wanted},
    wanted::Target,
};

/// All configured interfaces as they are.
pub fn interfaces(part: &NetworkPart, target: &Target, actual: &Actual) -> Vec<InterfaceStatus> {
    let of = |(name, interface): (&Name, &portcullis_model::Interface)| {
        let placed = target.placed.get(name).cloned().unwrap_or_default();
        let link = placed.device.as_deref().and_then(|device| actual.link(device));
        let mut status = InterfaceStatus {
            name: name.to_string(),
            zone: interface.zone.to_string(),
            ports: placed.ports.iter().filter_map(|port| actual.link(port)).map(port).collect(),
            ..InterfaceStatus::default()
        };
        if let Some(link) = link {
            status.device = link.name.clone();
            status.index = link.index;
            status.mac = mac_text(link.mac);
            status.carrier = link.carrier;
            status.mtu = link.mtu;
            status.rx_bytes = link.rx_bytes;
            status.tx_bytes = link.tx_bytes;
            status.addresses = actual
                .addresses
                .iter()
                .filter(|found| found.index == link.index && found.address.addr().is_ipv4())
                .map(|address| address.address.to_string())
                .collect();
            let addresses6 = actual.addresses6.iter().filter(|(index, _)| *index == link.index);
            status.addresses.extend(addresses6.map(|(_, address)| address.to_string()));
            status.gateway = actual
                .routes
                .iter()
                .filter(|r| {
                    r.index == link.index && r.way.destination == IpNet::V4(Ipv4Net::default())
                })
                .min_by_key(|route| route.way.metric)
                .and_then(|route| route.way.gateway)
                .map(|gateway| gateway.to_string());
        }
        status
    };
    part.interfaces.iter().map(of).collect()
}

/// The wanted addresses that somebody else has, for people.
pub fn duplicates(wanted: &Wanted, actual: &Actual) -> Vec<String> {
    let devices = wanted.devices.iter().filter_map(|(name, device)| {
        let index = actual.link(name)?.index;
        Some(actual.duplicates.iter().filter_map(move |(at, net)| {
            let ours = *at == index && device.addresses.contains(&IpNet::V6(*net));
            ours.then(|| {
                format!(
                    "{name}: {net} is not used: another host on the link has the address; give one of them another"
                )
            })
        }))
    });
    devices.flatten().collect()
}

fn port(link: &Link) -> PortStatus {
    PortStatus {
        device: link.name.clone(),
        index: link.index,
        mac: mac_text(link.mac),
        carrier: link.carrier,
        driver: link.driver.clone(),
    }
}

fn mac_text(mac: Option<MacAddress>) -> String {
    mac.map(|mac| mac.to_string()).unwrap_or_default()
}

/// One entry for each interface that is configured by DHCP. `view` is none while the interface has
/// no device.
pub fn leases(part: &NetworkPart, view: impl Fn(&Name) -> Option<View>) -> Vec<WanLease> {
    part.interfaces
        .iter()
        .filter(|(_, interface)| matches!(interface.ipv4, Ipv4::Dhcp { .. }))
        .map(|(name, _)| lease(name, view(name)))
        .collect()
}

fn lease(name: &Name, view: Option<View>) -> WanLease {
    let mut status = WanLease {
        interface: name.to_string(),
        state: view.as_ref().map_or("init", |view| view.state).to_owned(),
        ..WanLease::default()
    };
    let Some(View { lease: Some(lease), obtained_unix_s, .. }) = view else { return status };
    let grant = lease.grant;
    status.gateway = grant.gateway().map(|gateway| gateway.to_string());
    status.address = Some(grant.address.to_string());
    status.server = Some(grant.server.to_string());
    status.dns = grant.dns.iter().map(ToString::to_string).collect();
    status.ntp = grant.ntp.iter().map(ToString::to_string).collect();
    status.domain = grant.domain;
    status.mtu = grant.mtu.map(u32::from);
    status.obtained_unix_s = obtained_unix_s;
    status.lease_s = grant.lease_s;
    status
}
