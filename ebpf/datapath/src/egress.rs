//! Packets that leave by an interface: the router's own become flows, so that their answers are
//! let in and so that their ports never meet those of translated flows. What the datapath forwarded
//! carries its mark and does not come here; what the kernel forwarded without it is refused.

use portcullis_datapath_abi::{
    Config, Counter, FlowKey, Interface, Zone,
    flow::{FROM_ROUTER, TRANSLATED},
    policy::{MASQUERADE, ROUTER},
};

use crate::{
    Kind, Stage, Tables, Verdict,
    flow::{end, find4, find6},
    frame::{Frame, IPV4, IPV6 as ETHERTYPE_IPV6, L3, L4},
    nat::Exit,
    open::{
        IPV6, dhcp_client_keys, dhcp6_client_key, is_dhcp_request, is_dhcp6_request, is_group,
        is_group6, service_of,
    },
    packet::{Fragment, Packet, tcp},
    packet6::Packet6,
    tables::mapped,
    tcp::{Judgement, track},
    verdict::Drop,
};

/// What surrounds a leaving packet.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// Interface that it leaves by.
    pub interface: u32,
    /// Whether it came in by an interface, so that the kernel forwards it.
    pub forwarded: bool,
    /// Bytes behind the Ethernet header.
    pub length: u32,
    /// Segments that it will be cut into (GSO); 1 for a plain packet.
    pub segments: u32,
}

/// What the router may send although the core does not track it (IGMP, with IP options).
const SENT: Verdict<'static> = Verdict::Kernel(Counter::RouterSent);

/// Decides about a leaving frame. The verdicts are [`Verdict::Kernel`] (on its way unmodified),
/// [`Verdict::Translate`] (on its way translated), [`Verdict::Drop`] and [`Stage::Depart`].
#[inline(always)]
pub fn egress<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    departure: &Departure,
) -> Verdict<'a> {
    let ethertype = frame.u16(L3 - 2);
    if !matches!(ethertype, Some(IPV4 | ETHERTYPE_IPV6)) {
        return Verdict::Kernel(Counter::LinkLayer);
    }
    let Some(interface) = tables.interface(departure.interface) else {
        // Nothing is forwarded to where the firewall does not look.
        return if departure.forwarded {
            Verdict::Drop(Drop::from(Counter::DropLeak, Drop::UNKNOWN))
        } else {
            SENT
        };
    };
    if departure.forwarded {
        return Verdict::Drop(Drop::between(Counter::DropLeak, Drop::UNKNOWN, interface.zone));
    }
    let Some(config) = tables.config() else {
        return SENT;
    };
    if ethertype == Some(IPV4) {
        known4(tables, config, frame, departure)
    } else {
        known6(tables, config, frame, departure)
    }
}

#[inline(always)]
fn known4<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    departure: &Departure,
) -> Verdict<'a> {
    let Ok(packet) = Packet::parse(frame, departure.length) else {
        return SENT;
    };
    let packet = tables.settled(&packet);
    let Some(flow) = find4(tables, config, &packet.key(ROUTER)) else {
        return Verdict::Next(Stage::Depart);
    };
    if packet.kind == Kind::Tcp
        && track(frame, L4 as u32, &packet.segment(), flow.tracked(), flow.direction() == 0)
            == Judgement::Anew
    {
        end(tables, config, flow, false);
        return Verdict::Next(Stage::Depart);
    }
    flow.count(departure.segments, u32::from(packet.length), tables.now());
    leave(packet.transit().edit(flow))
}

#[inline(always)]
fn known6<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    departure: &Departure,
) -> Verdict<'a> {
    let Ok(packet) = Packet6::parse(frame, departure.length) else {
        return SENT;
    };
    let packet = tables.settled(&packet);
    let Some(flow) = find6(tables, config, &packet.key(ROUTER)) else {
        return Verdict::Next(Stage::Depart);
    };
    if packet.kind == Kind::Tcp {
        let at = u32::from(packet.transport);
        if track(frame, at, &packet.segment(), flow.tracked(), flow.direction() == 0)
            == Judgement::Anew
        {
            end(tables, config, flow, true);
            return Verdict::Next(Stage::Depart);
        }
    }
    flow.count(departure.segments, u32::from(packet.length), tables.now());
    SENT
}

