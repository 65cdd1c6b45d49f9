//! Rules for single addresses, shared by all tables.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::MacAddress;

/// Why `address` cannot be the address of a host, if it cannot (RFC 6890).
pub(super) fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    match address {
        a if a.is_unspecified() => Some("is the unspecified address"),
        a if a.octets()[0] == 0 => Some("is in 0.0.0.0/8, which means \"this network\""),
        a if a.is_loopback() => Some("is a loopback address"),
        a if a.is_link_local() => Some("is a link-local address (169.254.0.0/16)"),
        a if a.is_multicast() => Some("is a multicast address"),
        a if a.is_broadcast() => Some("is the broadcast address"),
        a if a.octets()[0] >= 240 => Some("is in the reserved block 240.0.0.0/4"),
        _ => None,
    }
}

/// As [`unusable`], for both families.
pub(super) fn unusable_ip(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(a) => unusable(a),
        IpAddr::V6(a) if a.is_unspecified() => Some("is the unspecified address"),
        IpAddr::V6(a) if a.is_loopback() => Some("is a loopback address"),
        IpAddr::V6(a) if a.is_multicast() => Some("is a multicast address"),
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            Some("is a link-local address, which does not say by which interface")
        }
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
            Some("is an IPv4 address in the notation of IPv6, which no packet has")
        }
        IpAddr::V6(_) => None,
    }
}

/// Why `address` cannot be a host inside `network`, if it cannot.
pub(super) fn no_host_in(network: Ipv4Net, address: Ipv4Addr) -> Option<String> {
    if !network.contains(&address) {
        Some(format!("{address} is outside {}", network.trunc()))
    } else if address == network.network() {
        Some(format!("{address} is the network address of {}", network.trunc()))
    } else if address == network.broadcast() {
        Some(format!("{address} is the broadcast address of {}", network.trunc()))
    } else {
        None
    }
}

/// Why `mac` cannot be the address of one NIC, if it cannot (IEEE 802).
pub(super) fn unusable_mac(mac: MacAddress) -> Option<&'static str> {
    let [first, ..] = mac.0;
    match mac.0 {
        [0, 0, 0, 0, 0, 0] => Some("is all zero"),
        _ if first & 1 == 1 => Some("is a group address (its first octet is odd)"),
        _ => None,
    }
}
