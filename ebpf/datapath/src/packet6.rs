//! Reading an IPv6 packet: the chain of extension headers (RFC 8200 section 4) and what stands
//! behind it.

use portcullis_datapath_abi::{
    Counter, FlowKey6,
    flow::{ICMPV6, TCP, UDP},
};

use crate::{
    frame::{Frame, L3, L4_V6},
    packet::{Fragment, Kind},
};

/// Extension headers that are walked before a packet is refused.
const MAX_EXTENSIONS: u32 = 4;
/// Furthest offset of the transport header in a frame. Chains that are longer serve nobody but who
/// wants to hide a header from firewalls (RFC 9098).
const MAX_OFFSET: u32 = 512;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Mobility, host identity, shim6: with the length field of the others.
const MOBILITY: u8 = 135;

/// The fields of an IPv6 packet that decisions need.
#[derive(Clone, Copy, Debug)]
pub struct Packet6 {
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Source port, see [`Kind`].
    pub source_port: u16,
    /// Destination port, see [`Kind`].
    pub destination_port: u16,
    /// Length of the datagram in bytes with all headers, host byte order.
    pub length: u16,
    /// Offset of the transport header in the frame.
    pub transport: u16,
    /// Offset of the fragment header in the frame; 0 if there is none.
    pub fragment_header: u16,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// Transport header's length in bytes (8 but for TCP).
    pub header: u8,
    /// Type and code of ICMPv6.
    pub icmp: [u8; 2],
    /// Place in its datagram.
    pub fragment: Fragment,
    /// Identification of the datagram that it is a fragment of.
    pub id: u32,
    /// Kind.
    pub kind: Kind,
    /// TCP: sequence number, host byte order.
    pub sequence: u32,
    /// TCP: acknowledgement number, host byte order.
    pub acknowledged: u32,
    /// TCP: window as in the header, host byte order.
    pub window: u16,
}

/// What the chain of headers leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub protocol: u8,
    /// Offset of the upper-layer header.
    pub offset: u32,
    /// Offset of the fragment header, 0 for none.
    pub fragment_header: u32,
    pub fragment: Fragment,
    pub id: u32,
}

/// Walks extension headers from `offset` on, where the header of type `next` stands.
///
/// # Errors
/// `Some(reason)` to drop the packet for; `None` if the frame ends too early.
#[inline(always)]
pub(crate) fn walk<F: Frame>(frame: &F, next: u8, offset: u32) -> Result<Chain, Option<Counter>> {
    let mut chain =
        Chain { protocol: next, offset, fragment_header: 0, fragment: Fragment::Whole, id: 0 };
    for _ in 0..MAX_EXTENSIONS {
        let at = chain.offset;
        match chain.protocol {
            HOP_BY_HOP | DESTINATION | ROUTING | MOBILITY => {
                // First only (RFC 8200 section 4.1).
                if chain.protocol == HOP_BY_HOP && at != offset {
                    return Err(Some(Counter::DropExtension));
                }
                let [next, length, kind, left, ..] = frame.copy::<8>(at).ok_or(None)?;
                // RFC 5095: type 0 with segments left lets one packet travel to and fro.
                if chain.protocol == ROUTING && kind == 0 && left != 0 {
                    return Err(Some(Counter::DropExtension));
                }
                chain.protocol = next;
                chain.offset = at + 8 + u32::from(length) * 8;
            }
            FRAGMENT => {
                let [next, _, high, low, a, b, c, d] = frame.copy::<8>(at).ok_or(None)?;
                if chain.fragment_header != 0 {
                    return Err(Some(Counter::DropExtension));
                }
                let word = u16::from_be_bytes([high, low]);
                chain.fragment_header = at;
                chain.id = u32::from_ne_bytes([a, b, c, d]);
                chain.protocol = next;
                chain.offset = at + 8;
                chain.fragment = if word & 0xfff8 != 0 {
                    Fragment::Later
                } else if word & 1 != 0 {
                    Fragment::First
                } else {
                    // An atomic fragment (RFC 6946) is a whole packet.
                    Fragment::Whole
                };
                if matches!(chain.fragment, Fragment::Later) {
                    return Ok(chain);
                }
            }
            _ => return Ok(chain),
        }
        if chain.offset > MAX_OFFSET {
            return Err(Some(Counter::DropExtension));
        }
    }
    Err(Some(Counter::DropExtension))
}

impl Packet6 {
    /// Reads the IPv6 packet in a frame of which `available` bytes are behind the Ethernet header.
    ///
    /// # Errors
    /// The reason to drop it for.
    #[inline(always)]
    pub fn parse<F: Frame>(frame: &F, available: u32) -> Result<Self, Counter> {
        match Self::read(frame, available) {
            Ok(packet) => Ok(packet),
            Err(reason) => Err(reason.unwrap_or(Counter::DropMalformed)),
        }
    }

