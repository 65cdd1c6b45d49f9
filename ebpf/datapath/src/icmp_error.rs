//! ICMP errors about flows (RFC 792, RFC 4443; RFC 5508 section 4): they carry the head of the
//! packet that they are about, and are translated together with it.
//!
//! Other than of all other packets, their checksums are verified before: the message's own, and that
//! of the IPv4 header that they quote (RFC 5508 REQ-3). The transport checksum of what they quote is
//! not, as it is cut short mostly.

use portcullis_datapath_abi::{
    Counter, FlowKey, FlowKey6,
    flow::{FROM_ROUTER, ICMP, ICMPV6, TCP, TO_ROUTER, TRANSLATED, UDP},
    policy::ROUTER,
};

use crate::{
    Arrival, FlowRef, Kind, Tables, Verdict,
    checksum::add,
    flow::{find4, find6},
    frame::{Frame, IPV6, L3, L4},
    ingress::Cast,
    known::Transit,
    open::service_of,
    packet::{
        Fragment, Packet,
        icmp::{ECHO, ECHO_REPLY, TIMESTAMP, TIMESTAMP_REPLY},
    },
    packet6::{Packet6, walk},
    refresh::next_hop,
    verdict::Drop,
};

/// Offset of the quoted IPv4 header.
pub(crate) const INNER_L3: usize = L4 + 8;
/// Offset of the quoted transport header behind an IPv4 header.
pub(crate) const INNER_L4: usize = INNER_L3 + 20;

/// Stage [`crate::Stage::IcmpError`].
#[inline(always)]
pub fn icmp_error<'a, T: Tables, F: Summed>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
) -> Verdict<'a> {
    let Some(interface) = tables.interface(arrival.interface) else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    if arrival.cast != Cast::Host {
        return Verdict::Drop(Drop::from(Counter::DropMulticast, interface.zone));
    }
    if frame.u16(L3 - 2) == Some(IPV6) {
        error6(tables, frame, arrival, interface.zone)
    } else {
        error4(tables, frame, arrival, interface.zone)
    }
}

#[inline(always)]
fn error4<'a, T: Tables, F: Summed>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
    from: u8,
) -> Verdict<'a> {
    let packet = match Packet::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, from)),
    };
    let stray = Verdict::Drop(Drop::from(Counter::DropIcmp, from));
    let Some(config) = tables.config() else {
        return stray;
    };
    // The quoted header first: what is no error about a flow costs no sum over all of it.
    let Some(key) = key4(frame, &packet, from) else {
        return stray;
    };
    if !quotes_intact_header(frame) || !is_intact4(frame, &packet) {
        return stray;
    }
    match find4(tables, config, &key) {
        Some(flow) => {
            let transit = Transit { protocol: key.protocol, ..packet.transit() };
            about(tables, arrival, &transit, flow)
        }
        // Services of the router are not flows.
        None => {
            let ours = tables.is_local(packet.destination);
            let end = Service { ours, from, protocol: key.protocol, port: key.destination_port };
            about_service(tables, &end)
        }
    }
}

#[inline(always)]
fn error6<'a, T: Tables, F: Summed>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
    from: u8,
) -> Verdict<'a> {
    let packet = match Packet6::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, from)),
    };
    let stray = Verdict::Drop(Drop::from(Counter::DropIcmp, from));
    let Some(config) = tables.config() else {
        return stray;
    };
    let Some(key) = key6(frame, &packet, from) else {
        return stray;
    };
    if !is_intact6(frame, &packet) {
        return stray;
    }
    match find6(tables, config, &key) {
        Some(flow) => {
            let transit = Transit { protocol: key.protocol, ..packet.transit() };
            about(tables, arrival, &transit, flow)
        }
        None => {
            let ours = tables.is_local6(&packet.destination);
            let end = Service { ours, from, protocol: key.protocol, port: key.destination_port };
            about_service(tables, &end)
        }
    }
}

/// A frame whose bytes can be summed up. Only this stage needs that: all others change checksums by
/// differences.
pub trait Summed: Frame {
    /// One's complement sum of `length` bytes from `at` on, of 16-bit words as they stand; an odd byte
    /// at the end counts with a zero behind it. [`NO_SUM`] if they are not there, none or more than
    /// [`LONGEST`].
    fn sum(&self, at: u32, length: u32) -> u32;
}

/// Longest ICMP message that is summed up, in bytes. Errors are not longer than 576 bytes over IPv4
/// (RFC 1812 section 4.3.2.3) and 1280 over IPv6 (RFC 4443 section 2.4).
pub const LONGEST: u32 = 2048;
/// In the place of a sum.
pub const NO_SUM: u32 = u32::MAX;

/// The sum over words of which one is the checksum of the others.
const WHOLE: u16 = 0xffff;

/// Whether the ICMP checksum is right.
#[inline(always)]
fn is_intact4<F: Summed>(frame: &F, packet: &Packet) -> bool {
    let length = u32::from(packet.length).wrapping_sub((L4 - L3) as u32);
    frame.sum(L4 as u32, length) == u32::from(WHOLE)
}

/// Whether the checksum of the quoted IPv4 header, which has no options, is right.
#[inline(always)]
fn quotes_intact_header<F: Frame>(frame: &F) -> bool {
    let Some(head) = frame.head::<INNER_L4>() else {
        return false;
    };
    let [a, b, c] =
        [head.u32::<INNER_L3>(), head.u32::<{ INNER_L3 + 4 }>(), head.u32::<{ INNER_L3 + 8 }>()];
    let addresses = [head.u32::<{ INNER_L3 + 12 }>(), head.u32::<{ INNER_L3 + 16 }>()];
    add(total(&[a, b, c]), total(&addresses)) == WHOLE
}

