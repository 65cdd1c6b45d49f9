//! Values that packets are compared with.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// What a set holds: the data types of nft that we use. The numbers are those that nft writes into
/// `NFTA_SET_KEY_TYPE` to know, when it lists, what the bytes mean.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum Type {
    /// `ipv4_addr`.
    Ipv4 = 7,
    /// `ipv6_addr`.
    Ipv6 = 8,
    /// `ether_addr`.
    Mac = 9,
    /// `inet_proto`.
    Protocol = 12,
    /// `inet_service`.
    Port = 13,
    /// `icmp_type`.
    IcmpType = 14,
    /// `icmpv6_type`.
    Icmpv6Type = 29,
    /// `ifname`.
    InterfaceName = 41,
}

impl Type {
    /// Its name in nft.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Mac => "ether_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::IcmpType => "icmp_type",
            Self::Icmpv6Type => "icmpv6_type",
            Self::InterfaceName => "ifname",
        }
    }

    /// Bytes of a value.
    pub const fn length(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::InterfaceName => 16,
            Self::Mac => 6,
            Self::Port => 2,
            Self::Protocol | Self::IcmpType | Self::Icmpv6Type => 1,
        }
    }

    /// How nft notes the order of the bytes: 0 for none, 1 for the machine's, 2 for the network's.
    pub const fn byte_order(self) -> u32 {
        match self {
            Self::Protocol => 0,
            Self::InterfaceName => 1,
            Self::Ipv4
            | Self::Ipv6
            | Self::Mac
            | Self::Port
            | Self::IcmpType
            | Self::Icmpv6Type => 2,
        }
    }
}

/// A value, of a size and order that depend on its kind.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Value {
    /// A device's name, at most 15 bytes.
    Name(String),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A hardware address.
    Mac([u8; 6]),
    /// A port.
    Port(u16),
    /// A protocol, ICMP type, family or TCP flags.
    Byte(u8),
    /// A number in the machine's byte order: kinds of addresses.
    Host(u32),
    /// A number of two bytes in the machine's byte order: kinds of devices.
    Host16(u16),
}

impl Value {
    /// As it stands in the kernel's registers.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Name(name) => {
                let mut bytes: Vec<u8> = name.bytes().take(15).collect();
                bytes.resize(16, 0);
                bytes
            }
            Self::Ipv4(address) => address.octets().to_vec(),
            Self::Ipv6(address) => address.octets().to_vec(),
            Self::Mac(mac) => mac.to_vec(),
            Self::Port(port) => port.to_be_bytes().to_vec(),
            Self::Byte(byte) => vec![*byte],
            Self::Host(number) => number.to_ne_bytes().to_vec(),
            Self::Host16(number) => number.to_ne_bytes().to_vec(),
        }
    }

    /// The next greater value of the same kind, if there is one; only of those that have intervals.
    pub fn successor(&self) -> Option<Self> {
        match self {
            Self::Ipv4(address) => {
                u32::from(*address).checked_add(1).map(|next| Self::Ipv4(next.into()))
            }
            Self::Ipv6(address) => {
                u128::from(*address).checked_add(1).map(|next| Self::Ipv6(next.into()))
            }
            Self::Port(port) => port.checked_add(1).map(Self::Port),
            Self::Byte(byte) => byte.checked_add(1).map(Self::Byte),
            Self::Name(_) | Self::Mac(_) | Self::Host(_) | Self::Host16(_) => None,
        }
    }

    /// The least value of the same kind.
    #[must_use]
    pub const fn least(&self) -> Self {
        match self {
            Self::Name(_) => Self::Name(String::new()),
            Self::Ipv4(_) => Self::Ipv4(Ipv4Addr::UNSPECIFIED),
            Self::Ipv6(_) => Self::Ipv6(Ipv6Addr::UNSPECIFIED),
            Self::Mac(_) => Self::Mac([0; 6]),
            Self::Port(_) => Self::Port(0),
            Self::Byte(_) => Self::Byte(0),
            Self::Host(_) => Self::Host(0),
            Self::Host16(_) => Self::Host16(0),
        }
    }

    /// The length of the prefix that goes from this value to `last`, if the range is one.
    pub fn prefix_length(&self, last: &Self) -> Option<u8> {
        let (first, last, width) = match (self, last) {
            (Self::Ipv4(first), Self::Ipv4(last)) => {
                (u128::from(u32::from(*first)), u128::from(u32::from(*last)), 32)
            }
            (Self::Ipv6(first), Self::Ipv6(last)) => (u128::from(*first), u128::from(*last), 128),
            _ => return None,
        };
        let host_bits = 128 - (first ^ last).leading_zeros();
        let mask = if host_bits >= 128 { u128::MAX } else { (1_u128 << host_bits) - 1 };
        let whole = first & mask == 0 && last & mask == mask;
        u8::try_from(u32::checked_sub(width, host_bits)?).ok().filter(|_| whole)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(formatter, "\"{name}\""),
            Self::Ipv4(address) => write!(formatter, "{address}"),
            Self::Ipv6(address) => write!(formatter, "{address}"),
            Self::Mac([a, b, c, d, e, f]) => {
                write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
            }
            Self::Port(port) => write!(formatter, "{port}"),
            Self::Byte(byte) => write!(formatter, "{byte}"),
            Self::Host(number) => write!(formatter, "{number}"),
            Self::Host16(number) => write!(formatter, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Value {
        Value::Ipv4(text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED))
    }

    #[test]
    fn ranges_that_are_prefixes_are_known() {
        assert_eq!(v4("10.0.0.0").prefix_length(&v4("10.255.255.255")), Some(8));
        assert_eq!(v4("10.0.0.1").prefix_length(&v4("10.0.0.1")), Some(32));
        assert_eq!(v4("0.0.0.0").prefix_length(&v4("255.255.255.255")), Some(0));
        assert_eq!(v4("10.0.0.1").prefix_length(&v4("10.0.0.2")), None);
        assert_eq!(v4("10.0.0.2").prefix_length(&v4("10.0.0.5")), None);
        let all = Value::Ipv6(Ipv6Addr::from(u128::MAX));
        assert_eq!(Value::Ipv6(Ipv6Addr::UNSPECIFIED).prefix_length(&all), Some(0));
    }

    #[test]
    fn the_greatest_has_no_successor() {
        assert_eq!(v4("10.255.255.255").successor(), Some(v4("11.0.0.0")));
        assert_eq!(v4("255.255.255.255").successor(), None);
        assert_eq!(Value::Port(65_535).successor(), None);
    }
}
