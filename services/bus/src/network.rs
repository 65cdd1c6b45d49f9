//! `org.portcullis.Network1`: interfaces, addresses and the WAN lease.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::interface::bus_interface;

/// A physical port (a NIC).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct PortStatus {
    /// Kernel device name: `eth1`.
    pub device: String,
    /// Kernel interface index.
    pub index: u32,
    /// Hardware address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Whether a link is detected.
    pub carrier: bool,
    /// Kernel driver: `virtio_net`.
    pub driver: String,
}

/// A configured interface as it is now.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct InterfaceStatus {
    /// Name in the configuration: `lan`.
    pub name: String,
    /// Kernel device that carries its addresses: `eth0`, or the bridge; empty while its port is
    /// missing.
    pub device: String,
    /// Kernel interface index of `device`; 0 while its port is missing.
    pub index: u32,
    /// Zone that it belongs to.
    pub zone: String,
    /// Hardware address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Whether a link is detected.
    pub carrier: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses of both families with prefix length, IPv4 first: `192.168.77.1/24`.
    pub addresses: Vec<String>,
    /// Default gateway by this interface, if any.
    pub gateway: Option<String>,
    /// Bytes received since the device exists.
    pub rx_bytes: u64,
    /// Bytes sent since the device exists.
    pub tx_bytes: u64,
    /// Its physical ports.
    pub ports: Vec<PortStatus>,
}

/// The DHCP client's view of one WAN interface.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct WanLease {
    /// Name of the interface in the configuration.
    pub interface: String,
    /// RFC 2131 state: `init`, `selecting`, `requesting`, `init-reboot`, `rebooting`, `bound`,
    /// `renewing`, `rebinding`.
    pub state: String,
    /// Leased address with prefix length; the fields below hold nothing while this is none.
    pub address: Option<String>,
    /// Default gateway.
    pub gateway: Option<String>,
    /// Address of the server that gave the lease.
    pub server: Option<String>,
    /// DNS servers, in the server's order.
    pub dns: Vec<String>,
    /// NTP servers.
    pub ntp: Vec<String>,
    /// Domain name (option 15).
    pub domain: Option<String>,
    /// MTU (option 26), bytes.
    pub mtu: Option<u32>,
    /// When the lease was obtained or last renewed (seconds since the epoch).
    pub obtained_unix_s: u64,
    /// Lease time, seconds.
    pub lease_s: u32,
}

bus_interface! {
    /// Interfaces, routes and WAN leases. `Changed`: a link, an address or a lease changed.
    interface Network1("org.portcullis.Network1"), trait NetworkApi, proxy NetworkBus, control [apply] {
        /// Takes a new part (JSON of `portcullis_model::part::NetworkPart`) and reconciles.
        fn apply(part: String);
        /// All configured interfaces.
        fn interfaces() -> Vec<InterfaceStatus>;
        /// One entry for each interface that is configured by DHCP.
        fn wan_leases() -> Vec<WanLease>;
    }
}
