//! Packets that leave by an interface: the router's own become flows, so that their answers are
//! let in and so that their ports never meet those of translated flows. What the datapath forwarded
//! carries its mark and does not come here; what the kernel forwarded without it is refused.

use portcullis_datapath_abi::{
    Counter,
    policy::{MASQUERADE, ROUTER},
};

use crate::{
    Edit, Fragment, Frame, Kind, L3, Packet, Tables, Verdict, fragments, ingress, open,
    packet::{IPV4, IPV6, tcp},
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

/// Decides about a leaving frame. The verdicts are [`Verdict::Kernel`] (on its way unmodified),
/// [`Verdict::Translate`] (on its way translated) and [`Verdict::Drop`].
#[inline(always)]
pub fn egress<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    departure: &Departure,
) -> Verdict<'a> {
    let ethertype = frame.u16(L3 - 2);
    if departure.forwarded && matches!(ethertype, Some(IPV4 | IPV6)) {
        return Verdict::Drop(Counter::DropLeak);
    }
    if ethertype != Some(IPV4) {
        return Verdict::Kernel(Counter::LinkLayer);
    }
    // What the core does not track, the router may still send (IGMP, with IP options).
    let sent = Verdict::Kernel(Counter::RouterSent);
    let (Ok(mut packet), Some(interface)) =
        (Packet::parse(frame, departure.length), tables.interface(departure.interface))
    else {
        return sent;
    };
    if open::is_dhcp_request(&packet) {
        let (request, _) = open::dhcp_client_key(departure.interface, interface.zone);
        if tables.flow(&request).is_none()
            && open::create(tables, &request, interface.zone, request.source, None).is_err()
        {
            return Verdict::Drop(Counter::DropFull);
        }
        if let Some(flow) = tables.flow(&request) {
            flow.count(1, departure.length, tables.now());
        }
        return sent;
    }
    if open::is_group(packet.destination)
        || matches!(packet.kind, Kind::IcmpError | Kind::IcmpOther)
    {
        return sent;
    }
    let Some(zone) = tables.zone(interface.zone) else {
        return sent;
    };
    if !fragments::complete(tables, &mut packet, ROUTER) {
        return sent;
    }
    let key = packet.key(ROUTER);
    let flow = match tables.flow(&key) {
        Some(flow) => flow,
        None => {
            // Services are not flows: a flood of queries must not fill the table. Their answers go
            // out by the same rule that let the questions in.
            let request = packet.kind == Kind::EchoRequest;
            if !request && zone.services & open::service_of(&packet, packet.source_port) != 0 {
                return sent;
            }
            let reset = packet.kind == Kind::Tcp && packet.tcp_flags & tcp::RST != 0;
            let headless = matches!(packet.fragment, Fragment::Later);
            if reset || headless || packet.kind == Kind::EchoReply {
                return sent;
            }
            let masquerade = zone.flags & MASQUERADE != 0 && interface.nat_address != 0;
            let source = if masquerade { interface.nat_address } else { packet.source };
            if let Err(reason) = open::create(tables, &key, interface.zone, source, None) {
                return Verdict::Drop(reason);
            }
            match tables.flow(&key) {
                Some(flow) => flow,
                None => return Verdict::Drop(Counter::DropFull),
            }
        }
    };
    ingress::note_tcp(tables, &packet, &key, flow);
    flow.count(departure.segments, departure.length, tables.now());
    fragments::remember(tables, &packet, ROUTER);
    if flow.translates(&key) {
        let edit = Edit {
            flow,
            kind: packet.kind,
            ttl: packet.ttl,
            protocol: packet.protocol,
            length: packet.length,
        };
        Verdict::Translate(Counter::RouterSent, edit)
    } else {
        sent
    }
}