#[inline(always)]
fn leave(edit: crate::Edit<'_>) -> Verdict<'_> {
    if edit.flow.flags() & TRANSLATED != 0 {
        Verdict::Translate(Counter::RouterSent, edit)
    } else {
        SENT
    }
}

/// Stage [`Stage::Depart`]: packets of the router that belong to no flow.
#[inline(always)]
pub fn depart<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    departure: &Departure,
) -> Verdict<'a> {
    let (Some(config), Some(interface)) = (tables.config(), tables.interface(departure.interface))
    else {
        return SENT;
    };
    let Some(zone) = tables.zone(interface.zone) else {
        return SENT;
    };
    if frame.u16(L3 - 2) == Some(IPV4) {
        depart4(tables, config, frame, departure, (interface, zone))
    } else {
        depart6(tables, frame, departure, (interface, zone))
    }
}

/// Whether a packet of the router begins a flow. Services are not flows: a flood of queries must
/// not fill the table. Their answers go out by the same rule that let the questions in.
#[inline(always)]
fn begins(kind: Kind, protocol: u8, source_port: u16, tcp_flags: u8, zone: &Zone) -> bool {
    match kind {
        Kind::Tcp if tcp_flags & tcp::RST != 0 => return false,
        Kind::Udp | Kind::Tcp => {}
        Kind::EchoRequest => return true,
        _ => return false,
    }
    zone.services & service_of(protocol, kind, source_port) == 0
}

#[inline(always)]
fn depart4<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    departure: &Departure,
    place: (&Interface, &Zone),
) -> Verdict<'a> {
    let (interface, zone) = place;
    let to = interface.zone;
    let Ok(packet) = Packet::parse(frame, departure.length) else {
        return SENT;
    };
    let packet = tables.settled(&packet);
    let Some(candidate) = tables.candidate() else {
        return SENT;
    };
    candidate.facts.set(0);
    candidate.flags.set(FROM_ROUTER);
    candidate.to.set(to);
    candidate.unruled();
    if is_dhcp_request(packet.protocol, packet.source_port, packet.destination_port) {
        let (request, reply) = dhcp_client_keys(departure.interface, to);
        if let Some(flow) = find4(tables, config, &request) {
            flow.count(1, departure.length, tables.now());
            return SENT;
        }
        candidate.source.set(mapped(request.source));
        candidate.destination.set(mapped(reply.source));
        candidate.key.set(request);
        candidate.port.set(reply.source_port);
        candidate.exit.set(Exit::default());
        return Verdict::Next(Stage::Create4);
    }
    if is_group(packet.destination)
        || matches!(packet.fragment, Fragment::Later)
        || !begins(packet.kind, packet.protocol, packet.source_port, packet.tcp_flags, zone)
    {
        return SENT;
    }
    let (source_port, destination_port) = packet.asked_ports();
    candidate.source.set(mapped(packet.source));
    candidate.destination.set(mapped(packet.destination));
    candidate.key.set(packet.key(ROUTER));
    candidate.asked.set([source_port, destination_port]);
    candidate.port.set(packet.destination_port);
    let mut exit = Exit::by(interface, zone);
    if exit.address == 0 {
        // No address yet, but the router sends: it knows what it does.
        exit.flags &= !MASQUERADE;
    }
    candidate.exit.set(exit);
    Verdict::Next(Stage::Create4)
}

#[inline(always)]
fn depart6<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    departure: &Departure,
    place: (&Interface, &Zone),
) -> Verdict<'a> {
    let (interface, zone) = place;
    let to = interface.zone;
    let Ok(packet) = Packet6::parse(frame, departure.length) else {
        return SENT;
    };
    let packet = tables.settled(&packet);
    let Some(candidate) = tables.candidate() else {
        return SENT;
    };
    candidate.facts.set(IPV6);
    candidate.flags.set(FROM_ROUTER);
    candidate.to.set(to);
    candidate.unruled();
    let key = FlowKey {
        source: 0,
        destination: 0,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        zone: ROUTER,
        reserved: 0,
    };
    if is_dhcp6_request(packet.protocol, packet.source_port, packet.destination_port) {
        let request = dhcp6_client_key(departure.interface, to);
        if let Some(config) = tables.config()
            && let Some(flow) = find6(tables, config, &request)
        {
            flow.count(1, departure.length, tables.now());
            return SENT;
        }
        candidate.source.set(request.source);
        candidate.destination.set(request.destination);
        candidate.key.set(key);
        return Verdict::Next(Stage::Create6);
    }
    if is_group6(&packet.destination)
        || matches!(packet.fragment, Fragment::Later)
        || !begins(packet.kind, packet.protocol, packet.source_port, packet.tcp_flags, zone)
    {
        return SENT;
    }
    let (source_port, destination_port) = packet.asked_ports();
    candidate.source.set(packet.source);
    candidate.destination.set(packet.destination);
    candidate.key.set(key);
    candidate.asked.set([source_port, destination_port]);
    Verdict::Next(Stage::Create6)
}
