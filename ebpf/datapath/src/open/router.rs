//! The router's own services, and its DHCP client.

use portcullis_datapath_abi::{
    FlowKey, FlowKey6,
    flow::{ICMP, ICMPV6, TCP, UDP},
    policy::{self, ROUTER},
};

use crate::Kind;

const DHCP_SERVER: u16 = 67_u16.to_be();
const DHCP_CLIENT: u16 = 68_u16.to_be();
const DNS: u16 = 53_u16.to_be();
const HTTPS: u16 = 443_u16.to_be();

/// The router's service that listens on `port` of a protocol; 0 if none does.
#[inline(always)]
pub(crate) fn service_of(protocol: u8, kind: Kind, port: u16) -> u32 {
    match protocol {
        UDP if port == DHCP_SERVER => policy::DHCP,
        UDP | TCP if port == DNS => policy::DNS,
        TCP if port == HTTPS => policy::WEB,
        // Later fragments of a ping to the router carry the id as source port only.
        ICMP | ICMPV6 if matches!(kind, Kind::EchoRequest | Kind::EchoReply | Kind::Fragment) => {
            policy::PING
        }
        _ => 0,
    }
}

/// Keys under which the router's DHCP client on an interface is expected to be answered: neither
/// its address nor the server's is known, so the interface stands in the place of an address.
#[inline(always)]
pub(crate) fn dhcp_client_keys(interface: u32, zone: u8) -> (FlowKey, FlowKey) {
    let request = FlowKey {
        source: interface,
        destination: 0,
        source_port: DHCP_CLIENT,
        destination_port: DHCP_SERVER,
        protocol: UDP,
        zone: ROUTER,
        reserved: 0,
    };
    let reply = FlowKey {
        source: 0,
        destination: interface,
        source_port: DHCP_SERVER,
        destination_port: DHCP_CLIENT,
        protocol: UDP,
        zone,
        reserved: 0,
    };
    (request, reply)
}

const DHCP6_CLIENT: u16 = 546_u16.to_be();
const DHCP6_SERVER: u16 = 547_u16.to_be();

/// The same for DHCPv6 (RFC 8415 section 7.2), whose requests go to a group: packets of the client as
/// they leave.
#[inline(always)]
pub(crate) fn dhcp6_client_key(interface: u32, zone: u8) -> FlowKey6 {
    FlowKey6 {
        source: [interface, 0, 0, 0],
        destination: [0; 4],
        source_port: DHCP6_CLIENT,
        destination_port: DHCP6_SERVER,
        protocol: UDP,
        zone: ROUTER,
        peer_zone: zone,
        reserved: 0,
    }
}

/// Whether a packet is a request of a DHCPv6 client.
#[inline(always)]
pub(crate) fn is_dhcp6_request(protocol: u8, source_port: u16, destination_port: u16) -> bool {
    protocol == UDP && source_port == DHCP6_CLIENT && destination_port == DHCP6_SERVER
}

/// Whether a packet is a request of a DHCP client.
#[inline(always)]
pub(crate) fn is_dhcp_request(protocol: u8, source_port: u16, destination_port: u16) -> bool {
    protocol == UDP && source_port == DHCP_CLIENT && destination_port == DHCP_SERVER
}
