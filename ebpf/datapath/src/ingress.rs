//! Packets that arrive at an interface.

use portcullis_datapath_abi::{
    Counter, FlowKey,
    flow::{ACK, FIN, LOCAL, ORIGINAL, RST, SYN},
};

use crate::{
    Edit, FlowRef, Frame, Hop, Kind, L3, Packet, RouteQuery, Tables, Verdict, fragments,
    icmp_error, ipv6,
    open::{self, Outcome},
    packet::{IPV4, IPV6, tcp},
};

/// To whom the link layer says that a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cast {
    /// This host.
    Host,
    /// A broadcast or multicast address.
    Group,
}

/// What surrounds an arriving packet.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Interface that it came in by.
    pub interface: u32,
    /// Link-layer destination.
    pub cast: Cast,
    /// Bytes behind the Ethernet header.
    pub length: u32,
    /// Segments that were aggregated into it (GRO); 1 for a plain packet.
    pub segments: u32,
    /// Payload of one of these segments in bytes; 0 for a plain packet.
    pub segment_size: u32,
}

/// Decides about an arriving frame.
#[inline(always)]
pub fn ingress<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
) -> Verdict<'a> {
    let Some(interface) = tables.interface(arrival.interface) else {
        return match frame.u16(L3 - 2) {
            Some(IPV4 | IPV6) => Verdict::Drop(Counter::DropInterface),
            _ => Verdict::Kernel(Counter::LinkLayer),
        };
    };
    let zone = interface.zone;
    match frame.u16(L3 - 2) {
        Some(IPV4) => {}
        Some(IPV6) => {
            return match tables.zone(zone) {
                Some(zone) => ipv6::decide(frame, zone),
                None => Verdict::Drop(Counter::DropInterface),
            };
        }
        Some(_) => return Verdict::Kernel(Counter::LinkLayer),
        None => return Verdict::Drop(Counter::DropMalformed),
    }
    let mut packet = match Packet::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(reason),
    };
    if !fragments::complete(tables, &mut packet, zone) {
        return Verdict::Drop(Counter::DropFragment);
    }
    // An ICMP error belongs to the flow of the packet that it quotes.
    let error = packet.kind == Kind::IcmpError;
    let key = if error {
        match icmp_error::key(frame, &packet, zone) {
            Some(key) => key,
            None => return Verdict::Drop(Counter::DropIcmp),
        }
    } else {
        packet.key(zone)
    };
    let known = if arrival.cast == Cast::Host { tables.flow(&key) } else { None };
    let flow = match known {
        Some(flow) => flow,
        None if error => return icmp_error::about_service(tables, &packet, &key),
        None => match open::decide(tables, arrival, &packet, &key) {
            // None: removed in the same instant.
            Outcome::Opened => match tables.flow(&key) {
                Some(flow) => flow,
                None => return Verdict::Drop(Counter::DropFull),
            },
            Outcome::Kernel(reason) => return Verdict::Kernel(reason),
            Outcome::Drop(reason) => return Verdict::Drop(reason),
        },
    };
    let edit = Edit {
        flow,
        kind: packet.kind,
        ttl: packet.ttl,
        protocol: key.protocol,
        length: packet.length,
    };
    if flow.flags() & LOCAL != 0 {
        let counter = if error {
            Counter::RouterIcmpError
        } else {
            note(tables, arrival, &packet, &key, flow);
            Counter::RouterFlow
        };
        return if flow.translates(&key) {
            Verdict::Translate(counter, edit)
        } else {
            Verdict::Kernel(counter)
        };
    }
    let (hop, mtu) = match next_hop(tables, arrival.interface, &packet, &key, flow) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    // The kernel answers with an ICMP error, if it sees the addresses that the sender used (a
    // packet whose destination is translated it would take for its own) and if it may: never to an
    // error (RFC 1122 section 3.2.2).
    let answers = !error && flow.destination() == key.destination;
    if packet.ttl <= 1 {
        return if answers {
            Verdict::Kernel(Counter::RouterAnswers)
        } else {
            Verdict::Drop(Counter::DropTtl)
        };
    }
    if wire_length(&packet, arrival) > u32::from(mtu) {
        return if answers && packet.dont_fragment {
            Verdict::Kernel(Counter::RouterAnswers)
        } else {
            Verdict::Drop(Counter::DropTooBig)
        };
    }
    if error {
        return Verdict::Forward(Counter::ForwardedIcmpError, edit, hop);
    }
    note(tables, arrival, &packet, &key, flow);
    Verdict::Forward(Counter::Forwarded, edit, hop)
}

