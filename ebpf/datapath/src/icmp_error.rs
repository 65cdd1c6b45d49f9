//! ICMP errors about flows (RFC 792, RFC 5508 section 4): they carry the head of the packet that
//! they are about, and are translated together with it.

use portcullis_datapath_abi::{
    Counter, FlowKey,
    flow::{ICMP, TCP, UDP},
};

use crate::{Frame, L4, Packet, Tables, Verdict, open};

/// Offset of the quoted IP header.
pub(crate) const INNER_L3: usize = L4 + 8;
/// Offset of the quoted transport header.
pub(crate) const INNER_L4: usize = INNER_L3 + 20;

/// The key of the flow direction that an error travels in when it is about the quoted packet: the
/// quoted packet with its ends exchanged. None if it quotes something else than a flow's packet.
#[inline(always)]
pub(crate) fn key<F: Frame>(frame: &F, packet: &Packet, zone: u8) -> Option<FlowKey> {
    if frame.u8(INNER_L3)? != 0x45 {
        return None;
    }
    // Only first fragments quote ports.
    if u16::from_be(frame.u16(INNER_L3 + 6)?) & 0x1fff != 0 {
        return None;
    }
    let protocol = frame.u8(INNER_L3 + 9)?;
    let (source_port, destination_port) = match protocol {
        TCP | UDP => (frame.u16(INNER_L4)?, frame.u16(INNER_L4 + 2)?),
        ICMP => {
            let id = frame.u16(INNER_L4 + 4)?;
            match frame.u8(INNER_L4)? {
                8 => (id, 0),
                0 => (0, id),
                _ => return None,
            }
        }
        _ => return None,
    };
    // RFC 792: eight bytes of the transport header.
    frame.u16(INNER_L4 + 6)?;
    // An error goes to the sender of what it quotes.
    let sender = frame.u32(INNER_L3 + 12)?;
    if packet.destination != sender || packet.length < 56 {
        return None;
    }
    Some(FlowKey {
        source: frame.u32(INNER_L3 + 16)?,
        destination: sender,
        source_port: destination_port,
        destination_port: source_port,
        protocol,
        zone,
        reserved: 0,
    })
}

/// An error about what a service of the router sent (these are not flows).
#[inline(always)]
pub(crate) fn about_service<'a, T: Tables>(
    tables: &'a T,
    packet: &Packet,
    key: &FlowKey,
) -> Verdict<'a> {
    let quoted = Packet { protocol: key.protocol, kind: crate::Kind::EchoReply, ..*packet };
    let service = open::service_of(&quoted, key.destination_port);
    let reachable = tables.zone(key.zone).is_some_and(|zone| zone.services & service != 0);
    if reachable && tables.is_local(packet.destination) {
        Verdict::Kernel(Counter::RouterIcmpError)
    } else {
        Verdict::Drop(Counter::DropIcmp)
    }
}
