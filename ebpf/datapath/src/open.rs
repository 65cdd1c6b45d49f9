//! Packets of no known flow: what the policy allows opens one.

use portcullis_datapath_abi::{
    Counter, FlowEntry, FlowKey,
    flow::{ICMP, LOCAL, ORIGINAL, TCP, UDP},
    policy::{self, MASQUERADE, ROUTER},
};

use crate::{
    Arrival, Cast, InsertError, Kind, Packet, Route, RouteQuery, Tables,
    checksum::{add, delta, delta16},
    ingress,
    packet::tcp,
};

/// Ports that translated flows may take: those that no service of the router listens on.
const FIRST_PORT: u16 = 1024;

/// Ports tried for a flow before it is refused.
const ATTEMPTS: u32 = 8;

const DHCP_SERVER: u16 = 67_u16.to_be();
const DHCP_CLIENT: u16 = 68_u16.to_be();
const DNS: u16 = 53_u16.to_be();
const HTTPS: u16 = 443_u16.to_be();

/// What becomes of a packet of no flow.
pub(crate) enum Outcome {
    /// There is a flow for it now.
    Opened,
    /// On through the kernel's stack.
    Kernel(Counter),
    /// Dropped.
    Drop(Counter),
}

/// Decides about an arriving packet of no flow.
#[inline(always)]
pub(crate) fn decide<T: Tables>(
    tables: &T,
    arrival: &Arrival,
    packet: &Packet,
    key: &FlowKey,
) -> Outcome {
    let group = arrival.cast == Cast::Group || is_group(packet.destination);
    if group || tables.is_local(packet.destination) {
        return to_router(tables, arrival, packet, key, group);
    }
    if !may_be_source(packet.source)
        || !may_be_destination(packet.destination)
        || tables.is_local(packet.source)
    {
        return Outcome::Drop(Counter::DropMartian);
    }
    if let Err(reason) = opens(packet) {
        return Outcome::Drop(reason);
    }
    let query = RouteQuery {
        interface: arrival.interface,
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        tos: packet.tos,
    };
    let Some(route) = tables.route(&query) else {
        return Outcome::Drop(Counter::DropRoute);
    };
    let Some(egress) = tables.interface(route.egress) else {
        return Outcome::Drop(Counter::DropInterface);
    };
    if !tables.allowed(key.zone, egress.zone) {
        return Outcome::Drop(Counter::DropPolicy);
    }
    // The kernel's errors are about the packet as the sender knows it; no flow comes of it.
    if packet.ttl <= 1 {
        return Outcome::Kernel(Counter::RouterAnswers);
    }
    if ingress::wire_length(packet, arrival) > u32::from(route.mtu) {
        return if packet.dont_fragment {
            Outcome::Kernel(Counter::RouterAnswers)
        } else {
            Outcome::Drop(Counter::DropTooBig)
        };
    }
    let masquerade = tables.zone(egress.zone).is_some_and(|zone| zone.flags & MASQUERADE != 0);
    let source = if masquerade { egress.nat_address } else { packet.source };
    if source == 0 {
        return Outcome::Drop(Counter::DropAddress);
    }
    match create(tables, key, egress.zone, source, Some(&route)) {
        Ok(()) => Outcome::Opened,
        Err(reason) => Outcome::Drop(reason),
    }
}

/// Whether a packet may be the first of a flow.
#[inline(always)]
fn opens(packet: &Packet) -> Result<(), Counter> {
    match packet.kind {
        Kind::Udp | Kind::EchoRequest => Ok(()),
        Kind::Tcp => {
            let flags = packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN);
            if flags == tcp::SYN { Ok(()) } else { Err(Counter::DropTcpState) }
        }
        Kind::EchoReply | Kind::IcmpError | Kind::IcmpOther => Err(Counter::DropIcmp),
        Kind::Fragment => Err(Counter::DropFragment),
    }
}

/// A packet for the router itself.
#[inline(always)]
fn to_router<T: Tables>(
    tables: &T,
    arrival: &Arrival,
    packet: &Packet,
    key: &FlowKey,
    group: bool,
) -> Outcome {
    let to_dhcp_client = packet.protocol == UDP
        && packet.source_port == DHCP_SERVER
        && packet.destination_port == DHCP_CLIENT;
    if to_dhcp_client {
        return if expected_by_dhcp_client(tables, arrival, key.zone) {
            Outcome::Kernel(Counter::RouterFlow)
        } else {
            Outcome::Drop(Counter::DropPolicy)
        };
    }
    if matches!(packet.kind, Kind::EchoReply | Kind::IcmpOther) {
        return Outcome::Drop(Counter::DropIcmp);
    }
    let service = service_of(packet, packet.destination_port);
    let reachable =
        service != 0 && tables.zone(key.zone).is_some_and(|zone| zone.services & service != 0);
    if group && !(reachable && service == policy::DHCP) {
        return Outcome::Drop(Counter::DropMulticast);
    }
    if !reachable {
        return Outcome::Drop(Counter::DropPolicy);
    }
    let unconfigured = packet.source == 0 && service == policy::DHCP;
    if !(unconfigured || may_be_source(packet.source)) || tables.is_local(packet.source) {
        return Outcome::Drop(Counter::DropMartian);
    }
    crate::fragments::remember(tables, packet, key.zone);
    Outcome::Kernel(Counter::Service)
}

/// Whether a DHCP client of the router waits for an answer on the interface.
#[inline(never)]
fn expected_by_dhcp_client<T: Tables>(tables: &T, arrival: &Arrival, zone: u8) -> bool {
    match tables.flow(&dhcp_client_key(arrival.interface, zone).1) {
        Some(flow) => {
            flow.count(1, arrival.length, tables.now());
            true
        }
        None => false,
    }
}