/// Notes in the flow that a packet of it passes.
#[inline(always)]
fn note<T: Tables>(
    tables: &T,
    arrival: &Arrival,
    packet: &Packet,
    key: &FlowKey,
    flow: FlowRef<'_>,
) {
    note_tcp(tables, packet, key, flow);
    flow.count(arrival.segments, arrival.length, tables.now());
    fragments::remember(tables, packet, key.zone);
}

/// Length of the largest packet that leaves: of one segment, if the frame is an aggregate.
#[inline(always)]
pub(crate) fn wire_length(packet: &Packet, arrival: &Arrival) -> u32 {
    if arrival.segment_size != 0 {
        20 + u32::from(packet.header) + arrival.segment_size
    } else {
        u32::from(packet.length)
    }
}

/// The way out and its MTU: from the flow's cache while that is current, else looked up.
///
/// After a lookup the kernel resolves the neighbour for this one packet even if it is known: that
/// is what keeps its reachability confirmed when all other packets pass the kernel by.
#[inline(always)]
fn next_hop<T: Tables>(
    tables: &T,
    interface: u32,
    packet: &Packet,
    key: &FlowKey,
    flow: FlowRef<'_>,
) -> Result<(Hop, u16), Counter> {
    let generation = tables.generation();
    if flow.generation() == generation && generation != 0 {
        return Ok((Hop { egress: flow.egress(), next_hop: 0 }, flow.mtu()));
    }
    let query = RouteQuery {
        interface,
        source: key.source,
        destination: flow.destination(),
        protocol: packet.protocol,
        tos: packet.tos,
    };
    let route = tables.route(&query).ok_or(Counter::DropRoute)?;
    let leaves_as_agreed = tables.interface(route.egress).is_some_and(|egress| {
        egress.zone == flow.peer_zone()
            && (flow.source() == key.source || egress.nat_address == flow.source())
    });
    if !leaves_as_agreed {
        // The next packet of the initiator makes a new flow for the new way.
        if flow.flags() & ORIGINAL != 0 {
            remove(tables, key, flow);
        }
        return Err(Counter::DropMoved);
    }
    if route.resolved {
        flow.cache(route.egress, route.mtu, route.macs, generation);
    }
    Ok((Hop { egress: route.egress, next_hop: route.next_hop }, route.mtu))
}

// The functions below are rare and not inlined: each has a frame of its own on the kernel's short
// stack.

#[inline(never)]
fn remove<T: Tables>(tables: &T, key: &FlowKey, flow: FlowRef<'_>) {
    tables.remove(&flow.peer_key(key));
    tables.remove(key);
}

/// Notes TCP flags in the entry of their direction; user space puts both directions together when
/// it ages flows. A SYN on a closed connection opens a new one.
#[inline(always)]
pub(crate) fn note_tcp<T: Tables>(tables: &T, packet: &Packet, key: &FlowKey, flow: FlowRef<'_>) {
    if packet.kind != Kind::Tcp {
        return;
    }
    let flags = packet.tcp_flags;
    let mut seen = flow.seen();
    let before = seen;
    if flags & tcp::SYN != 0 {
        if flags & tcp::ACK == 0 && reopen(tables, key, flow) {
            seen = 0;
        }
        seen |= SYN;
    } else if flags & tcp::ACK != 0 {
        seen |= ACK;
    }
    if flags & tcp::FIN != 0 {
        seen |= FIN;
    }
    if flags & tcp::RST != 0 {
        seen |= RST;
    }
    if seen != before {
        flow.set_seen(seen);
    }
}

/// Forgets the state of a connection that was closed; false if it is not.
#[inline(never)]
fn reopen<T: Tables>(tables: &T, key: &FlowKey, flow: FlowRef<'_>) -> bool {
    match tables.flow(&flow.peer_key(key)) {
        Some(peer) if (flow.seen() | peer.seen()) & (FIN | RST) != 0 => {
            peer.set_seen(0);
            true
        }
        _ => false,
    }
}
