//! IPv6 packets of no known flow.

use portcullis_datapath_abi::{Counter, FlowKey, flow::TO_ROUTER, policy::ROUTER};

use super::{
    candidate::{Candidate, IPV6, RESOLVED, SERVICE},
    dhcp6_client_key, flood_class, is_dhcp6_request, is_left_to_tcx, is_reset, link_source, opens,
    service_of,
};
use crate::{
    Arrival, Cast, Hook, Kind, NextHop, RouteQuery, Stage, Tables, Verdict,
    classify::has_rules,
    flow::find6,
    frame::Frame,
    guard::{Admission, Visitor, admit, asks_proof, uncount},
    known::wire_length,
    packet::Fragment,
    packet6::Packet6,
    verdict::{Answer, AnswerKind, Drop},
};

/// Stage [`Stage::Open6`].
#[inline(always)]
pub fn open6<'a, T: Tables, F: Frame>(tables: &'a T, frame: &F, arrival: &Arrival) -> Verdict<'a> {
    let Some(interface) = tables.interface(arrival.interface) else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let from = interface.zone;
    let packet = match Packet6::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, from)),
    };
    let packet = tables.settled(&packet);
    if matches!(packet.fragment, Fragment::Later) {
        return Verdict::Drop(Drop::from(Counter::DropFragment, from));
    }
    let visitor = Visitor {
        zone: from,
        source: &packet.source,
        destination: &packet.destination,
        class: flood_class(packet.kind),
    };
    if let Admission::Refused(reason) = admit(tables, &visitor) {
        return Verdict::Drop(Drop::from(reason, from));
    }
    let verdict = admitted(tables, frame, arrival, packet, from);
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
    frame: &F,
    arrival: &Arrival,
    packet: &Packet6,
    from: u8,
) -> Verdict<'a> {
    let group = arrival.cast == Cast::Group || is_group(&packet.destination);
    let link = is_link_local(&packet.destination) || is_link_scope(&packet.destination);
    if packet.kind == Kind::Link {
        return neighbourhood(tables, packet, from, link);
    }
    if group || link || tables.is_local6(&packet.destination) {
        return to_router(tables, frame, packet, arrival.interface, (from, group, link));
    }
    if !may_be_end(&packet.source)
        || !may_be_end(&packet.destination)
        || is_link_local(&packet.source)
        || tables.is_local6(&packet.source)
    {
        return Verdict::Drop(Drop::from(Counter::DropMartian, from));
    }
    if is_reset(packet.kind, packet.tcp_flags) && asks_proof(tables, from) {
        return Verdict::Next(Stage::Challenge);
    }
    if let Err(reason) = opens(packet.kind, packet.tcp_flags) {
        return Verdict::Drop(Drop::from(reason, from));
    }
    through(tables, frame, arrival, packet, from)
}

/// What is the same for packets through the router and to it.
#[inline(always)]
fn propose<F: Frame>(candidate: &Candidate, frame: &F, packet: &Packet6, from: u8) {
    let (source_port, destination_port) = packet.asked_ports();
    candidate.source.set(packet.source);
    candidate.destination.set(packet.destination);
    candidate.key.set(FlowKey {
        source: 0,
        destination: 0,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        zone: from,
        reserved: 0,
    });
    candidate.asked.set([source_port, destination_port]);
    candidate.mac.set(link_source(frame));
    candidate.ttl.set(packet.hop_limit);
    candidate.facts.set(IPV6);
    candidate.inside.set(0);
}

/// A packet for somebody else.
#[inline(always)]
fn through<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
    packet: &Packet6,
    from: u8,
) -> Verdict<'a> {
    let Some(candidate) = tables.candidate() else {
        return Verdict::Drop(Drop::from(Counter::DropStage, from));
    };
    propose(candidate, frame, packet, from);
    candidate.flags.set(0);
    candidate.length.set(wire_length(&packet.transit(), arrival));
    let query = RouteQuery {
        interface: arrival.interface,
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        tos: 0,
        ipv6: true,
    };
    let Some(route) = tables.route(&query) else {
        let drop = Drop::from(Counter::DropRoute, from);
        return Verdict::Answer(Answer { drop, kind: AnswerKind::NoRoute, mtu: 0 });
    };
    let Some(egress) = tables.interface(route.egress) else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, from));
    };
    candidate.to.set(egress.zone);
    candidate.hop.set(route.hop(egress));
    if route.resolved {
        candidate.facts.set(IPV6 | RESOLVED);
    }
    Verdict::Next(Stage::Rule)
}

