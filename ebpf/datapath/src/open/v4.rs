//! IPv4 packets of no known flow.

use portcullis_datapath_abi::{
    Config, Counter,
    flow::{ICMP, LOGGED, TO_ROUTER},
    policy::{DHCP, ROUTER, XDP_TRANSMIT},
};

use super::{
    candidate::{Candidate, PLAIN, RESOLVED, SERVICE},
    dhcp_client_keys, flood_class, is_dhcp_request, is_left_to_tcx, is_reset, link_source, opens,
    path::PathKey,
    service_of,
};
use crate::{
    Arrival, Cast, Hook, Kind, NextHop, RouteQuery, Stage, Tables, Verdict,
    classify::has_rules,
    flow::find4,
    frame::Frame,
    guard::{Admission, Visitor, admit, asks_proof, uncount},
    known::wire_length,
    nat::{Exit, Inbound, Inside, inbound},
    packet::{Fragment, Packet, icmp},
    tables::mapped,
    verdict::{Answer, AnswerKind, Drop},
};

/// Stage [`Stage::Open4`].
#[inline(always)]
pub fn open4<'a, T: Tables, F: Frame>(tables: &'a T, frame: &F, arrival: &Arrival) -> Verdict<'a> {
    let (Some(config), Some(interface)) = (tables.config(), tables.interface(arrival.interface))
    else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let from = interface.zone;
    let packet = match Packet::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, from)),
    };
    if matches!(packet.fragment, Fragment::Later) {
        return Verdict::Drop(Drop::from(Counter::DropFragment, from));
    }
    let packet = &packet;
    let (source, destination) = (mapped(packet.source), mapped(packet.destination));
    let visitor = Visitor {
        zone: from,
        source: &source,
        destination: &destination,
        class: flood_class(packet.kind),
    };
    if let Admission::Refused(reason) = admit(tables, &visitor) {
        return Verdict::Drop(Drop::from(reason, from));
    }
    let verdict = admitted(tables, config, frame, arrival, packet, from);
    if arrival.hook == Hook::Xdp && is_left_to_tcx(&verdict) {
        uncount(tables, &visitor);
        return Verdict::Defer;
    }
    verdict
}

/// Whom a packet is for that the guard lets in, and the way there.
#[inline(always)]
fn admitted<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    arrival: &Arrival,
    packet: &Packet,
    from: u8,
) -> Verdict<'a> {
    if arrival.cast == Cast::Group || is_group(packet.destination) {
        return to_router(tables, config, frame, arrival, packet);
    }
    let Some(candidate) = tables.candidate() else {
        return Verdict::Drop(Drop::from(Counter::DropStage, from));
    };
    propose(candidate, frame, packet, from);
    let generation = config.generation;
    let key = PathKey::of(packet, arrival, generation);
    let Some(path) = tables.path(key.slot()) else {
        return Verdict::Drop(Drop::from(Counter::DropStage, from));
    };
    if path.take(&key, candidate) {
        if let Some(verdict) = unproven(tables, packet, from) {
            return verdict;
        }
        return ready(arrival, packet, candidate);
    }
    match inbound(tables, config, &packet.key(from)) {
        Inbound::Inside(inside) => enter(candidate, packet, &inside),
        Inbound::Direct if !tables.is_local(packet.destination) => {}
        Inbound::Direct | Inbound::ToRouter => {
            return to_router(tables, config, frame, arrival, packet);
        }
    }
    if !may_be_end(packet.source)
        || !may_be_end(packet.destination)
        || tables.is_local(packet.source)
    {
        return Verdict::Drop(Drop::from(Counter::DropMartian, from));
    }
    if let Some(verdict) = unproven(tables, packet, from) {
        return verdict;
    }
    through(tables, arrival, packet, candidate, generation)
}

/// What becomes of a packet that may not be the first of a flow.
#[inline(always)]
fn unproven<'a, T: Tables>(tables: &T, packet: &Packet, from: u8) -> Option<Verdict<'a>> {
    if is_reset(packet.kind, packet.tcp_flags) && asks_proof(tables, from) {
        return Some(Verdict::Next(Stage::Challenge));
    }
    match opens(packet.kind, packet.tcp_flags) {
        Ok(()) => None,
        Err(reason) => Some(Verdict::Drop(Drop::from(reason, from))),
    }
}

/// On to the policy, with the way out in the candidate.
#[inline(always)]
fn ready<'a>(arrival: &Arrival, packet: &Packet, candidate: &Candidate) -> Verdict<'a> {
    candidate.length.set(wire_length(&packet.transit(), arrival));
    let facts = candidate.facts.get();
    // What XDP cannot send it leaves to tcx, which finds the flow.
    let sends = arrival.hook != Hook::Xdp || candidate.hop.get().link & XDP_TRANSMIT != 0;
    let whole = packet.kind == Kind::Udp && matches!(packet.fragment, Fragment::Whole);
    if whole && sends && facts & RESOLVED != 0 {
        candidate.segments.set(arrival.segments);
        candidate.bytes.set(u32::from(packet.length));
        candidate.facts.set(facts | PLAIN);
    }
    Verdict::Next(Stage::Rule)
}

/// What is the same for packets through the router and to it.
#[inline(always)]
fn propose<F: Frame>(candidate: &Candidate, frame: &F, packet: &Packet, from: u8) {
    let (source_port, destination_port) = packet.asked_ports();
    candidate.source.set(mapped(packet.source));
    candidate.destination.set(mapped(packet.destination));
    candidate.key.set(packet.key(from));
    candidate.asked.set([source_port, destination_port]);
    candidate.port.set(packet.destination_port);
    candidate.mac.set(link_source(frame));
    candidate.ttl.set(packet.ttl);
    candidate.facts.set(0);
    candidate.flags.set(0);
    candidate.inside.set(0);
}

