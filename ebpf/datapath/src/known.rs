//! Packets of known flows with which there is more to do than the entry does: an outdated next hop,
//! a TTL that ends here, a packet too large, the beginning and end of TCP connections, ICMP echo,
//! extension headers, flows of the router itself.

use portcullis_datapath_abi::{
    Config, Counter,
    flow::{FROM_ROUTER, TO_ROUTER, TRANSLATED},
    nat::mss,
    policy::XDP_TRANSMIT,
};

use crate::{
    Arrival, Edit, FlowRef, Hop, Kind, Stage, Tables, Verdict,
    flow::{end, find4, find6},
    frame::{Frame, L4},
    ingress::Hook,
    open::service_of,
    packet::{Fragment, Packet, tcp::SYN},
    packet6::Packet6,
    tables::mapped,
    tcp::{self, Judgement, Segment, track},
    verdict::{Answer, AnswerKind, Drop},
};

/// What forwarding needs of a packet, whatever its family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transit {
    pub source: [u32; 4],
    pub kind: Kind,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub ipv6: bool,
    /// Whether the router may not cut it.
    pub dont_fragment: bool,
    /// Whether a TCP SYN.
    pub syn: bool,
    /// Of the datagram in bytes.
    pub length: u16,
    /// Bytes before the payload of each segment.
    pub headers: u16,
    /// Offset of the transport header in the frame.
    pub transport: u16,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn transit(&self) -> Transit {
        Transit {
            source: mapped(self.source),
            kind: self.kind,
            protocol: self.protocol,
            ttl: self.ttl,
            tos: self.tos,
            ipv6: false,
            dont_fragment: self.dont_fragment,
            syn: self.tcp_flags & SYN != 0,
            length: self.length,
            headers: 20 + u16::from(self.header),
            transport: L4 as u16,
        }
    }

    /// Its TCP segment.
    #[inline(always)]
    pub(crate) fn segment(&self) -> Segment {
        Segment {
            sequence: self.sequence,
            acknowledgment: self.acknowledged,
            length: u32::from(self.length) - 20 - u32::from(self.header),
            window: self.window,
            flags: self.tcp_flags,
        }
    }
}

impl Packet6 {
    #[inline(always)]
    pub(crate) fn transit(&self) -> Transit {
        Transit {
            source: self.source,
            kind: self.kind,
            protocol: self.protocol,
            ttl: self.hop_limit,
            tos: 0,
            ipv6: true,
            dont_fragment: true,
            syn: self.tcp_flags & SYN != 0,
            length: self.length,
            headers: self.transport - crate::frame::L3 as u16 + u16::from(self.header),
            transport: self.transport,
        }
    }

    /// Its TCP segment.
    #[inline(always)]
    pub(crate) fn segment(&self) -> Segment {
        let headers = u32::from(self.transport) - crate::frame::L3 as u32 + u32::from(self.header);
        Segment {
            sequence: self.sequence,
            acknowledgment: self.acknowledged,
            length: u32::from(self.length) - headers,
            window: self.window,
            flags: self.tcp_flags,
        }
    }
}

/// Stage [`Stage::Flow4`].
#[inline(always)]
pub fn flow4<'a, T: Tables, F: Frame>(tables: &'a T, frame: &F, arrival: &Arrival) -> Verdict<'a> {
    let (Some(config), Some(interface)) = (tables.config(), tables.interface(arrival.interface))
    else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let mut packet = match Packet::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, interface.zone)),
    };
    if !matches!(packet.fragment, Fragment::Whole) {
        let Some(ends) = arrival.ends else {
            return Verdict::Next(Stage::Fragment4);
        };
        packet.source_port = ends.source_port;
        packet.destination_port = ends.destination_port;
    }
    if packet.kind == Kind::IcmpError {
        return Verdict::Next(Stage::IcmpError);
    }
    match find4(tables, config, &packet.key(interface.zone)) {
        Some(flow) => known4(tables, config, frame, arrival, &packet, flow),
        None if packet.kind == Kind::Fragment => {
            let ours = tables.is_local(packet.destination);
            orphan(tables, interface.zone, ours, packet.protocol, packet.destination_port)
        }
        None => Verdict::Next(Stage::Open4),
    }
}

