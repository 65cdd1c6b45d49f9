//! Reading an IPv4 packet: Ethernet, IPv4 without options, and as much of TCP, UDP and ICMP as flows
//! need.

use portcullis_datapath_abi::{
    Counter, FlowKey,
    flow::{ICMP, TCP, UDP},
};

use crate::frame::{Frame, L3, L4};

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
    /// ICMP echo or timestamp request; the query id is the source port.
    EchoRequest,
    /// ICMP echo or timestamp reply; the query id is the destination port.
    EchoReply,
    /// ICMP destination unreachable, time exceeded or parameter problem (RFC 792), ICMPv6 packet too
    /// big too (RFC 4443).
    IcmpError,
    /// Other ICMP.
    IcmpOther,
    /// IPv6 neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810).
    Link,
    /// A protocol without ports that we know: both are 0.
    Other,
    /// A later fragment of any of these, without header.
    Fragment,
}

/// Types of ICMP queries (RFC 792): those that are forwarded (RFC 5508 REQ-10).
pub mod icmp {
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Its reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Timestamp request, with the query id in the same place.
    pub const TIMESTAMP: u8 = 13;
    /// Its reply.
    pub const TIMESTAMP_REPLY: u8 = 14;
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

    /// End of the options.
    pub const OPTION_END: u8 = 0;
    /// Padding.
    pub const OPTION_NOTHING: u8 = 1;
    /// Maximum segment size (RFC 9293 section 3.7.1).
    pub const OPTION_MSS: u8 = 2;
    /// Window scale (RFC 7323).
    pub const OPTION_SCALE: u8 = 3;
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
    /// Type and code of ICMP.
    pub icmp: [u8; 2],
    /// Place in its datagram.
    pub fragment: Fragment,
    /// Kind.
    pub kind: Kind,
    /// TCP: sequence number, host byte order.
    pub sequence: u32,
    /// TCP: acknowledgement number, host byte order.
    pub acknowledged: u32,
    /// TCP: window as in the header, host byte order.
    pub window: u16,
}

impl Packet {
    const EMPTY: Self = Self {
        source: 0,
        destination: 0,
        source_port: 0,
        destination_port: 0,
        id: 0,
        length: 0,
        protocol: 0,
        ttl: 0,
        tos: 0,
        dont_fragment: false,
        tcp_flags: 0,
        header: 0,
        icmp: [0, 0],
        fragment: Fragment::Whole,
        kind: Kind::Other,
        sequence: 0,
        acknowledged: 0,
        window: 0,
    };

    /// Reads the IPv4 packet in a frame of which `available` bytes are behind the Ethernet header.
    ///
    /// # Errors
    /// The reason to drop it for.
    #[inline(always)]
    pub fn parse<F: Frame>(frame: &F, available: u32) -> Result<Self, Counter> {
        // Set from the beginning: of an enumeration of packet and error the kernel's verifier would find
        // bytes that are not.
        let mut packet = Self::EMPTY;
        match packet.read(frame, available) {
            Some(None) => Ok(packet),
            Some(Some(reason)) => Err(reason),
            None => Err(Counter::DropMalformed),
        }
    }

    /// The reason to drop it for; `None` if the frame ends too early.
    #[inline(always)]
    fn read<F: Frame>(&mut self, frame: &F, available: u32) -> Option<Option<Counter>> {
        let packet = self;
        let version = frame.u8(L3)?;
        if version != 0x45 {
            let options = version >> 4 == 4 && version & 15 > 5;
            return Some(Some(if options { Counter::DropOptions } else { Counter::DropMalformed }));
        }
        let head = frame.head::<L4>()?;
        let length = u16::from_be(head.u16::<{ L3 + 2 }>());
        if length < 28 || u32::from(length) > available {
            // The shortest thing that passes is a UDP or ICMP header; the last fragment of a
            // datagram may be shorter.
            if length <= 20 || u32::from(length) > available {
                return Some(Some(Counter::DropMalformed));
            }
        }
        let fragment_word = u16::from_be(head.u16::<{ L3 + 6 }>());
        let offset = fragment_word & 0x1fff;
        let fragment = if offset != 0 {
            Fragment::Later
        } else if fragment_word & 0x2000 != 0 {
            Fragment::First
        } else {
            Fragment::Whole
        };
        *packet = Self {
            source: head.u32::<{ L3 + 12 }>(),
            destination: head.u32::<{ L3 + 16 }>(),
            source_port: 0,
            destination_port: 0,
            id: head.u16::<{ L3 + 4 }>(),
            length,
            protocol: head.u8::<{ L3 + 9 }>(),
            ttl: head.u8::<{ L3 + 8 }>(),
            tos: head.u8::<{ L3 + 1 }>(),
            dont_fragment: fragment_word & 0x4000 != 0,
            tcp_flags: 0,
            header: 8,
            icmp: [0, 0],
            fragment,
            kind: Kind::Fragment,
            sequence: 0,
            acknowledged: 0,
            window: 0,
        };
        if matches!(fragment, Fragment::Later) {
            // A fragment at offset 8 would overwrite the TCP flags behind the ports (RFC 3128).
            let overlaps = packet.protocol == TCP && offset == 1;
            return Some(overlaps.then_some(Counter::DropMalformed));
        }
        if !matches!(packet.protocol, TCP | UDP | ICMP) {
            packet.kind = Kind::Other;
            packet.header = 0;
            return Some(None);
        }
        if length < 28 {
            return Some(Some(Counter::DropMalformed));
        }
        match packet.protocol {
            TCP => {
                packet.kind = Kind::Tcp;
                // With the checksum, which must be there to be rewritten.
                let head = frame.head::<{ L4 + 18 }>()?;
                packet.source_port = head.u16::<L4>();
                packet.destination_port = head.u16::<{ L4 + 2 }>();
                packet.header = (head.u8::<{ L4 + 12 }>() >> 4) << 2;
                packet.tcp_flags = head.u8::<{ L4 + 13 }>();
                packet.sequence = u32::from_be(head.u32::<{ L4 + 4 }>());
                packet.acknowledged = u32::from_be(head.u32::<{ L4 + 8 }>());
                packet.window = u16::from_be(head.u16::<{ L4 + 14 }>());
                if packet.header < 20 || length < 20 + u16::from(packet.header) {
                    return Some(Some(Counter::DropMalformed));
                }
            }
            UDP => {
                packet.kind = Kind::Udp;
                let head = frame.head::<{ L4 + 8 }>()?;
                packet.source_port = head.u16::<L4>();
                packet.destination_port = head.u16::<{ L4 + 2 }>();
                if u16::from_be(head.u16::<{ L4 + 4 }>()) < 8 {
                    return Some(Some(Counter::DropMalformed));
                }
            }
            _ => {
                let id = frame.u16(L4 + 4)?;
                packet.icmp = [frame.u8(L4)?, frame.u8(L4 + 1)?];
                let [kind, _] = packet.icmp;
                packet.kind = match kind {
                    icmp::ECHO | icmp::TIMESTAMP => Kind::EchoRequest,
                    icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY => Kind::EchoReply,
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
        Some(None)
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

    /// Ports as the policy is asked about them: of ICMP, type and code in the place of the
    /// destination port.
    #[inline(always)]
    pub(crate) const fn asked_ports(&self) -> (u16, u16) {
        match self.protocol {
            ICMP => (0, u16::from_ne_bytes(self.icmp)),
            _ => (self.source_port, self.destination_port),
        }
    }
}
