//! One line about a captured packet.

use std::net::IpAddr;

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice, VlanSlice};
use pcap_file::pcapng::blocks::{
    enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
    interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
};
use serde::Serialize;

use crate::text::{clean, time};

/// What is told of a packet.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Packet {
    /// Microseconds since the epoch.
    pub unix_us: u64,
    /// Device.
    pub interface: String,
    /// `in`, `out`; empty if it is not known.
    pub direction: &'static str,
    /// Addresses, ports and what it is.
    pub summary: String,
    /// Bytes of the frame.
    pub length: u32,
    /// Why it was dropped and between which zones; empty if it was not.
    pub comment: String,
}

/// `2026-11-22 10:00:00.025000 eth0 in  tcp 198.51.100.7:12345 > 203.0.113.57:22 [S] 54 bytes (drop.policy, wan > router)`
pub(super) fn text(packet: &Packet) -> String {
    let mut line = format!(
        "{}.{:06} {} {:<3} {}, {} bytes",
        time(packet.unix_us / 1_000_000),
        packet.unix_us % 1_000_000,
        clean(&packet.interface),
        packet.direction,
        clean(&packet.summary),
        packet.length,
    );
    if !packet.comment.is_empty() {
        line.push_str(&format!(" ({})", clean(&packet.comment)));
    }
    line
}

impl Packet {
    pub(super) fn of(
        packet: &EnhancedPacketBlock<'_>,
        interface: Option<&InterfaceDescriptionBlock<'_>>,
    ) -> Self {
        let name = interface.and_then(|interface| {
            interface.options.iter().find_map(|option| match option {
                InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                _ => None,
            })
        });
        let mut told = Self {
            unix_us: u64::try_from(packet.timestamp.as_micros()).unwrap_or(u64::MAX),
            interface: name.unwrap_or_default(),
            direction: "",
            summary: summary(&packet.data),
            length: packet.original_len,
            comment: String::new(),
        };
        for option in &packet.options {
            match option {
                EnhancedPacketOption::Comment(text) => told.comment = text.to_string(),
                // The two lowest bits: 1 inbound, 2 outbound.
                EnhancedPacketOption::Flags(flags) if flags & 3 == 1 => told.direction = "in",
                EnhancedPacketOption::Flags(flags) if flags & 3 == 2 => told.direction = "out",
                _ => {}
            }
        }
        told
    }
}

/// What a frame is, as far as it was copied.
fn summary(frame: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        return "shorter than an Ethernet header".to_owned();
    };
    let mut text = String::new();
    for extension in packet.vlan().iter() {
        let id = match extension {
            VlanSlice::SingleVlan(tag) => tag.vlan_identifier().value(),
            VlanSlice::DoubleVlan(tags) => tags.outer.vlan_identifier().value(),
        };
        text.push_str(&format!("vlan {id} "));
    }
    let (source, destination): (IpAddr, IpAddr) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(LaxNetSlice::Arp(arp)) => {
            return match (arp.sender_protocol_addr(), arp.target_protocol_addr()) {
                ([a, b, c, d], [e, f, g, h]) => {
                    format!("{text}arp {a}.{b}.{c}.{d} > {e}.{f}.{g}.{h}")
                }
                _ => format!("{text}arp"),
            };
        }
        None => {
            let kind = packet.ether_payload().map_or(EtherType(0), |payload| payload.ether_type);
            return format!("{text}ethertype {:#06x}", kind.0);
        }
    };
    let with = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags: String = [
                (tcp.syn(), 'S'),
                (tcp.fin(), 'F'),
                (tcp.rst(), 'R'),
                (tcp.psh(), 'P'),
                (tcp.ack(), '.'),
            ]
            .iter()
            .filter_map(|(set, letter)| set.then_some(*letter))
            .collect();
            format!(
                "{text}tcp {} > {} [{flags}]",
                with(source, tcp.source_port()),
                with(destination, tcp.destination_port())
            )
        }
        Some(TransportSlice::Udp(udp)) => format!(
            "{text}udp {} > {}",
            with(source, udp.source_port()),
            with(destination, udp.destination_port())
        ),
        Some(TransportSlice::Icmpv4(icmp)) => format!(
            "{text}icmp {source} > {destination} type {} code {}",
            icmp.type_u8(),
            icmp.code_u8()
        ),
        Some(TransportSlice::Icmpv6(icmp)) => format!(
            "{text}icmpv6 {source} > {destination} type {} code {}",
            icmp.type_u8(),
            icmp.code_u8()
        ),
        Some(TransportSlice::Igmp(_)) => format!("{text}igmp {source} > {destination}"),
        None => {
            let (protocol, fragment) = packet
                .net
                .as_ref()
                .and_then(LaxNetSlice::ip_payload_ref)
                .map_or((0, false), |payload| (payload.ip_number.0, payload.fragmented));
            let fragment = if fragment { ", fragment" } else { "" };
            format!("{text}protocol {protocol} {source} > {destination}{fragment}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_named_by_what_they_are() {
        let ethernet = |kind: u16, rest: &[u8]| [&[2; 12][..], &kind.to_be_bytes(), rest].concat();
        let ip4 = |protocol: u8, rest: &[u8]| {
            let length = (20 + rest.len()).to_be_bytes();
            let head = [0x45, 0, length[6], length[7], 0, 0, 0, 0, 64, protocol, 0, 0];
            ethernet(0x0800, &[&head[..], &[10, 0, 0, 1, 10, 0, 0, 2], rest].concat())
        };
        let syn = [0, 80, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0];
        for (frame, text) in [
            (ip4(6, &syn), "tcp 10.0.0.1:80 > 10.0.0.2:443 [S]"),
            (ip4(17, &[0, 53, 0, 54, 0, 8, 0, 0]), "udp 10.0.0.1:53 > 10.0.0.2:54"),
            (ip4(1, &[8, 0, 0, 0, 0, 1, 0, 1]), "icmp 10.0.0.1 > 10.0.0.2 type 8 code 0"),
            (ip4(47, &[0; 8]), "protocol 47 10.0.0.1 > 10.0.0.2"),
            (
                ethernet(
                    0x8100,
                    &[
                        0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 1, 0, 0, 0,
                        0, 0, 0, 10, 0, 0, 2,
                    ],
                ),
                "vlan 7 arp 10.0.0.1 > 10.0.0.2",
            ),
            (ethernet(0x88cc, &[1, 2, 3]), "ethertype 0x88cc"),
            (vec![2; 10], "shorter than an Ethernet header"),
        ] {
            assert_eq!(summary(&frame), text);
        }
    }

    proptest! {
        #[test]
        fn any_frame_has_a_line(mut frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4_usize) {
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]][kind]);
            }
            prop_assert!(!summary(&frame).is_empty());
        }
    }
}