/// Stage [`Stage::Flow6`].
#[inline(always)]
pub fn flow6<'a, T: Tables, F: Frame>(tables: &'a T, frame: &F, arrival: &Arrival) -> Verdict<'a> {
    let (Some(config), Some(interface)) = (tables.config(), tables.interface(arrival.interface))
    else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let mut packet = match Packet6::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, interface.zone)),
    };
    if !matches!(packet.fragment, Fragment::Whole) {
        let Some(ends) = arrival.ends else {
            return Verdict::Next(Stage::Fragment6);
        };
        packet.source_port = ends.source_port;
        packet.destination_port = ends.destination_port;
        packet.protocol = ends.protocol;
    }
    if packet.kind == Kind::IcmpError {
        return Verdict::Next(Stage::IcmpError);
    }
    match find6(tables, config, &packet.key(interface.zone)) {
        Some(flow) => known6(tables, config, frame, arrival, &packet, flow),
        None if packet.kind == Kind::Fragment => {
            let ours = tables.is_local6(&packet.destination);
            orphan(tables, interface.zone, ours, packet.protocol, packet.destination_port)
        }
        None => Verdict::Next(Stage::Open6),
    }
}

/// A later fragment of no flow: the first one was refused, or is for a service of the router.
#[inline(always)]
fn orphan<'a, T: Tables>(
    tables: &'a T,
    from: u8,
    ours: bool,
    protocol: u8,
    port: u16,
) -> Verdict<'a> {
    let service = service_of(protocol, Kind::Fragment, port);
    if ours && tables.zone(from).is_some_and(|zone| zone.services & service != 0) {
        return Verdict::Kernel(Counter::Service);
    }
    Verdict::Drop(Drop::from(Counter::DropFragment, from))
}

/// A packet of a known IPv4 flow (a fragment too, once its ports are known).
#[inline(always)]
pub(crate) fn known4<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    arrival: &Arrival,
    packet: &Packet,
    flow: FlowRef<'a>,
) -> Verdict<'a> {
    if packet.kind == Kind::Tcp {
        match track(frame, L4 as u32, &packet.segment(), flow.tracked(), flow.direction() == 0) {
            Judgement::InWindow => {}
            Judgement::OutOfWindow => {
                let from = flow.zone(false);
                return Verdict::Drop(Drop::from(Counter::DropTcpWindow, from));
            }
            Judgement::Anew => {
                end(tables, config, flow, false);
                return Verdict::Next(Stage::Open4);
            }
        }
    }
    known(tables, config, arrival, &packet.transit(), flow)
}

/// A packet of a known IPv6 flow.
#[inline(always)]
pub(crate) fn known6<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    arrival: &Arrival,
    packet: &Packet6,
    flow: FlowRef<'a>,
) -> Verdict<'a> {
    if packet.kind == Kind::Tcp {
        let at = u32::from(packet.transport);
        match track(frame, at, &packet.segment(), flow.tracked(), flow.direction() == 0) {
            Judgement::InWindow => {}
            Judgement::OutOfWindow => {
                let from = flow.zone(true);
                return Verdict::Drop(Drop::from(Counter::DropTcpWindow, from));
            }
            Judgement::Anew => {
                end(tables, config, flow, true);
                return Verdict::Next(Stage::Open6);
            }
        }
    }
    known(tables, config, arrival, &packet.transit(), flow)
}