/// Whether the ICMPv6 checksum is right (RFC 4443 section 2.3).
#[inline(always)]
fn is_intact6<F: Summed>(frame: &F, packet: &Packet6) -> bool {
    let at = u32::from(packet.transport);
    let length = (u32::from(packet.length) + L3 as u32).wrapping_sub(at);
    let sum = frame.sum(at, length);
    if sum == NO_SUM {
        return false;
    }
    let ends = add(total(&packet.source), total(&packet.destination));
    let rest = add((length as u16).to_be(), u16::from(ICMPV6).to_be());
    add(add(sum as u16, ends), rest) == WHOLE
}

/// One's complement sum of words.
#[inline(always)]
fn total<const N: usize>(words: &[u32; N]) -> u16 {
    let mut sum = 0;
    for word in words {
        sum = add(sum, add(*word as u16, (*word >> 16) as u16));
    }
    sum
}

/// An error about a flow; `flow` in the direction that the error travels in.
#[inline(always)]
fn about<'a, T: Tables>(
    tables: &'a T,
    arrival: &Arrival,
    packet: &Transit,
    flow: FlowRef<'a>,
) -> Verdict<'a> {
    let edit = packet.edit(flow);
    if flow.flags() & (TO_ROUTER | FROM_ROUTER) != 0 {
        return if flow.flags() & TRANSLATED != 0 {
            Verdict::Translate(Counter::RouterIcmpError, edit)
        } else {
            Verdict::Kernel(Counter::RouterIcmpError)
        };
    }
    let Some(config) = tables.config() else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let (from, to) = (flow.zone(packet.ipv6), flow.reverse().zone(packet.ipv6));
    // Never an error about an error (RFC 1122 section 3.2.2).
    if packet.ttl <= 1 {
        return Verdict::Drop(Drop::between(Counter::DropTtl, from, to));
    }
    let (hop, mtu) = match next_hop(tables, config, arrival, packet, flow) {
        Ok(found) => found,
        Err(Verdict::Answer(answer)) => return Verdict::Drop(answer.drop),
        Err(verdict) => return verdict,
    };
    if packet.length > mtu {
        return Verdict::Drop(Drop::between(Counter::DropTooBig, from, to));
    }
    Verdict::Forward(Counter::ForwardedIcmpError, edit, hop)
}

/// The end of the quoted packet that would be a service of the router.
struct Service {
    ours: bool,
    from: u8,
    protocol: u8,
    port: u16,
}

/// An error about what a service of the router sent (these are not flows).
#[inline(always)]
fn about_service<'a, T: Tables>(tables: &'a T, end: &Service) -> Verdict<'a> {
    let service = service_of(end.protocol, Kind::EchoReply, end.port);
    let reachable = tables.zone(end.from).is_some_and(|zone| zone.services & service != 0);
    if reachable && end.ours {
        Verdict::Kernel(Counter::RouterIcmpError)
    } else {
        Verdict::Drop(Drop::between(Counter::DropIcmp, end.from, ROUTER))
    }
}

/// The key of the flow direction that an error travels in when it is about the quoted packet: the
/// quoted packet with its ends exchanged. None if it quotes something else than a flow's packet.
#[inline(always)]
fn key4<F: Frame>(frame: &F, packet: &Packet, zone: u8) -> Option<FlowKey> {
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
                ECHO | TIMESTAMP => (id, 0),
                ECHO_REPLY | TIMESTAMP_REPLY => (0, id),
                _ => return None,
            }
        }
        // ESP, GRE and so on: a tunnel needs to know the MTU of its path.
        _ => (0, 0),
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

/// The same for ICMPv6.
#[inline(always)]
fn key6<F: Frame>(frame: &F, packet: &Packet6, zone: u8) -> Option<FlowKey6> {
    let inner = u32::from(packet.transport) + 8;
    let [version, _, _, _, _, _, next, _] = frame.copy::<8>(inner)?;
    if version >> 4 != 6 {
        return None;
    }
    let source = words(frame.copy::<16>(inner + 8)?);
    let destination = words(frame.copy::<16>(inner + 24)?);
    let chain = walk(frame, next, inner + 40).ok()?;
    if matches!(chain.fragment, Fragment::Later) {
        return None;
    }
    // As much of the transport header as ports or a query id take.
    let [a, b, c, d, e, f, ..] = frame.copy::<8>(chain.offset)?;
    let (source_port, destination_port) = match chain.protocol {
        TCP | UDP => (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])),
        ICMPV6 => {
            let id = u16::from_ne_bytes([e, f]);
            match a {
                128 => (id, 0),
                129 => (0, id),
                _ => return None,
            }
        }
        _ => (0, 0),
    };
    if source != packet.destination || chain.offset + 8 > u32::from(packet.length) + L3 as u32 {
        return None;
    }
    Some(FlowKey6 {
        source: destination,
        destination: source,
        source_port: destination_port,
        destination_port: source_port,
        protocol: chain.protocol,
        zone,
        peer_zone: 0,
        reserved: 0,
    })
}

#[inline(always)]
fn words(bytes: [u8; 16]) -> [u32; 4] {
    // SAFETY: plain bytes and integers of the same size.
    unsafe { core::mem::transmute(bytes) }
}
