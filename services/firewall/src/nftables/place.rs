//! What the ruleset depends on beside the configuration.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use portcullis_bus::network::InterfaceStatus;
use portcullis_model::part::FirewallPart;
use portcullis_nftables::compile::{Interface, Site};
use portcullis_policy::{Surroundings, schedule};

use crate::{
    compile::{self, Standing},
    guard::bogons,
};

/// What the policy needs beside the document. Zones have the ids of their order.
pub fn surroundings(
    part: &FirewallPart,
    interfaces: &[InterfaceStatus],
    unix_s: u64,
) -> Surroundings {
    let ids = part.firewall.zones.keys().cloned().zip(1..).collect();
    let standing = Standing { zones: &[], unix_s, before: None };
    compile::surroundings(part, interfaces, &ids, &standing)
}

/// From the network service's report and the clock. An interface without a zone is left out, and
/// so closed.
pub fn site(part: &FirewallPart, interfaces: &[InterfaceStatus], unix_s: u64) -> Site {
    let known = |status: &InterfaceStatus| {
        let (name, zone) = part.interfaces.get_key_value(status.name.as_str())?;
        Some(Interface {
            name: name.clone(),
            device: status.device.clone(),
            zone: zone.clone(),
            addresses: nets(status).collect(),
        })
    };
    let schedules = &part.firewall.schedules;
    Site {
        interfaces: interfaces.iter().filter(|one| one.index != 0).filter_map(known).collect(),
        schedules: schedules
            .iter()
            .filter(|(_, one)| schedule::holds(one, unix_s))
            .map(|(name, _)| name.clone())
            .collect(),
        bogons: bogons().collect(),
    }
}

/// The router's addresses, with the prefix length.
pub fn addresses(interfaces: &[InterfaceStatus]) -> BTreeSet<IpNet> {
    interfaces.iter().flat_map(nets).collect()
}

fn nets(status: &InterfaceStatus) -> impl Iterator<Item = IpNet> {
    status.addresses.iter().filter_map(|text| text.parse().ok())
}

/// The zone that an address is in: connection tracking does not know. One that is in no network of
/// ours is where the default route goes.
pub fn zone_of(address: IpAddr, interfaces: &[InterfaceStatus]) -> &str {
    let own = |status: &&InterfaceStatus| nets(status).any(|net| net.addr() == address);
    if interfaces.iter().any(|status| own(&status)) {
        return portcullis_model::firewall::ROUTER;
    }
    let inside = |status: &&InterfaceStatus| nets(status).any(|net| net.contains(&address));
    let gateway = |status: &&InterfaceStatus| status.gateway.is_some();
    let place = interfaces.iter().find(inside).or_else(|| interfaces.iter().find(gateway));
    place.map_or("", |status| status.zone.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_of_addresses_are_those_of_their_networks() {
        let interface = |zone: &str, address: &str, gateway: Option<&str>| InterfaceStatus {
            zone: zone.to_owned(),
            addresses: vec![address.to_owned()],
            gateway: gateway.map(str::to_owned),
            ..InterfaceStatus::default()
        };
        let interfaces = [
            interface("lan", "192.168.77.1/24", None),
            interface("wan", "198.51.100.2/24", Some("198.51.100.1")),
        ];
        let zone = |text: &str| text.parse().map(|address| zone_of(address, &interfaces));
        assert_eq!(zone("192.168.77.100"), Ok("lan"));
        assert_eq!(zone("192.168.77.1"), Ok("router"));
        assert_eq!(zone("198.51.100.9"), Ok("wan"));
        assert_eq!(zone("203.0.113.1"), Ok("wan"));
    }
}