#[inline(always)]
fn known<'a, T: Tables>(
    tables: &'a T,
    config: &Config,
    arrival: &Arrival,
    packet: &Transit,
    flow: FlowRef<'a>,
) -> Verdict<'a> {
    if flow.flags() & (TO_ROUTER | FROM_ROUTER) != 0 {
        flow.count(arrival.segments, u32::from(packet.length), tables.now());
        let edit = packet.edit(flow);
        return if flow.flags() & TRANSLATED != 0 {
            Verdict::Translate(Counter::RouterFlow, edit)
        } else {
            Verdict::Kernel(Counter::RouterFlow)
        };
    }
    let (from, to) = (flow.zone(packet.ipv6), flow.reverse().zone(packet.ipv6));
    if arrival.hook == Hook::Xdp && flow.link() & XDP_TRANSMIT == 0 {
        return Verdict::Defer;
    }
    // Nobody who asks for a route is told of one that the packet will not take.
    if packet.ttl <= 1 {
        let drop = Drop::between(Counter::DropTtl, from, to);
        return Verdict::Answer(Answer { drop, kind: AnswerKind::TimeExceeded, mtu: 0 });
    }
    if flow.generation() != config.generation {
        // The packet that resolves a neighbour again needs the kernel.
        if arrival.hook == Hook::Xdp {
            return Verdict::Defer;
        }
        let stage = if packet.ipv6 { Stage::Refresh6 } else { Stage::Refresh4 };
        return match arrival.ends {
            Some(ends) => Verdict::Located(stage, ends),
            None => Verdict::Next(stage),
        };
    }
    let hop = Hop { egress: flow.egress(), link: flow.link(), cached: true, next_hop: [0; 4] };
    pass(tables, arrival, packet, flow, (hop, flow.mtu()))
}

/// A packet of a flow leaves by `hop`, over a link of an MTU.
#[inline(always)]
pub(crate) fn pass<'a, T: Tables>(
    tables: &'a T,
    arrival: &Arrival,
    packet: &Transit,
    flow: FlowRef<'a>,
    (hop, mtu): (Hop, u16),
) -> Verdict<'a> {
    if wire_length(packet, arrival) > u32::from(mtu) {
        if !packet.dont_fragment && arrival.segment_size == 0 {
            return Verdict::Cut(mtu);
        }
        let (from, to) = (flow.zone(packet.ipv6), flow.reverse().zone(packet.ipv6));
        let drop = Drop::between(Counter::DropTooBig, from, to);
        return Verdict::Answer(Answer { drop, kind: AnswerKind::TooBig, mtu });
    }
    let mut edit = packet.edit(flow);
    if packet.syn {
        edit.mss = mss_limit(tables, arrival, flow, mtu, packet.ipv6);
    }
    flow.count(arrival.segments, u32::from(packet.length), tables.now());
    Verdict::Forward(Counter::Forwarded, edit, hop)
}

impl Transit {
    /// What to change on a packet that passes.
    #[inline(always)]
    pub(crate) fn edit<'a>(&self, flow: FlowRef<'a>) -> Edit<'a> {
        Edit {
            flow,
            kind: self.kind,
            ttl: self.ttl,
            plain: false,
            protocol: self.protocol,
            ipv6: self.ipv6,
            length: self.length,
            transport: self.transport,
            mss: 0,
        }
    }
}

/// Length of the largest packet that leaves: of one segment, if the frame is an aggregate.
#[inline(always)]
pub(crate) fn wire_length(packet: &Transit, arrival: &Arrival) -> u32 {
    match arrival.segment_size {
        0 => u32::from(packet.length),
        payload => u32::from(packet.headers) + payload,
    }
}

/// The largest segment that fits both ways of a flow whose packet leaves over a link of `mtu`;
/// 0: as it is.
#[inline(always)]
fn mss_limit<T: Tables>(
    tables: &T,
    arrival: &Arrival,
    flow: FlowRef<'_>,
    mtu: u16,
    ipv6: bool,
) -> u16 {
    let setting = |zone| tables.zone(zone).map_or(0, |zone| mss(zone.flags));
    let settings = (setting(flow.zone(ipv6)), setting(flow.reverse().zone(ipv6)));
    if settings.0 | settings.1 == 0 {
        return 0;
    }
    tcp::mss_limit(settings, (mtu, tables.device_mtu(arrival.interface)), ipv6)
}
