//! Who a client is.

use std::fmt;

use portcullis_model::MacAddress;

/// ARP hardware type of Ethernet (RFC 1700).
const ETHERNET: u8 = 1;

/// A hardware address as in the header of a message (`htype`, `chaddr`).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HardwareAddress {
    kind: u8,
    octets: Vec<u8>,
}

impl HardwareAddress {
    /// Hardware type and address; none if the address has more than the 16 octets of `chaddr`.
    pub fn new(kind: u8, octets: &[u8]) -> Option<Self> {
        (octets.len() <= 16).then(|| Self { kind, octets: octets.to_vec() })
    }

    /// Hardware type (`htype`), 1 for Ethernet.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Its octets, 0 to 16.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The address as an Ethernet one, which a frame can be sent to and a reservation can name.
    pub fn ethernet(&self) -> Option<MacAddress> {
        if self.kind != ETHERNET {
            return None;
        }
        <[u8; 6]>::try_from(self.octets.as_slice()).ok().map(MacAddress)
    }
}

impl From<MacAddress> for HardwareAddress {
    fn from(mac: MacAddress) -> Self {
        Self { kind: ETHERNET, octets: mac.0.to_vec() }
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, octet) in self.octets.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

/// What identifies a client within a subnet (RFC 2131 section 4.2): option 61 if it sends one,
/// else its hardware address.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ClientId {
    /// Content of option 61, 1 to 255 octets.
    Option(Vec<u8>),
    /// Hardware type and address.
    Hardware(HardwareAddress),
}
