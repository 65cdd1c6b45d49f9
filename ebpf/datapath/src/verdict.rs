//! What is to happen to a packet.

use portcullis_datapath_abi::{Counter, stage};

use crate::{FlowRef, Kind, fragments::Ends, hold::Slot};

/// A decision. The packet is unchanged until [`crate::rewrite`] carries out the edit.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// On through the kernel's own stack, unmodified.
    Kernel(Counter),
    /// On through the kernel's own stack, translated.
    Translate(Counter, Edit<'a>),
    /// Out by another interface, translated, TTL decremented.
    Forward(Counter, Edit<'a>, Hop),
    /// Dropped without an answer.
    Drop(Drop),
    /// Dropped, and the router answers.
    Answer(Answer),
    /// A fragment that came before the first one of its datagram: kept until that one comes.
    Hold(Slot),
    /// Another stage decides; it reads the packet anew.
    Next(Stage),
    /// The same about a fragment whose ports are known now.
    Located(Stage, Ends),
    /// Larger than the next link, of this MTU, and its sender allows that it is cut.
    Cut(u16),
    /// XDP cannot do it: unmodified to the tcx hook of the same device, which decides again.
    Defer,
}

/// Why and between which zones a packet is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drop {
    /// The reason.
    pub counter: Counter,
    /// Zone that it came from; [`Drop::UNKNOWN`].
    pub from: u8,
    /// Zone that it would have gone to; [`Drop::UNKNOWN`].
    pub to: u8,
}

impl Drop {
    /// Not found out before the packet was dropped.
    pub const UNKNOWN: u8 = 0xff;

    /// From a zone to one that does not matter to the reason.
    #[inline(always)]
    pub const fn from(counter: Counter, from: u8) -> Self {
        Self { counter, from, to: Self::UNKNOWN }
    }

    /// Between two zones.
    #[inline(always)]
    pub const fn between(counter: Counter, from: u8, to: u8) -> Self {
        Self { counter, from, to }
    }
}

/// What the router answers to a packet that it drops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Why and between which zones the packet is dropped.
    pub drop: Drop,
    /// What is answered.
    pub kind: AnswerKind,
    /// MTU of the next link, for [`AnswerKind::TooBig`]; 0 for others.
    pub mtu: u16,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum AnswerKind {
    /// ICMP time exceeded in transit.
    TimeExceeded = 1,
    /// ICMP fragmentation needed, ICMPv6 packet too big.
    TooBig = 2,
    /// ICMP network unreachable, ICMPv6 no route.
    NoRoute = 3,
    /// A TCP reset, for UDP ICMP port unreachable, to others communication administratively prohibited.
    Refused = 4,
    /// ICMP communication administratively prohibited: a flow that the policy allows cannot be made for
    /// want of room or ports (RFC 5508 REQ-8).
    Prohibited = 5,
}

/// Programs of a hook. Each has a stack of its own; one calls the next by its number and does not
/// return.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum Stage {
    /// Where the hook begins: carries packets of known flows.
    Entry = stage::ENTRY,
    /// IPv4 packets of known flows with which there is more to do, and ICMP.
    Flow4 = stage::FLOW4,
    /// The same for IPv6, and packets with extension headers.
    Flow6 = stage::FLOW6,
    /// IPv4 packets of known flows whose next hop must be looked up.
    Refresh4 = stage::REFRESH4,
    /// The same for IPv6.
    Refresh6 = stage::REFRESH6,
    /// IPv4 packets of no known flow.
    Open4 = stage::OPEN4,
    /// IPv6 packets of no known flow.
    Open6 = stage::OPEN6,
    /// What the policy says about a first packet.
    Rule = stage::RULE,
    /// Making an IPv4 flow.
    Create4 = stage::CREATE4,
    /// Making an IPv6 flow.
    Create6 = stage::CREATE6,
    /// ICMP errors of both families.
    IcmpError = stage::ICMP_ERROR,
    /// IPv4 fragments.
    Fragment4 = stage::FRAGMENT4,
    /// IPv6 fragments.
    Fragment6 = stage::FRAGMENT6,
    /// Answers of the router: ICMP errors, TCP resets.
    Answer = stage::ANSWER,
    /// First packets of the router's own flows (egress).
    Depart = stage::DEPART,
    /// Sources that must prove that they exist, see [`crate::guard`].
    Challenge = stage::CHALLENGE,
}

/// What to change: the packet's addresses and ports, or, if it is an ICMP error, its addresses and
/// those of the packet that it quotes. Small on purpose: it lives on the stack of the kernel's
/// program, which is short.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// The flow, in the direction that the packet travels in.
    pub flow: FlowRef<'a>,
    /// The packet's kind.
    pub kind: Kind,
    /// The packet's TTL or hop limit.
    pub ttl: u8,
    /// Protocol of the flow.
    pub protocol: u8,
    /// UDP or TCP behind a header without options or extensions, to be sent on by a cached next hop.
    pub plain: bool,
    /// IPv6: nothing is translated.
    pub ipv6: bool,
    /// Length of the datagram in bytes.
    pub length: u16,
    /// Offset of the transport header in the frame.
    pub transport: u16,
    /// Largest MSS that a SYN may announce; 0 for any.
    pub mss: u16,
}

/// Where to send.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Device.
    pub egress: u32,
    /// Its flags, [`portcullis_datapath_abi::policy::XDP_TRANSMIT`].
    pub link: u8,
    /// Whether the MAC addresses cached in the flow are good; else the kernel is to resolve
    /// `next_hop`.
    pub cached: bool,
    /// Address of the next hop, IPv4 as ::ffff:a.b.c.d.
    pub next_hop: [u32; 4],
}
