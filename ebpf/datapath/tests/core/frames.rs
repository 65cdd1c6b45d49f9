//! Frames and a router to send them through.

use std::net::Ipv4Addr;

use portcullis_datapath::{
    Arrival, Cast, Hook, Route, Verdict, mapped,
    simulation::{Bytes, Simulation},
};
use portcullis_datapath_abi::{Interface, Zone, from_address, policy};

pub const LAN: u32 = 3;
pub const WAN: u32 = 2;
pub const LAN_ZONE: u8 = 1;
pub const WAN_ZONE: u8 = 2;
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// A router with the default policy: LAN to WAN allowed and masqueraded.
pub fn router() -> Simulation {
    let mut router = Simulation::default();
    let mac = [2, 0, 0, 0, 0, 1];
    router.interfaces.insert(
        LAN,
        Interface { index: LAN, nat_address: from_address(ROUTER), mac, zone: LAN_ZONE, flags: 0 },
    );
    router.interfaces.insert(
        WAN,
        Interface { index: WAN, nat_address: from_address(OUTSIDE), mac, zone: WAN_ZONE, flags: 0 },
    );
    let services = policy::DHCP | policy::DNS | policy::PING | policy::WEB;
    router.zones.insert(LAN_ZONE, Zone { services, ..Zone::default() });
    router.zones.insert(WAN_ZONE, Zone { flags: policy::MASQUERADE, ..Zone::default() });
    router.policy.allow(LAN_ZONE, WAN_ZONE);
    router.addresses.extend([from_address(ROUTER), from_address(OUTSIDE)]);
    let route = |egress, next_hop: Ipv4Addr| Route {
        egress,
        mtu: 1500,
        next_hop: mapped(from_address(next_hop)),
        resolved: true,
        macs: [1, 2, 3],
    };
    let [a, b, c, _] = mapped(0);
    router.routes.insert(([a, b, c], [192, 168, 77]), route(LAN, HOST));
    router.default_route = Some(route(WAN, Ipv4Addr::new(198, 51, 100, 1)));
    router
}

/// One's complement sum over bytes, the slow and certain way.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn pseudo(ip: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = ip[12..20].to_vec();
    bytes.extend([0, ip[9]]);
    bytes.extend((length as u16).to_be_bytes());
    bytes
}

/// Offset of the transport checksum in its header.
pub fn checksum_offset(protocol: u8) -> usize {
    match protocol {
        1 => 2,
        6 => 16,
        _ => 6,
    }
}

/// A datagram with correct checksums. `transport` has zeros where its checksum belongs.
pub fn datagram(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, ttl: u8, transport: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((20 + transport.len() as u16).to_be_bytes());
    ip.extend([0x12, 0x34, 0x40, 0, ttl, protocol, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut all = if protocol == 1 { Vec::new() } else { pseudo(&ip, transport.len()) };
    all.extend(transport);
    let mut checksum = !sum(&all);
    if checksum == 0 && protocol == 17 {
        checksum = 0xffff;
    }
    let at = 20 + checksum_offset(protocol);
    ip.extend(transport);
    ip[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    ip
}

pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

pub fn tcp(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

pub fn echo(kind: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(payload);
    bytes
}

pub fn icmp_error(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
    bytes.extend(quoted);
    bytes
}

pub fn ethernet(datagram: &[u8]) -> Bytes {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    frame.extend(datagram);
    Bytes(frame)
}

pub fn arrival(interface: u32, frame: &Bytes) -> Arrival {
    Arrival {
        interface,
        cast: Cast::Host,
        hook: Hook::Tcx,
        length: frame.0.len().saturating_sub(14) as u32,
        segments: 1,
        segment_size: 0,
        ends: None,
    }
}

/// What comes out of the router, behind the Ethernet header; the verdict's name otherwise.
pub fn pass(router: &Simulation, interface: u32, datagram: &[u8]) -> Result<Vec<u8>, String> {
    let mut frame = ethernet(datagram);
    let before = frame.clone();
    let verdict = router.arrive(&frame, &arrival(interface, &frame));
    assert_eq!(frame, before, "decisions change nothing");
    match verdict {
        Verdict::Forward(..) => {
            assert!(frame.carry_out(&verdict));
            assert_correct(&frame.0[14..]);
            Ok(frame.0[14..].to_vec())
        }
        Verdict::Kernel(counter) | Verdict::Translate(counter, _) => Err(counter.name().to_owned()),
        Verdict::Drop(drop) => Err(drop.counter.name().to_owned()),
        Verdict::Answer(answer) => Err(format!("{:?}", answer.kind)),
        other => Err(format!("{other:?}")),
    }
}

/// All checksums equal a full computation.
pub fn assert_correct(ip: &[u8]) {
    assert_eq!(sum(&ip[..20]), 0xffff, "IP header");
    let transport = &ip[20..];
    let protocol = ip[9];
    if protocol == 17 && transport[6..8] == [0, 0] {
        return;
    }
    let mut all = if protocol == 1 { Vec::new() } else { pseudo(ip, transport.len()) };
    all.extend(transport);
    assert_eq!(sum(&all), 0xffff, "transport, protocol {protocol}");
}