    #[inline(always)]
    fn read<F: Frame>(frame: &F, available: u32) -> Result<Self, Option<Counter>> {
        let head = frame.head::<L4_V6>().ok_or(None)?;
        if head.u8::<L3>() >> 4 != 6 {
            return Err(None);
        }
        let length = u32::from(u16::from_be(head.u16::<{ L3 + 4 }>())) + 40;
        if length > available || length > 0xffff {
            return Err(None);
        }
        let chain = walk(frame, head.u8::<{ L3 + 6 }>(), L4_V6 as u32)?;
        let mut packet = Self {
            source: [
                head.u32::<{ L3 + 8 }>(),
                head.u32::<{ L3 + 12 }>(),
                head.u32::<{ L3 + 16 }>(),
                head.u32::<{ L3 + 20 }>(),
            ],
            destination: [
                head.u32::<{ L3 + 24 }>(),
                head.u32::<{ L3 + 28 }>(),
                head.u32::<{ L3 + 32 }>(),
                head.u32::<{ L3 + 36 }>(),
            ],
            source_port: 0,
            destination_port: 0,
            length: length as u16,
            transport: chain.offset as u16,
            fragment_header: chain.fragment_header as u16,
            protocol: chain.protocol,
            hop_limit: head.u8::<{ L3 + 7 }>(),
            tcp_flags: 0,
            header: 8,
            icmp: [0, 0],
            fragment: chain.fragment,
            id: chain.id,
            kind: Kind::Fragment,
            sequence: 0,
            acknowledged: 0,
            window: 0,
        };
        if matches!(chain.fragment, Fragment::Later) {
            return Ok(packet);
        }
        // What is behind the headers in this packet, as far as the headers say.
        let end = length + L3 as u32;
        match chain.protocol {
            TCP => packet.read_tcp(frame, chain.offset, end)?,
            UDP => {
                if chain.offset + 8 > end {
                    return Err(None);
                }
                let [a, b, c, d, e, f, ..] = frame.copy::<8>(chain.offset).ok_or(None)?;
                if u16::from_be_bytes([e, f]) < 8 {
                    return Err(None);
                }
                packet.kind = Kind::Udp;
                packet.source_port = u16::from_ne_bytes([a, b]);
                packet.destination_port = u16::from_ne_bytes([c, d]);
            }
            ICMPV6 => {
                if chain.offset + 8 > end {
                    return Err(None);
                }
                let [kind, code, _, _, a, b, ..] = frame.copy::<8>(chain.offset).ok_or(None)?;
                packet.icmp = [kind, code];
                let id = u16::from_ne_bytes([a, b]);
                packet.kind = match kind {
                    128 => Kind::EchoRequest,
                    129 => Kind::EchoReply,
                    1..=4 => Kind::IcmpError,
                    130..=132 | 133..=137 | 143 => Kind::Link,
                    _ => Kind::IcmpOther,
                };
                match packet.kind {
                    Kind::EchoRequest => packet.source_port = id,
                    Kind::EchoReply => packet.destination_port = id,
                    _ => {}
                }
            }
            _ => {
                packet.kind = Kind::Other;
                packet.header = 0;
            }
        }
        Ok(packet)
    }

    #[inline(always)]
    fn read_tcp<F: Frame>(&mut self, frame: &F, at: u32, end: u32) -> Result<(), Option<Counter>> {
        if at + 20 > end {
            return Err(None);
        }
        let [a, b, c, d, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, w0, w1, ..] =
            frame.copy::<20>(at).ok_or(None)?;
        self.kind = Kind::Tcp;
        self.source_port = u16::from_ne_bytes([a, b]);
        self.destination_port = u16::from_ne_bytes([c, d]);
        self.sequence = u32::from_be_bytes([s0, s1, s2, s3]);
        self.acknowledged = u32::from_be_bytes([a0, a1, a2, a3]);
        self.header = (offset >> 4) << 2;
        self.tcp_flags = flags;
        self.window = u16::from_be_bytes([w0, w1]);
        if self.header < 20 || at + u32::from(self.header) > end {
            return Err(None);
        }
        Ok(())
    }

    /// The key of its flow, if it comes from `zone`.
    #[inline(always)]
    pub const fn key(&self, zone: u8) -> FlowKey6 {
        FlowKey6 {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            zone,
            peer_zone: 0,
            reserved: 0,
        }
    }

    /// Ports as the policy is asked about them: of ICMPv6, type and code in the place of the
    /// destination port.
    #[inline(always)]
    pub(crate) const fn asked_ports(&self) -> (u16, u16) {
        match self.protocol {
            ICMPV6 => (0, u16::from_ne_bytes(self.icmp)),
            _ => (self.source_port, self.destination_port),
        }
    }
}
