//! Answers of the router to packets that it does not forward: ICMP errors (RFC 792, RFC 1812 section
//! 4.3, RFC 4443) and TCP resets (RFC 9293 section 3.10.7.1).
//!
//! An answer is made of the packet that it is about, before anything of that was changed, so it quotes
//! what its sender sent. It goes back by the interface and to the link-layer address that the packet
//! came from. [`prepare`] says whether and what to answer; the hook copies the head of the packet into
//! a [`Draft`], [`Order::write`] makes the answer of it, and the hook sends that.

mod draft;
mod icmp;
mod rate;
mod reset;

use portcullis_datapath_abi::{
    Interface,
    flow::{ICMPV6, TCP, UDP},
};

pub use draft::{CAPACITY, Draft, QUOTED4, QUOTED6};
use draft::{MAX_QUOTED4, MAX_QUOTED6};
use icmp::{Message, Quote};
use rate::admit;
pub use rate::{AnswerTables, RATES};
use reset::Reset;

use crate::{
    Arrival, Cast, Frame, Kind, Tables,
    frame::{IPV4, IPV6, L3, L4},
    packet::{Fragment, Packet},
    packet6::Packet6,
    tables::mapped,
    verdict::{Answer, AnswerKind},
};

impl Answer {
    /// What the next stage needs of it, in one word.
    #[inline(always)]
    pub const fn word(&self) -> u32 {
        self.kind as u32 | (self.mtu as u32) << 16
    }
}

/// An answer to be written. Plain data, all of it set from the beginning: the kernel's verifier wants
/// that of all that is kept over branches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// An ICMP error, if its type is not 0.
    message: Message,
    /// Else a reset.
    reset: Reset,
    /// Address of ours that an ICMP error comes from.
    source: [u32; 4],
    /// Whether it is over IPv6.
    pub ipv6: bool,
    /// Bytes of the packet, from its IP header on, that the draft must hold.
    pub quoted: u16,
    /// Where the transport header of the packet begins, from its IP header on.
    transport: u16,
    /// If the packet's checksum may have been left to the device: its offset in the transport header;
    /// else 0.
    checksum: u16,
}

/// Decides what to answer to a packet, by the [`Answer::word`] of the stage that dropped it, and puts
/// it into `order`. False: it must not be answered (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e),
/// or its sender has had enough answers.
#[inline(always)]
pub fn prepare<T: Tables, F: Frame>(
    tables: &T,
    frame: &F,
    arrival: &Arrival,
    word: u32,
    order: &mut Order,
) -> bool {
    // Whoever sends to a group is not told anything.
    if arrival.cast != Cast::Host {
        return false;
    }
    let Some(interface) = tables.interface(arrival.interface) else {
        return false;
    };
    match frame.u16(L3 - 2) {
        Some(IPV4) => prepare4(tables, frame, arrival, interface, word, order),
        Some(IPV6) => prepare6(tables, frame, arrival, word, order),
        _ => false,
    }
}

#[inline(always)]
fn prepare4<T: Tables, F: Frame>(
    tables: &T,
    frame: &F,
    arrival: &Arrival,
    interface: &Interface,
    word: u32,
    order: &mut Order,
) -> bool {
    let Ok(packet) = Packet::parse(frame, arrival.length) else {
        return false;
    };
    let packet = tables.settled(&packet);
    if !may_answer(packet.kind, packet.fragment) {
        return false;
    }
    if !is_host4(packet.source) || !is_host4(packet.destination) {
        return false;
    }
    let sender = mapped(packet.source);
    if !admit(tables, &sender) {
        return false;
    }
    order.ipv6 = false;
    order.quoted = shorter(packet.length, MAX_QUOTED4 as u16);
    order.transport = (L4 - L3) as u16;
    order.checksum = left_to_device(packet.protocol, packet.fragment);
    order.message = message(word, packet.kind, false);
    if order.message.kind == 0 {
        order.reset = Reset {
            flags: packet.tcp_flags,
            sequence: packet.sequence,
            acknowledged: packet.acknowledged,
            length: u32::from(packet.length).saturating_sub(20 + u32::from(packet.header)),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
        };
        return true;
    }
    if interface.nat_address != 0 {
        order.source = mapped(interface.nat_address);
        return true;
    }
    order.source = sender;
    tables.own_address(arrival.interface, false, &mut order.source)
}

#[inline(always)]
fn prepare6<T: Tables, F: Frame>(
    tables: &T,
    frame: &F,
    arrival: &Arrival,
    word: u32,
    order: &mut Order,
) -> bool {
    let Ok(packet) = Packet6::parse(frame, arrival.length) else {
        return false;
    };
    let packet = tables.settled(&packet);
    if !may_answer(packet.kind, packet.fragment) {
        return false;
    }
    if !is_host6(&packet.source) || !is_host6(&packet.destination) {
        return false;
    }
    if !admit(tables, &packet.source) {
        return false;
    }
    let headers = packet.transport.saturating_sub(L3 as u16);
    order.ipv6 = true;
    order.quoted = shorter(packet.length, MAX_QUOTED6 as u16);
    order.transport = headers;
    order.checksum = left_to_device(packet.protocol, packet.fragment);
    order.message = message(word, packet.kind, true);
    if order.message.kind == 0 {
        order.reset = Reset {
            flags: packet.tcp_flags,
            sequence: packet.sequence,
            acknowledged: packet.acknowledged,
            length: u32::from(packet.length)
                .saturating_sub(u32::from(headers) + u32::from(packet.header)),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
        };
        return true;
    }
    order.source = packet.source;
    tables.own_address(arrival.interface, true, &mut order.source)
}

