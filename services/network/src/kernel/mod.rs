//! The kernel's network state, as far as this service manages it: what it is ([`Actual`]), what
//! it shall be ([`Wanted`]), the difference ([`plan`]), and the shell that reads and writes it.

pub mod netlink;
pub mod plan;
pub mod sysctl;
pub mod sysfs;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::{IpNet, Ipv6Net};
use portcullis_model::MacAddress;

/// Mark of our routes (`rtm_protocol`, as in `ip route show proto 80`) and addresses
/// (`IFA_PROTO`): what carries it was made by this service and is removed when no longer wanted;
/// what does not is left alone. The number is unassigned in iproute2's rt_protos.
pub const PROTOCOL: u8 = 80;

/// Alias (`ip link show`) that marks the bridges made by this service, and the devices that it
/// brought up: they are deleted or taken down when they are no longer wanted.
pub const ALIAS: &str = "portcullis";

/// The kernel's state at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// Network devices by kernel index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of all devices, those of IPv4 first, in the kernel's order.
    pub addresses: Vec<Address>,
    /// IPv6 addresses of all devices by their kernel index, as they are reported: without those that
    /// may turn out to be somebody else's.
    pub addresses6: Vec<(u32, Ipv6Net)>,
    /// IPv6 addresses, by the index of their device, that somebody else on the link has (RFC 4862
    /// section 5.4): the kernel does not use them.
    pub duplicates: Vec<(u32, Ipv6Net)>,
    /// Unicast routes of the main table, of both families.
    pub routes: Vec<Route>,
    /// Values of those kernel parameters that are managed, by path under `/proc/sys`. One that
    /// the kernel does not have is not in here.
    pub sysctls: BTreeMap<String, String>,
}

impl Actual {
    /// The device named `name`.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel interface index.
    pub index: u32,
    /// Kernel device name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Hardware address; none for devices without an Ethernet address.
    pub mac: Option<MacAddress>,
    /// Whether the hardware address was set by somebody, not by the kernel (`addr_assign_type`).
    pub mac_set: bool,
    /// Hardware address that the NIC was made with.
    pub permanent_mac: Option<MacAddress>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Largest MTU that the driver takes, bytes; 0 if it does not say.
    pub max_mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// A link is detected.
    pub carrier: bool,
    /// How many times a link was detected since the device exists. Tells of a link that was lost
    /// and came back between two looks.
    pub carrier_ups: u32,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Free text of the administrator.
    pub alias: Option<String>,
    /// Bytes received since it exists.
    pub rx_bytes: u64,
    /// Bytes sent since it exists.
    pub tx_bytes: u64,
    /// Bus path of the hardware behind it, as in `/sys/devices`; none for software devices.
    pub bus_path: Option<String>,
    /// Kernel driver of the hardware, empty for software devices.
    pub driver: String,
}

/// What a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// Ethernet-like, hardware or virtual.
    #[default]
    Ethernet,
    /// A wireless NIC.
    Wireless,
    /// A bridge.
    Bridge {
        /// Whether it runs the spanning tree protocol.
        stp: bool,
        /// Time that a new port stays silent, in 1/100 s.
        forward_delay: u32,
    },
    /// Loopback.
    Loopback,
    /// Anything else.
    Other,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Kernel index of the device.
    pub index: u32,
    /// Address and prefix length.
    pub address: IpNet,
    /// Whether it carries [`PROTOCOL`].
    pub ours: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Kernel index of the device; 0 for routes without one device (multipath, blackhole).
    pub index: u32,
    /// Where it leads.
    pub way: Way,
    /// Whether it carries [`PROTOCOL`].
    pub ours: bool,
}

/// A route without its device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Destinations.
    pub destination: IpNet,
    /// Next hop; none if the destinations are on the link.
    pub gateway: Option<IpAddr>,
    /// Whether the next hop is on the link although no prefix says so.
    pub onlink: bool,
    /// Source address of the router's own packets.
    pub source: Option<IpAddr>,
    /// Among routes to the same destination the lowest metric counts.
    pub metric: u32,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if self.onlink {
            f.write_str(" onlink")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        write!(f, " metric {}", self.metric)
    }
}

/// What the kernel's state shall be. Devices are named, since a bridge may not exist yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Devices that are managed; all exist or are bridges to be made.
    pub devices: BTreeMap<String, Device>,
    /// Routes, by their device.
    pub routes: Vec<(String, Way)>,
    /// Kernel parameters: path under `/proc/sys` and value. Written in this order.
    pub sysctls: Vec<(String, String)>,
}

/// A managed device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Set for a bridge that this service makes: the hardware address of a new one; the kernel
    /// chooses it if none.
    pub bridge: Option<Option<MacAddress>>,
    /// Bridge that it is a port of.
    pub master: Option<String>,
    /// MTU in bytes; none leaves it as it is.
    pub mtu: Option<u32>,
    /// Addresses; of IPv4 the first one is that of the device, and the first of each subnet the primary
    /// one there.
    pub addresses: Vec<IpNet>,
    /// It is not brought up, nor are there routes by it until it is: nothing filters on it yet. One that
    /// is up stays up, unless it comes out of a bridge.
    pub held: bool,
}
