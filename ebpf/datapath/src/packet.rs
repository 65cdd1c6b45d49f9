//! Reading a packet: Ethernet, IPv4 without options, and as much of TCP, UDP and ICMP as flows
//! need.

use portcullis_datapath_abi::{
    Counter, FlowKey,
    flow::{ICMP, TCP, UDP},
};

/// Offset of the network header behind Ethernet.
pub const L3: usize = 14;
/// Offset of the transport header behind IPv4 without options.
pub const L4: usize = L3 + 20;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd_u16.to_be();

/// Readable bytes of a frame. `None` beyond the end.
pub trait Frame {
    /// One byte.
    fn u8(&self, offset: usize) -> Option<u8>;
    /// Two bytes as they stand.
    fn u16(&self, offset: usize) -> Option<u16>;
    /// Four bytes as they stand.
    fn u32(&self, offset: usize) -> Option<u32>;
}

/// Place of a fragment in its datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// Has the transport header.
    First,
    /// Has not.
    Later,
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// ICMP echo request; the query id is the source port.
    EchoRequest,
    /// ICMP echo reply; the query id is the destination port.
    EchoReply,
    /// ICMP destination unreachable, time exceeded or parameter problem (RFC 792).
    IcmpError,
    /// Other ICMP.
    IcmpOther,
    /// A later fragment of any of these, without header.
    Fragment,
}

/// Bits of the TCP flags byte.
pub mod tcp {
    /// FIN
    pub const FIN: u8 = 1;
    /// SYN
    pub const SYN: u8 = 2;
    /// RST
    pub const RST: u8 = 4;
    /// ACK
    pub const ACK: u8 = 16;
}

/// The fields of a packet that decisions need.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port, see [`Kind`].
    pub source_port: u16,
    /// Destination port, see [`Kind`].
    pub destination_port: u16,
    /// Identification, for fragments.
    pub id: u16,
    /// Length of the datagram in bytes, host byte order.
    pub length: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Whether it must not be fragmented.
    pub dont_fragment: bool,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// Transport header's length in bytes (8 but for TCP).
    pub header: u8,
    /// Place in its datagram.
    pub fragment: Fragment,
    /// Kind.
    pub kind: Kind,
}

impl Packet {
    /// Reads the IPv4 packet in a frame of which `available` bytes are behind the Ethernet header.
    ///
    /// # Errors
    /// The reason to drop it for.
    #[inline(always)]
    pub fn parse<F: Frame>(frame: &F, available: u32) -> Result<Self, Counter> {
        Self::read(frame, available).unwrap_or(Err(Counter::DropMalformed))
    }

    #[inline(always)]
    fn read<F: Frame>(frame: &F, available: u32) -> Option<Result<Self, Counter>> {
        let version = frame.u8(L3)?;
        if version != 0x45 {
            let options = version >> 4 == 4 && version & 15 > 5;
            return Some(Err(if options { Counter::DropOptions } else { Counter::DropMalformed }));
        }
        let length = u16::from_be(frame.u16(L3 + 2)?);
        if length < 28 || u32::from(length) > available {
            // The shortest thing that passes is a UDP or ICMP header; the last fragment of a
            // datagram may be shorter.
            if length <= 20 || u32::from(length) > available {
                return Some(Err(Counter::DropMalformed));
            }
        }
        let fragment_word = u16::from_be(frame.u16(L3 + 6)?);
        let offset = fragment_word & 0x1fff;
        let fragment = if offset != 0 {
            Fragment::Later
        } else if fragment_word & 0x2000 != 0 {
            Fragment::First
        } else {
            Fragment::Whole
        };
        let mut packet = Self {
            source: frame.u32(L3 + 12)?,
            destination: frame.u32(L3 + 16)?,
            source_port: 0,
            destination_port: 0,
            id: frame.u16(L3 + 4)?,
            length,
            protocol: frame.u8(L3 + 9)?,
            ttl: frame.u8(L3 + 8)?,
            tos: frame.u8(L3 + 1)?,
            dont_fragment: fragment_word & 0x4000 != 0,
            tcp_flags: 0,
            header: 8,
            fragment,
            kind: Kind::Fragment,
        };
        if !matches!(packet.protocol, TCP | UDP | ICMP) {
            return Some(Err(Counter::DropProtocol));
        }
        if matches!(fragment, Fragment::Later) {
            // A fragment at offset 8 would overwrite the TCP flags behind the ports (RFC 3128).
            let overlaps = packet.protocol == TCP && offset == 1;
            return Some(if overlaps { Err(Counter::DropMalformed) } else { Ok(packet) });
        }
        if length < 28 {
            return Some(Err(Counter::DropMalformed));
        }
        match packet.protocol {
            TCP => {
                packet.kind = Kind::Tcp;
                packet.source_port = frame.u16(L4)?;
                packet.destination_port = frame.u16(L4 + 2)?;
                packet.header = (frame.u8(L4 + 12)? >> 4) << 2;
                packet.tcp_flags = frame.u8(L4 + 13)?;
                // The checksum must be there to be rewritten.
                frame.u16(L4 + 16)?;
                if packet.header < 20 || length < 20 + u16::from(packet.header) {
                    return Some(Err(Counter::DropMalformed));
                }
            }
            UDP => {
                packet.kind = Kind::Udp;
                packet.source_port = frame.u16(L4)?;
                packet.destination_port = frame.u16(L4 + 2)?;
                frame.u16(L4 + 6)?;
                if u16::from_be(frame.u16(L4 + 4)?) < 8 {
                    return Some(Err(Counter::DropMalformed));
                }
            }
            _ => {
                let id = frame.u16(L4 + 4)?;
                packet.kind = match frame.u8(L4)? {
                    8 => Kind::EchoRequest,
                    0 => Kind::EchoReply,
                    3 | 11 | 12 => Kind::IcmpError,
                    _ => Kind::IcmpOther,
                };
                match packet.kind {
                    Kind::EchoRequest => packet.source_port = id,
                    Kind::EchoReply => packet.destination_port = id,
                    _ => {}
                }
            }
        }
        Some(Ok(packet))
    }

    /// The key of its flow, if it comes from `zone`.
    #[inline(always)]
    pub const fn key(&self, zone: u8) -> FlowKey {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            zone,
            reserved: 0,
        }
    }
}
