//! DHCP servers.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{HostName, Interface, MacAddress, Name};

/// A DHCPv4 server on one interface (RFC 2131).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpServer {
    /// Addresses given to clients without a reservation.
    pub pool: Pool,
    /// Lease time in seconds, 120 to 31,536,000 (a year). Default 43,200 (12 hours).
    #[serde(default = "default_lease_time")]
    pub lease_time_s: u32,
    /// Routers (option 3); by default the interface's own address.
    #[serde(default)]
    pub routers: Vec<Ipv4Addr>,
    /// DNS servers (option 6); by default the interface's own address.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers (option 42); by default none.
    #[serde(default)]
    pub ntp: Vec<Ipv4Addr>,
    /// Interface MTU given to clients (option 26), 576 to 9216 bytes; by default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Fixed addresses for known clients.
    #[serde(default)]
    pub reservations: Vec<Reservation>,
}

/// A range of addresses, both ends included.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// First address.
    pub start: Ipv4Addr,
    /// Last address.
    pub end: Ipv4Addr,
}

/// A fixed address for a client; inside the interface's prefix, inside or outside the pool.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Hardware address of the client.
    pub mac: MacAddress,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its name in the local domain; by default the one that the client sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
}

fn default_lease_time() -> u32 {
    43_200
}

impl DhcpServer {
    /// The default servers that still make sense beside `interfaces` that replace the default
    /// ones: the pool of `lan` only fits the default network.
    pub(crate) fn defaults_for(interfaces: &BTreeMap<Name, Interface>) -> BTreeMap<Name, Self> {
        let default_interfaces = Interface::defaults();
        let mut servers = Self::defaults();
        servers.retain(|name, _| {
            let network = |interfaces: &BTreeMap<Name, Interface>| {
                interfaces.get(name).and_then(|i| i.ipv4.fixed_addresses().first().copied())
            };
            network(interfaces).is_some_and(|n| Some(n) == network(&default_interfaces))
        });
        servers
    }

    pub(crate) fn defaults() -> BTreeMap<Name, Self> {
        let lan = Self {
            pool: Pool {
                start: Ipv4Addr::new(192, 168, 77, 100),
                end: Ipv4Addr::new(192, 168, 77, 249),
            },
            lease_time_s: default_lease_time(),
            routers: Vec::new(),
            dns: Vec::new(),
            ntp: Vec::new(),
            mtu: None,
            reservations: Vec::new(),
        };
        BTreeMap::from([(Name::from_static("lan"), lan)])
    }
}
