//! Layer-3 interfaces and the ports under them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{MacAddress, Name};

/// A layer-3 interface: where addresses, a zone and services are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// What carries it.
    #[serde(default)]
    pub kind: InterfaceKind,
    /// Zone of the firewall.
    pub zone: Name,
    /// Physical ports: exactly one for `ethernet`, any number for `bridge`.
    pub ports: Vec<PortSelector>,
    /// MTU in bytes, 576 to 9216, with IPv6 addresses from 1280; by default what the ports have or
    /// the lease says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// IPv4 addressing.
    #[serde(default)]
    pub ipv4: Ipv4,
    /// IPv6 addressing.
    #[serde(default)]
    pub ipv6: Ipv6,
}

/// What carries an interface.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceKind {
    /// One port, used under its kernel name.
    #[default]
    Ethernet,
    /// A bridge device named as the interface, with the ports as members.
    Bridge,
}

/// IPv4 addressing of an interface.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ipv4 {
    /// No IPv4.
    #[default]
    #[serde(deserialize_with = "no_fields")]
    None,
    /// By DHCP (RFC 2131).
    Dhcp {
        /// Metric of its default route, 1 to 4294967295. Default 100.
        #[serde(default = "default_metric")]
        metric: u32,
    },
    /// Fixed addresses.
    Static {
        /// Addresses with prefix length, the first is the primary one: `["192.168.77.1/24"]`.
        addresses: Vec<Ipv4Net>,
        /// Default gateway, inside one of the prefixes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Ipv4Addr>,
        /// Metric of the default route, 1 to 4294967295. Default 100.
        #[serde(default = "default_metric")]
        metric: u32,
    },
}

/// IPv6 addressing of an interface. Prefixes are not announced to hosts, nor learned: router
/// advertisements are neither sent nor accepted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ipv6 {
    /// Link-local addresses only, which the kernel makes.
    #[default]
    #[serde(deserialize_with = "no_fields")]
    None,
    /// Fixed addresses.
    Static {
        /// Addresses with prefix length: `["2001:db8:77::1/64"]`.
        addresses: Vec<Ipv6Net>,
        /// Default gateway, inside one of the prefixes or link-local.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Ipv6Addr>,
        /// Metric of the default route, 1 to 4294967295. Default 100.
        #[serde(default = "default_metric")]
        metric: u32,
    },
}

impl Ipv6 {
    /// The fixed addresses; none for the other method.
    pub fn fixed_addresses(&self) -> &[Ipv6Net] {
        match self {
            Self::Static { addresses, .. } => addresses,
            Self::None => &[],
        }
    }
}

fn default_metric() -> u32 {
    100
}

/// Refuses what stands beside `method = "none"`: serde lets anything pass there, and who wrote
/// addresses would not learn that they are not used.
fn no_fields<'de, D: Deserializer<'de>>(reader: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}
    NoFields::deserialize(reader).map(|NoFields {}| ())
}

impl Ipv4 {
    /// The fixed addresses; none for the other methods.
    pub fn fixed_addresses(&self) -> &[Ipv4Net] {
        match self {
            Self::Static { addresses, .. } => addresses,
            Self::Dhcp { .. } | Self::None => &[],
        }
    }
}

/// Which physical port. Written as a string: `first`, `others`, a kernel device name (`eth1`), or
/// `mac:52:54:00:12:34:56`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum PortSelector {
    /// The first NIC, in the order of their bus addresses, that no selector names outright.
    First,
    /// All NICs that nothing else selects.
    Others,
    /// The NIC with this kernel device name.
    Device(String),
    /// The NIC with this permanent hardware address.
    Mac(MacAddress),
}

/// Why a text is not a port selector.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a port: allowed are `first`, `others`, a device name of 1 to 15 characters like `eth1`, or `mac:52:54:00:12:34:56`"
)]
pub struct PortSelectorError(String);

impl FromStr for PortSelector {
    type Err = PortSelectorError;

    fn from_str(text: &str) -> Result<Self, PortSelectorError> {
        let error = || PortSelectorError(text.to_owned());
        match text {
            "first" => Ok(Self::First),
            "others" => Ok(Self::Others),
            _ => match text.strip_prefix("mac:") {
                Some(mac) => mac.parse().map(Self::Mac).map_err(|_| error()),
                None => {
                    let valid = (1..=15).contains(&text.len())
                        && text != "."
                        && text != ".."
                        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
                    if valid { Ok(Self::Device(text.to_owned())) } else { Err(error()) }
                }
            },
        }
    }
}

impl fmt::Display for PortSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first"),
            Self::Others => f.write_str("others"),
            Self::Device(name) => f.write_str(name),
            Self::Mac(mac) => write!(f, "mac:{mac}"),
        }
    }
}

impl TryFrom<String> for PortSelector {
    type Error = PortSelectorError;
    fn try_from(text: String) -> Result<Self, PortSelectorError> {
        text.parse()
    }
}

impl From<PortSelector> for String {
    fn from(port: PortSelector) -> Self {
        port.to_string()
    }
}

impl Interface {
    /// The interfaces of a document that names none: `wan` on the first NIC, `lan` on the others.
    pub(crate) fn defaults() -> BTreeMap<Name, Self> {
        let wan = Self {
            kind: InterfaceKind::Ethernet,
            zone: Name::from_static("wan"),
            ports: vec![PortSelector::First],
            mtu: None,
            ipv4: Ipv4::Dhcp { metric: default_metric() },
            ipv6: Ipv6::None,
        };
        let lan = Self {
            kind: InterfaceKind::Bridge,
            zone: Name::from_static("lan"),
            ports: vec![PortSelector::Others],
            mtu: None,
            ipv4: Ipv4::Static {
                addresses: vec![Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 77, 1), 24)],
                gateway: None,
                metric: default_metric(),
            },
            ipv6: Ipv6::None,
        };
        BTreeMap::from([(Name::from_static("wan"), wan), (Name::from_static("lan"), lan)])
    }
}
