//! What may be given on one interface.

use std::{collections::HashMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use portcullis_model::{DhcpServer, MacAddress, Name, Reservation, part::DhcpScope};

use super::HardwareAddress;

/// The DHCP server of one interface.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) interface: Name,
    /// The router's address, with the prefix of the subnet.
    pub(crate) network: Ipv4Net,
    pub(crate) settings: DhcpServer,
    by_address: HashMap<Ipv4Addr, MacAddress>,
    by_mac: HashMap<MacAddress, usize>,
    /// Pool addresses before this one are leased, offered, idle or not for everybody.
    pub(crate) next_fresh: u32,
}

impl Scope {
    pub(crate) fn new(interface: &Name, part: &DhcpScope) -> Self {
        let reservations = &part.server.reservations;
        Self {
            interface: interface.clone(),
            network: part.network,
            by_address: reservations.iter().map(|r| (r.address, r.mac)).collect(),
            by_mac: reservations.iter().enumerate().map(|(i, r)| (r.mac, i)).collect(),
            next_fresh: part.server.pool.start.into(),
            settings: part.server.clone(),
        }
    }

    /// The router's own address on this subnet, our server identifier.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.network.addr()
    }

    /// Whether `address` belongs to the subnet.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        self.network.contains(&address)
    }

    /// Whether a host may have `address`: not the subnet's own, not its broadcast, not ours.
    pub(crate) fn is_host(&self, address: Ipv4Addr) -> bool {
        let ends = [self.network.network(), self.network.broadcast()];
        self.contains(address)
            && address != self.address()
            && (self.network.prefix_len() >= 31 || !ends.contains(&address))
    }

    fn in_pool(&self, address: Ipv4Addr) -> bool {
        (self.settings.pool.start..=self.settings.pool.end).contains(&address)
    }

    /// Whether the configuration lets this client have `address`.
    pub(crate) fn permits(&self, address: Ipv4Addr, hardware: &HardwareAddress) -> bool {
        self.is_host(address)
            && match self.by_address.get(&address) {
                Some(mac) => hardware.ethernet() == Some(*mac),
                None => self.in_pool(address),
            }
    }

    /// Whether `address` is for clients without a reservation.
    pub(crate) fn is_dynamic(&self, address: Ipv4Addr) -> bool {
        self.is_host(address) && self.in_pool(address) && !self.by_address.contains_key(&address)
    }

    /// Whether a reservation names `address`.
    pub(crate) fn is_reserved(&self, address: Ipv4Addr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// The reservation of this client.
    pub(crate) fn reservation(&self, hardware: &HardwareAddress) -> Option<&Reservation> {
        let place = self.by_mac.get(&hardware.ethernet()?)?;
        self.settings.reservations.get(*place)
    }
}
