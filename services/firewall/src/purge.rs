//! Flows that must not survive: those of addresses, prefixes and zones that are gone.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use portcullis_datapath_abi::{FlowRecord, address, flow::IPV6};

/// What is gone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gone {
    /// IPv4 addresses that the router no longer has.
    pub addresses: BTreeSet<u32>,
    /// IPv6 networks (the first 64 bits, as in packets) that the router is no longer in.
    pub networks: BTreeSet<[u32; 2]>,
    /// Ids of zones that no longer exist.
    pub zones: BTreeSet<u8>,
}

impl Gone {
    /// Whether nothing is gone.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.networks.is_empty() && self.zones.is_empty()
    }

    /// Whether a flow is bound to something that is gone.
    pub fn concerns(&self, record: &FlowRecord) -> bool {
        if record.flags & IPV6 != 0 {
            let key = record.ends6();
            return [key.source, key.destination]
                .into_iter()
                .any(|[a, b, ..]| self.networks.contains(&[a, b]))
                || [key.zone, key.peer_zone].iter().any(|zone| self.zones.contains(zone));
        }
        record.ends4().keys.iter().any(|key| {
            self.addresses.contains(&key.source)
                || self.addresses.contains(&key.destination)
                || self.zones.contains(&key.zone)
        })
    }
}

/// Whether either end of a flow is in `net`, before or after translation.
pub fn touches(record: &FlowRecord, net: &IpNet) -> bool {
    ends(record).any(|end| net.contains(&end))
}

/// The addresses of both ends of a flow, before and after translation.
pub fn ends(record: &FlowRecord) -> impl Iterator<Item = IpAddr> {
    let addresses = if record.flags & IPV6 != 0 {
        let key = record.ends6();
        let ends = [key.source, key.destination].map(|end| IpAddr::from(bytes6(end)));
        let [source, destination] = ends;
        [Some(source), Some(destination), None, None]
    } else {
        let [original, reply] = record.ends4().keys;
        [original.source, original.destination, reply.source, reply.destination]
            .map(|end| Some(IpAddr::V4(address(end))))
    };
    addresses.into_iter().flatten()
}

/// The bytes of an IPv6 address that stands in a record.
pub fn bytes6(address: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.chunks_exact_mut(4).zip(address) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    bytes
}

/// An IPv6 address as it stands in records.
pub fn words6(address: std::net::Ipv6Addr) -> [u32; 4] {
    let mut words = [0; 4];
    for (to, from) in words.iter_mut().zip(address.octets().chunks_exact(4)) {
        *to = from.try_into().map(u32::from_ne_bytes).unwrap_or_default();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use portcullis_datapath_abi::{FlowKey, FlowKey6, flow::Ends4, from_address};

    use super::*;

    fn four() -> FlowRecord {
        let at = |a, b, c, d| from_address(Ipv4Addr::new(a, b, c, d));
        let forward = FlowKey {
            source: at(192, 168, 1, 2),
            destination: at(203, 0, 113, 1),
            zone: 1,
            ..FlowKey::default()
        };
        let reverse = FlowKey {
            source: at(203, 0, 113, 1),
            destination: at(198, 51, 100, 1),
            zone: 2,
            ..FlowKey::default()
        };
        let mut record = FlowRecord::default();
        record.set_ends4(&Ends4 { keys: [forward, reverse], ..Ends4::default() });
        record
    }

    fn six() -> FlowRecord {
        let at = |text: &str| words6(text.parse::<Ipv6Addr>().unwrap_or(Ipv6Addr::UNSPECIFIED));
        let mut record = FlowRecord { flags: IPV6, ..FlowRecord::default() };
        record.set_ends6(&FlowKey6 {
            source: at("2001:db8:1:2::5"),
            destination: at("2001:db8:9::1"),
            zone: 1,
            peer_zone: 3,
            ..FlowKey6::default()
        });
        record
    }

    #[test]
    fn a_lost_wan_address_concerns_translated_flows_and_no_others() {
        let lost = |address: [u8; 4]| Gone {
            addresses: [u32::from_ne_bytes(address)].into(),
            ..Gone::default()
        };
        assert!(lost([198, 51, 100, 1]).concerns(&four()));
        assert!(!lost([198, 51, 100, 2]).concerns(&four()));
        assert!(!lost([198, 51, 100, 1]).concerns(&six()));
    }

    #[test]
    fn a_lost_prefix_concerns_the_hosts_in_it() {
        let [a, b, ..] = words6(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 0));
        let gone = Gone { networks: [[a, b]].into(), ..Gone::default() };
        assert!(gone.concerns(&six()) && !gone.concerns(&four()));
        let [a, b, ..] = words6(Ipv6Addr::new(0x2001, 0xdb8, 1, 3, 0, 0, 0, 0));
        assert!(!Gone { networks: [[a, b]].into(), ..Gone::default() }.concerns(&six()));
    }

    #[test]
    fn a_lost_zone_concerns_the_flows_of_both_sides() {
        let gone = |zone| Gone { zones: [zone].into(), ..Gone::default() };
        assert!(gone(1).concerns(&four()) && gone(2).concerns(&four()));
        assert!(!gone(3).concerns(&four()));
        assert!(gone(3).concerns(&six()) && !gone(2).concerns(&six()));
    }

    #[test]
    fn prefixes_are_compared_with_ends_inside_and_outside() {
        let touches = |record: &FlowRecord, net: &str| {
            net.parse().is_ok_and(|net| super::touches(record, &net))
        };
        assert!(touches(&four(), "192.168.0.0/16") && touches(&four(), "198.51.100.1/32"));
        assert!(!touches(&four(), "10.0.0.0/8") && !touches(&four(), "::/0"));
        assert!(touches(&six(), "2001:db8:1::/48") && touches(&six(), "2001:db8:9::1/128"));
        assert!(!touches(&six(), "2001:db8:2::/48"));
    }
}