/// Errors and later fragments are not answered. Of other ICMP only requests are.
#[inline(always)]
fn may_answer(kind: Kind, fragment: Fragment) -> bool {
    if matches!(fragment, Fragment::Later) {
        return false;
    }
    matches!(kind, Kind::Udp | Kind::Tcp | Kind::EchoRequest | Kind::EchoReply | Kind::Other)
}

/// The ICMP error to send; one of type 0 for a TCP reset instead.
#[inline(always)]
fn message(word: u32, kind: Kind, ipv6: bool) -> Message {
    const TIME_EXCEEDED: u32 = AnswerKind::TimeExceeded as u32;
    const TOO_BIG: u32 = AnswerKind::TooBig as u32;
    const NO_ROUTE: u32 = AnswerKind::NoRoute as u32;
    const PROHIBITED: u32 = AnswerKind::Prohibited as u32;
    let mtu = (word >> 16) as u16;
    let (kind, code) = match (word & 0xff, ipv6) {
        (TIME_EXCEEDED, false) => (11, 0),
        (TIME_EXCEEDED, true) => (3, 0),
        (TOO_BIG, false) => (3, 4),
        (TOO_BIG, true) => (2, 0),
        (NO_ROUTE, false) => (3, 0),
        (NO_ROUTE, true) => (1, 0),
        (PROHIBITED, false) => (3, 13),
        (PROHIBITED, true) => (1, 1),
        // Refused by the policy. Programs take a reset or port unreachable for "connection refused"
        // and give up at once; communication prohibited is for what has no ports.
        _ if kind == Kind::Tcp => (0, 0),
        (_, false) if kind == Kind::Udp => (3, 3),
        (_, true) if kind == Kind::Udp => (1, 4),
        (_, false) => (3, 13),
        (_, true) => (1, 1),
    };
    Message { kind, code, mtu }
}

/// Where in the transport header a checksum stands that the sender may have left to its device, 0 for
/// none: there are such packets from hosts on this machine (containers, guests) and from drivers that
/// join segments. They are never fragments.
#[inline(always)]
fn left_to_device(protocol: u8, fragment: Fragment) -> u16 {
    if !matches!(fragment, Fragment::Whole) {
        return 0;
    }
    match protocol {
        TCP => 16,
        UDP => 6,
        ICMPV6 => 2,
        _ => 0,
    }
}

#[inline(always)]
const fn shorter(a: u16, b: u16) -> u16 {
    if a < b { a } else { b }
}

/// Whether an address is one host's: not "this network", loopback, multicast, reserved or broadcast.
#[inline(always)]
fn is_host4(address: u32) -> bool {
    let [first, ..] = address.to_ne_bytes();
    first != 0 && first != 127 && first < 224
}

/// The same: not unspecified, loopback or multicast.
#[inline(always)]
fn is_host6(address: &[u32; 4]) -> bool {
    let [a, b, c, d] = *address;
    let [first, ..] = a.to_ne_bytes();
    let low = u32::from_be(d);
    first != 0xff && (a | b | c != 0 || low > 1)
}

impl Order {
    /// If the packet's checksum may have been left to the device: where that ends in the frame.
    #[inline(always)]
    pub fn checksum_end(&self) -> Option<u32> {
        if self.checksum == 0 {
            return None;
        }
        Some(L3 as u32 + u32::from(self.transport) + u32::from(self.checksum) + 2)
    }

    /// How many bytes are put before the quoted packet, so that this keeps its place in the buffer; 0
    /// if the answer replaces the packet.
    #[inline(always)]
    pub fn prepended(&self) -> u32 {
        match (self.message.kind, self.ipv6) {
            (0, _) => 0,
            (_, false) => (QUOTED4 - L3) as u32,
            (_, true) => (QUOTED6 - L3) as u32,
        }
    }

    /// Writes the answer into a draft that holds the Ethernet header at 0 and [`Self::quoted`] bytes of
    /// the packet at [`QUOTED4`] or [`QUOTED6`]. `partial`: the packet's checksum was left to the
    /// device. Returns the length of the frame in bytes; `None` if there is nothing to send.
    #[inline(always)]
    pub fn write(&self, draft: &mut Draft, partial: bool) -> Option<usize> {
        if self.message.kind != 0 {
            let quote = Quote {
                length: usize::from(self.quoted),
                transport: usize::from(self.transport),
                checksum: if partial { usize::from(self.checksum) } else { 0 },
            };
            let [.., source] = self.source;
            return Some(if self.ipv6 {
                icmp::icmp6(draft, self.message, self.source, quote)
            } else {
                icmp::icmp4(draft, self.message, source, quote)
            });
        }
        // The device completes the checksum where it was to be in the packet; behind extension headers
        // that is not where the reset has it.
        let plain = if self.ipv6 { 40 } else { 20 };
        if partial && self.transport != plain {
            return None;
        }
        if self.ipv6 {
            reset::reset6(draft, &self.reset, partial)
        } else {
            reset::reset4(draft, &self.reset, partial)
        }
    }
}