/// Neighbour and listener discovery: of the link, for the kernel, from zones that may reach anything
/// of the router at all.
#[inline(always)]
fn neighbourhood<'a, T: Tables>(
    tables: &'a T,
    packet: &Packet6,
    from: u8,
    link: bool,
) -> Verdict<'a> {
    let [kind, _] = packet.icmp;
    let discovery = (133..=137).contains(&kind);
    // RFC 4861 section 7.1: nothing that a router has forwarded. Listener discovery has a hop limit
    // of 1 and link-local sources (RFC 3810 section 5).
    let genuine = if discovery { packet.hop_limit == 255 } else { packet.hop_limit == 1 };
    let local = link || tables.is_local6(&packet.destination);
    if genuine && local && tables.zone(from).is_some() {
        Verdict::Kernel(Counter::LinkLayer)
    } else {
        Verdict::Drop(Drop::between(Counter::DropIcmp, from, ROUTER))
    }
}

/// A packet for the router itself.
#[inline(always)]
fn to_router<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    packet: &Packet6,
    interface: u32,
    (from, group, link): (u8, bool, bool),
) -> Verdict<'a> {
    let refused = |reason| Verdict::Drop(Drop::between(reason, from, ROUTER));
    if group {
        return refused(Counter::DropMulticast);
    }
    let source = may_be_end(&packet.source) && (link || !is_link_local(&packet.source));
    if !source || tables.is_local6(&packet.source) {
        return refused(Counter::DropMartian);
    }
    // The answer that a DHCPv6 client of the router waits for: to its link-local address, from that
    // of a server or relay (RFC 8415 section 18.2).
    if link && is_dhcp6_request(packet.protocol, packet.destination_port, packet.source_port) {
        let reply = dhcp6_client_key(interface, from).reverse();
        return match tables.config().and_then(|config| find6(tables, config, &reply)) {
            Some(flow) => {
                flow.count(1, u32::from(packet.length), tables.now());
                Verdict::Kernel(Counter::RouterFlow)
            }
            None => refused(Counter::DropPolicy),
        };
    }
    let service = service_of(packet.protocol, packet.kind, packet.destination_port);
    let reachable =
        service != 0 && tables.zone(from).is_some_and(|zone| zone.services & service != 0);
    let serves = reachable && packet.kind != Kind::EchoReply;
    if serves && !has_rules(tables, from, ROUTER) {
        return Verdict::Kernel(Counter::Service);
    }
    if let Err(reason) = opens(packet.kind, packet.tcp_flags) {
        // A connection to a service: the rules were asked when it began.
        return if serves { Verdict::Kernel(Counter::Service) } else { refused(reason) };
    }
    let Some(candidate) = tables.candidate() else {
        return refused(Counter::DropStage);
    };
    propose(candidate, frame, packet, from);
    if serves {
        candidate.facts.set(IPV6 | SERVICE);
    }
    candidate.flags.set(TO_ROUTER);
    candidate.to.set(ROUTER);
    candidate.hop.set(NextHop::default());
    Verdict::Next(Stage::Rule)
}

#[inline(always)]
fn first(address: &[u32; 4]) -> u16 {
    let [word, ..] = *address;
    (u32::from_be(word) >> 16) as u16
}

/// ff00::/8
#[inline(always)]
pub(crate) fn is_group(address: &[u32; 4]) -> bool {
    first(address) >> 8 == 0xff
}

/// Multicast that no router forwards: interface-local and link-local (RFC 4291 section 2.7).
#[inline(always)]
fn is_link_scope(address: &[u32; 4]) -> bool {
    is_group(address) && first(address) & 15 <= 2
}

/// fe80::/10
#[inline(always)]
pub(crate) fn is_link_local(address: &[u32; 4]) -> bool {
    first(address) & 0xffc0 == 0xfe80
}

/// Not unspecified, loopback, IPv4-mapped or multicast (RFC 4291 section 2).
#[inline(always)]
pub(crate) fn may_be_end(address: &[u32; 4]) -> bool {
    let [a, b, ..] = *address;
    // ::/64 holds unspecified, loopback and mapped addresses, and nothing that is routed.
    (a | b) != 0 && !is_group(address)
}
