//! Ethernet frames: DHCP over UDP before there is an address, and ARP to probe for one. Pure.

use std::net::Ipv4Addr;

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, LinkSlice, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice, UdpHeader,
};
use portcullis_model::MacAddress;

/// UDP port of servers.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

const BROADCAST: [u8; 6] = [0xff; 6];
const TIME_TO_LIVE: u8 = 64;

/// What a frame is to the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Payload of a UDP datagram to the client's port.
    Dhcp(&'a [u8]),
    /// An ARP packet, request or reply.
    Arp(Arp),
}

/// The fields of an ARP packet that matter to conflict detection (RFC 5227).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Hardware address of the sender.
    pub sender: MacAddress,
    /// Address of the sender; unspecified in a probe.
    pub sender_address: Ipv4Addr,
    /// Address asked about.
    pub target_address: Ipv4Addr,
}

/// Reads a frame addressed to `mac` or to all; none for what does not concern the client or is
/// damaged.
pub fn parse<'a>(frame: &'a [u8], mac: MacAddress) -> Option<Received<'a>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else { return None };
    let destination = ethernet.destination();
    if destination != mac.0 && destination != BROADCAST || !packet.link_exts.is_empty() {
        return None;
    }
    match (packet.net?, packet.transport) {
        (NetSlice::Arp(arp), _) => {
            let arp = arp.to_packet().try_eth_ipv4().ok()?;
            Some(Received::Arp(Arp {
                sender: MacAddress(arp.sender_mac),
                sender_address: arp.sender_ipv4_addr(),
                target_address: arp.target_ipv4_addr(),
            }))
        }
        (NetSlice::Ipv4(ip), Some(TransportSlice::Udp(udp))) => {
            let header = ip.header();
            let intact = header.to_header().calc_header_checksum() == header.header_checksum();
            if !intact || header.is_fragmenting_payload() || udp.destination_port() != CLIENT_PORT {
                return None;
            }
            let payload = udp.payload();
            checksum_fits(header.source(), header.destination(), &udp.to_header(), payload)
                .then_some(Received::Dhcp(payload))
        }
        _ => None,
    }
}

/// Whether the UDP checksum is right, absent (RFC 768), or left to the NIC: a frame from this
/// machine or a virtual one beside it carries only the sum of the pseudo-header.
fn checksum_fits(source: [u8; 4], destination: [u8; 4], udp: &UdpHeader, payload: &[u8]) -> bool {
    let full = udp.calc_checksum_ipv4_raw(source, destination, payload);
    udp.checksum == 0
        || full == Ok(udp.checksum)
        || udp.checksum == pseudo_header_sum(source, destination, udp.length)
}

fn pseudo_header_sum(source: [u8; 4], destination: [u8; 4], length: u16) -> u16 {
    let [a, b, c, d] = source;
    let [e, f, g, h] = destination;
    let words = [[a, b], [c, d], [e, f], [g, h], [0, 17], length.to_be_bytes()];
    let mut sum: u32 = words.into_iter().map(|word| u32::from(u16::from_be_bytes(word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// A broadcast frame with a DHCP message; `source` is unspecified while there is no address.
pub fn dhcp_broadcast(mac: MacAddress, source: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac.0, BROADCAST)
        .ipv4(source.octets(), [0xff; 4], TIME_TO_LIVE)
        .udp(CLIENT_PORT, SERVER_PORT);
    let mut frame = Vec::with_capacity(builder.size(message.len()));
    // Fails only for a message beyond 64 KiB, which this client never builds; then nothing is sent.
    if builder.write(&mut frame, message).is_err() {
        frame.clear();
    }
    frame
}

/// An ARP request about `address`: a probe (RFC 5227 section 2.1.1) with an unspecified sender,
/// an announcement (section 2.3) with `address` as sender.
pub fn arp_request(mac: MacAddress, sender: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac.0,
        sender_ipv4: sender.octets(),
        target_mac: [0; 6],
        target_ipv4: address.octets(),
    };
    let builder = PacketBuilder::ethernet2(mac.0, BROADCAST).arp(packet.to_arp_packet());
    let mut frame = Vec::with_capacity(builder.size());
    if builder.write(&mut frame).is_err() {
        frame.clear();
    }
    frame
}
