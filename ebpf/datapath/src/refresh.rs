//! Packets of known flows whose next hop must be looked up: nothing is cached yet, or a route or
//! neighbour has changed since.

use portcullis_datapath_abi::{Config, Counter, Interface, flow::TRANSLATED};

use crate::{
    Arrival, FlowRef, Hop, RouteQuery, Stage, Tables, Verdict,
    flow::{end, find4, find6},
    frame::Frame,
    ingress::Hook,
    known::{Transit, pass},
    nat::keeps_source,
    packet::Packet,
    packet6::Packet6,
    tables::mapped,
    verdict::{Answer, AnswerKind, Drop},
};

/// Stage [`Stage::Refresh4`].
#[inline(always)]
pub fn refresh4<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
) -> Verdict<'a> {
    let (Some(config), Some(interface)) = (tables.config(), tables.interface(arrival.interface))
    else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let mut packet = match Packet::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, interface.zone)),
    };
    if let Some(ends) = arrival.ends {
        packet.source_port = ends.source_port;
        packet.destination_port = ends.destination_port;
    }
    match find4(tables, config, &packet.key(interface.zone)) {
        Some(flow) => refresh(tables, config, arrival, &packet.transit(), flow),
        // It has ended in the meantime.
        None => Verdict::Next(Stage::Open4),
    }
}

/// Stage [`Stage::Refresh6`].
#[inline(always)]
pub fn refresh6<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
) -> Verdict<'a> {
    let (Some(config), Some(interface)) = (tables.config(), tables.interface(arrival.interface))
    else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let mut packet = match Packet6::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, interface.zone)),
    };
    if let Some(ends) = arrival.ends {
        packet.source_port = ends.source_port;
        packet.destination_port = ends.destination_port;
        packet.protocol = ends.protocol;
    }
    match find6(tables, config, &packet.key(interface.zone)) {
        Some(flow) => refresh(tables, config, arrival, &packet.transit(), flow),
        None => Verdict::Next(Stage::Open6),
    }
}

#[inline(always)]
fn refresh<'a, T: Tables>(
    tables: &'a T,
    config: &Config,
    arrival: &Arrival,
    packet: &Transit,
    flow: FlowRef<'a>,
) -> Verdict<'a> {
    match next_hop(tables, config, arrival, packet, flow) {
        Ok(way) => pass(tables, arrival, packet, flow, way),
        Err(verdict) => verdict,
    }
}

/// The way out and its MTU: from the flow's cache while that is current, else looked up.
///
/// After a lookup the kernel resolves the neighbour for this one packet even if it is known: that
/// is what keeps its reachability confirmed when all other packets pass the kernel by. XDP leaves
/// it to tcx.
#[inline(always)]
pub(crate) fn next_hop<'a, T: Tables>(
    tables: &'a T,
    config: &Config,
    arrival: &Arrival,
    packet: &Transit,
    flow: FlowRef<'_>,
) -> Result<(Hop, u16), Verdict<'a>> {
    if flow.generation() == config.generation && config.generation != 0 {
        let hop = Hop { egress: flow.egress(), link: flow.link(), cached: true, next_hop: [0; 4] };
        return Ok((hop, flow.mtu()));
    }
    if arrival.hook == Hook::Xdp {
        return Err(Verdict::Defer);
    }
    let (from, to) = (flow.zone(packet.ipv6), flow.reverse().zone(packet.ipv6));
    let destination = if !packet.ipv6 {
        mapped(flow.destination())
    } else if flow.direction() == 0 {
        flow.key6().destination
    } else {
        flow.key6().source
    };
    let query = RouteQuery {
        interface: arrival.interface,
        source: packet.source,
        destination,
        protocol: packet.protocol,
        tos: packet.tos,
        ipv6: packet.ipv6,
    };
    let Some(route) = tables.route(&query) else {
        let drop = Drop::between(Counter::DropRoute, from, to);
        return Err(Verdict::Answer(Answer { drop, kind: AnswerKind::NoRoute, mtu: 0 }));
    };
    let Some(egress) = tables.interface(route.egress) else {
        return Err(Verdict::Drop(Drop::between(Counter::DropInterface, from, to)));
    };
    if egress.zone != to || !keeps_address(tables, config, flow, egress, packet.ipv6) {
        // The next packet of the initiator makes a new flow for the new way.
        if flow.direction() == 0 {
            end(tables, config, flow, packet.ipv6);
        }
        return Err(Verdict::Drop(Drop::between(Counter::DropMoved, from, to)));
    }
    if route.resolved {
        flow.cache(&route.hop(egress), config.generation);
    }
    let hop =
        Hop { egress: route.egress, link: egress.flags, cached: false, next_hop: route.next_hop };
    Ok((hop, route.mtu))
}

/// Whether the flow may keep its translated source address on the way out by `egress`.
#[inline(always)]
fn keeps_address<T: Tables>(
    tables: &T,
    config: &Config,
    flow: FlowRef<'_>,
    egress: &Interface,
    ipv6: bool,
) -> bool {
    if ipv6 || flow.flags() & TRANSLATED == 0 || flow.direction() != 0 {
        return true;
    }
    let source = flow.source();
    source == flow.key().source
        || source == egress.nat_address
        || keeps_source(tables, config, source, egress)
}