/// A packet for a host inside. Put down at once: a value that may or may not be there is one that the
/// kernel's verifier does not let be kept.
#[inline(always)]
fn enter(candidate: &Candidate, packet: &Packet, inside: &Inside) {
    candidate.destination.set(mapped(inside.destination));
    candidate.port.set(inside.port);
    candidate.inside.set(inside.flags | TRANSLATED);
    candidate.exit.set(inside.exit);
    if packet.protocol != ICMP {
        candidate.asked.set([packet.source_port, inside.port]);
    }
    if inside.flags & Inside::LOG != 0 {
        candidate.flags.set(LOGGED);
    }
}

/// In [`Candidate::inside`], beside the flags of [`Inside`]: the packet is for a host inside.
const TRANSLATED: u8 = 128;

/// A packet for somebody else: whom it names, or a host inside.
#[inline(always)]
fn through<'a, T: Tables>(
    tables: &'a T,
    arrival: &Arrival,
    packet: &Packet,
    candidate: &Candidate,
    generation: u32,
) -> Verdict<'a> {
    let from = candidate.from();
    let query = RouteQuery {
        interface: arrival.interface,
        source: candidate.source.get(),
        destination: candidate.destination.get(),
        protocol: packet.protocol,
        tos: packet.tos,
        ipv6: false,
    };
    let Some(route) = tables.route(&query) else {
        let drop = Drop::from(Counter::DropRoute, from);
        return Verdict::Answer(Answer { drop, kind: AnswerKind::NoRoute, mtu: 0 });
    };
    let Some(egress) = tables.interface(route.egress) else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, from));
    };
    let Some(zone) = tables.zone(egress.zone) else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, from));
    };
    candidate.to.set(egress.zone);
    candidate.hop.set(route.hop(egress));
    if route.resolved {
        candidate.facts.set(RESOLVED);
    }
    let direct = candidate.inside.get() & TRANSLATED == 0;
    // Back into its own zone, it has the source that its answer finds the way back by.
    if direct || from != egress.zone {
        candidate.exit.set(Exit::by(egress, zone));
    }
    let key = PathKey::of(packet, arrival, generation);
    if direct
        && route.resolved
        && let Some(path) = tables.path(key.slot())
    {
        path.keep(&key, candidate);
    }
    ready(arrival, packet, candidate)
}

/// A packet for the router itself.
#[inline(always)]
fn to_router<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    arrival: &Arrival,
    packet: &Packet,
) -> Verdict<'a> {
    // A subnet's broadcast, whichever way it came (RFC 1812 section 5.3.5.2): it is for no host, nor forwarded.
    let group = arrival.cast == Cast::Group
        || is_group(packet.destination)
        || tables.is_broadcast(packet.destination);
    let (Some(interface), Some(candidate)) =
        (tables.interface(arrival.interface), tables.candidate())
    else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let from = interface.zone;
    let refused = |reason| Verdict::Drop(Drop::between(reason, from, ROUTER));
    // The answer that a DHCP client of the router waits for.
    if is_dhcp_request(packet.protocol, packet.destination_port, packet.source_port) {
        let (_, reply) = dhcp_client_keys(arrival.interface, from);
        return match find4(tables, config, &reply) {
            Some(flow) => {
                flow.count(1, arrival.length, tables.now());
                Verdict::Kernel(Counter::RouterFlow)
            }
            None => refused(Counter::DropPolicy),
        };
    }
    // The service `ping` is echo only: the kernel would answer timestamps too.
    let service = match packet.icmp {
        [icmp::TIMESTAMP | icmp::TIMESTAMP_REPLY, _] => 0,
        _ => service_of(packet.protocol, packet.kind, packet.destination_port),
    };
    let reachable =
        service != 0 && tables.zone(from).is_some_and(|zone| zone.services & service != 0);
    if group && !(reachable && service == DHCP) {
        return refused(Counter::DropMulticast);
    }
    let unconfigured = packet.source == 0 && service == DHCP;
    if !(unconfigured || may_be_end(packet.source)) || tables.is_local(packet.source) {
        return refused(Counter::DropMartian);
    }
    let serves = reachable && packet.kind != Kind::EchoReply;
    if serves && (group || unconfigured || !has_rules(tables, from, ROUTER)) {
        return Verdict::Kernel(Counter::Service);
    }
    if let Err(reason) = opens(packet.kind, packet.tcp_flags) {
        // A connection to a service: the rules were asked when it began.
        return if serves { Verdict::Kernel(Counter::Service) } else { refused(reason) };
    }
    propose(candidate, frame, packet, from);
    if serves {
        candidate.facts.set(SERVICE);
    }
    candidate.flags.set(TO_ROUTER);
    candidate.to.set(ROUTER);
    candidate.hop.set(NextHop::default());
    candidate.exit.set(Exit::default());
    Verdict::Next(Stage::Rule)
}

/// Multicast (RFC 5771) or limited broadcast.
#[inline(always)]
pub(crate) fn is_group(address: u32) -> bool {
    let [first, ..] = address.to_ne_bytes();
    first & 0xf0 == 0xe0 || address == u32::MAX
}

/// Not "this network", loopback, multicast, reserved or broadcast (RFC 1812 section 5.3.7).
#[inline(always)]
pub(crate) fn may_be_end(address: u32) -> bool {
    let [first, ..] = address.to_ne_bytes();
    first != 0 && first != 127 && first < 224
}