/// The router's service that listens on `port` of the packet's protocol; 0 if none does.
#[inline(always)]
pub(crate) fn service_of(packet: &Packet, port: u16) -> u32 {
    match packet.protocol {
        UDP if port == DHCP_SERVER => policy::DHCP,
        UDP | TCP if port == DNS => policy::DNS,
        TCP if port == HTTPS => policy::WEB,
        ICMP if matches!(packet.kind, Kind::EchoRequest | Kind::EchoReply) => policy::PING,
        // Later fragments of a ping to the router carry the id as source port only.
        ICMP if packet.kind == Kind::Fragment => policy::PING,
        _ => 0,
    }
}

/// Keys under which the router's DHCP client on an interface is expected to be answered: neither
/// its address nor the server's is known, so the interface stands in the place of an address.
#[inline(always)]
pub(crate) fn dhcp_client_key(interface: u32, zone: u8) -> (FlowKey, FlowKey) {
    let request = FlowKey {
        source: interface,
        destination: 0,
        source_port: DHCP_CLIENT,
        destination_port: DHCP_SERVER,
        protocol: UDP,
        zone: ROUTER,
        reserved: 0,
    };
    let reply = FlowKey {
        source: 0,
        destination: interface,
        source_port: DHCP_SERVER,
        destination_port: DHCP_CLIENT,
        protocol: UDP,
        zone,
        reserved: 0,
    };
    (request, reply)
}

/// Whether a packet is a request of a DHCP client.
#[inline(always)]
pub(crate) fn is_dhcp_request(packet: &Packet) -> bool {
    packet.protocol == UDP
        && packet.source_port == DHCP_CLIENT
        && packet.destination_port == DHCP_SERVER
}

/// Makes the two entries of a flow that goes to `to_zone` and appears there as coming from
/// `source`. If another CPU made the same flow meanwhile, that one stays.
///
/// The reverse entry is made first: whoever finds the forward one finds both. A function of its own
/// in the kernel too, since its entries need most of the stack that a program has.
#[inline(never)]
pub(crate) fn create<T: Tables>(
    tables: &T,
    key: &FlowKey,
    to_zone: u8,
    source: u32,
    route: Option<&Route>,
) -> Result<(), Counter> {
    let translated = source != key.source;
    let mut port = key.source_port;
    let has_port = key.protocol != ICMP;
    if translated && has_port && key.zone != ROUTER && u16::from_be(port) < FIRST_PORT {
        port = random_port(tables);
    }
    // One entry serves for both directions in turn, for the sake of the stack.
    let mut entry = FlowEntry {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        last_seen: tables.now(),
        flags: if key.zone == ROUTER { LOCAL } else { 0 },
        peer_zone: key.zone,
        ..FlowEntry::default()
    };
    let mut reverse_key = FlowKey {
        source: key.destination,
        destination: source,
        source_port: key.destination_port,
        destination_port: port,
        protocol: key.protocol,
        zone: to_zone,
        reserved: 0,
    };
    let mut attempt = 0;
    loop {
        reverse_key.destination_port = port;
        set_deltas(&mut entry, &reverse_key);
        match tables.insert(&reverse_key, &entry) {
            Ok(()) => break,
            Err(InsertError::Full) => return Err(Counter::DropFull),
            Err(InsertError::Exists) => {
                attempt += 1;
                // The router's own flow keeps its address but may lose its port to a translated
                // one; other flows keep theirs if their address is kept.
                if attempt >= ATTEMPTS || !(translated || key.zone == ROUTER) {
                    return Err(Counter::DropPorts);
                }
                port = random_port(tables);
            }
        }
    }
    entry.source = source;
    entry.destination = key.destination;
    entry.source_port = port;
    entry.destination_port = key.destination_port;
    entry.flags = ORIGINAL;
    entry.peer_zone = to_zone;
    set_deltas(&mut entry, key);
    if let Some(route) = route
        && route.resolved
    {
        entry.egress = route.egress;
        entry.mtu = route.mtu;
        entry.macs = route.macs;
        entry.generation = tables.generation();
    }
    match tables.insert(key, &entry) {
        Ok(()) => Ok(()),
        Err(error) => {
            tables.remove(&reverse_key);
            match error {
                InsertError::Exists => Ok(()),
                InsertError::Full => Err(Counter::DropFull),
            }
        }
    }
}

#[inline(always)]
fn set_deltas(entry: &mut FlowEntry, key: &FlowKey) {
    entry.address_delta =
        add(delta(key.source, entry.source), delta(key.destination, entry.destination));
    entry.port_delta = add(
        delta16(key.source_port, entry.source_port),
        delta16(key.destination_port, entry.destination_port),
    );
}

#[inline(always)]
fn random_port<T: Tables>(tables: &T) -> u16 {
    let span = 0x1_0000 - u64::from(FIRST_PORT);
    let offset = (u64::from(tables.random()) * span) >> 32;
    (FIRST_PORT + offset as u16).to_be()
}

/// Multicast (RFC 5771) or limited broadcast.
#[inline(always)]
pub(crate) fn is_group(address: u32) -> bool {
    let [first, ..] = address.to_ne_bytes();
    first & 0xf0 == 0xe0 || address == u32::MAX
}

/// Not "this network", loopback, multicast, reserved or broadcast (RFC 1812 section 5.3.7).
#[inline(always)]
fn may_be_source(address: u32) -> bool {
    let [first, ..] = address.to_ne_bytes();
    first != 0 && first != 127 && first < 224
}

#[inline(always)]
fn may_be_destination(address: u32) -> bool {
    may_be_source(address)
}
