//! A DHCP server's messages, for tests.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::net::Ipv4Addr;

use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode},
};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use portcullis_model::MacAddress;

pub const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
pub const SERVER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xfe];
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);

/// The DHCP message in a frame that the client sent, with the frame's source address.
pub fn sent(frame: &[u8]) -> Option<(Ipv4Addr, Message)> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    assert_eq!((udp.source_port(), udp.destination_port()), (68, 67));
    let ip = packet.net.as_ref().unwrap().ipv4_ref().unwrap();
    let full = udp.to_header().calc_checksum_ipv4_raw(
        ip.header().source(),
        ip.header().destination(),
        udp.payload(),
    );
    assert_eq!(full, Ok(udp.checksum()));
    Some((ip.header().source_addr(), decode(udp.payload())))
}

pub fn decode(payload: &[u8]) -> Message {
    assert!(payload.len() >= 300, "a BOOTP message has 300 bytes at least");
    Message::decode(&mut Decoder::new(payload)).unwrap()
}

/// An answer of `kind` to `request` for [`ADDRESS`]/24 of one hour.
pub fn answer(request: &Message, kind: MessageType) -> Message {
    let mut reply = Message::default();
    reply
        .set_opcode(Opcode::BootReply)
        .set_htype(HType::Eth)
        .set_xid(request.xid())
        .set_chaddr(request.chaddr());
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(SERVER));
    if kind != MessageType::Nak {
        options.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        options.insert(DhcpOption::Router(vec![SERVER]));
        options.insert(DhcpOption::AddressLeaseTime(3600));
        reply.set_yiaddr(ADDRESS);
    }
    reply
}

pub fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

/// `payload` in a frame from the server to the client.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(SERVER_MAC, MAC.0).ipv4(SERVER.octets(), [255; 4], 64).udp(67, 68);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

pub fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

pub fn requested(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    }
}

pub fn server_identifier(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
        _ => None,
    }
}
