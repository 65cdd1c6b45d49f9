//! A router with three zones: LAN, WAN with two addresses that masquerades, DMZ.

use std::net::Ipv4Addr;

use portcullis_datapath::{
    FlowTables, Route, mapped,
    simulation::{Simulation, nat::bytes},
};
use portcullis_datapath_abi::{
    Interface, Mapping, Zone,
    flow::{EntryKind, Payload},
    from_address,
    nat::{
        External, ExternalKey, Forward, ForwardKey, ForwardList, ForwardSourceKey, HAS_FORWARDS,
        HAS_STATIC, INWARD, NO_FORWARD, OF_INTERFACE, OUTWARD, Pool, PoolBlock, PoolBlockKey,
        PoolKey, References, StaticKey, reserved_index,
    },
    policy::{MASQUERADE, SOURCE_POOLS, STATIC_NAT},
};
use portcullis_flow_table::{AtomicU32, Bucket, Memory, hash16, remove};

use crate::frames::{self, LAN_ZONE, OUTSIDE, WAN_ZONE, router};

pub const DMZ: u32 = 4;
pub const DMZ_ZONE: u8 = 3;
pub const OTHER_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 101);
pub const WEB_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 80);
pub const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);

pub fn site() -> Simulation {
    let mut site = router();
    site.zones.insert(DMZ_ZONE, Zone::default());
    let nat_address = from_address(Ipv4Addr::new(10, 0, 0, 1));
    site.interfaces
        .insert(DMZ, Interface { index: DMZ, nat_address, mac: [2; 6], zone: DMZ_ZONE, flags: 0 });
    site.addresses.extend([nat_address, from_address(SECOND)]);
    let [a, b, c, _] = mapped(0);
    let route = |egress, next_hop| Route {
        egress,
        mtu: 1500,
        next_hop: mapped(from_address(next_hop)),
        resolved: true,
        macs: [1, 2, 3],
    };
    site.routes.insert(([a, b, c], [10, 0, 0]), route(DMZ, WEB_SERVER));
    site.policy.allow(DMZ_ZONE, WAN_ZONE);
    for address in [OUTSIDE, SECOND] {
        external(&mut site, address, 0);
    }
    site
}

/// Makes an address external, as the service does for a zone that masquerades.
pub fn external(site: &mut Simulation, address: Ipv4Addr, flags: u8) {
    let zone_flags = site.zones[&WAN_ZONE].flags as u16;
    let flags = flags | if [OUTSIDE, SECOND].contains(&address) { OF_INTERFACE } else { 0 };
    let external =
        External { masquerade: from_address(OUTSIDE), zone: WAN_ZONE, flags, zone_flags };
    let key = ExternalKey { bank: 0, address: from_address(address) };
    site.nat.externals.insert(ExternalKey::BITS, &bytes(&key), external);
}

/// Forwards one port of an external address.
pub fn forward(site: &mut Simulation, protocol: u8, external_port: u16, forward: Forward) {
    let number = site.nat.forwards.len() as u16;
    site.nat.forwards.insert(u32::from(number), forward);
    external(site, OUTSIDE, HAS_FORWARDS);
    let key = ForwardKey {
        bank: 0,
        protocol,
        reserved: 0,
        address: from_address(OUTSIDE),
        port: external_port.to_be(),
        tail: 0,
    };
    let list = ForwardList([number, NO_FORWARD, NO_FORWARD, NO_FORWARD]);
    site.nat.forward_ports.insert(ForwardKey::BITS, &bytes(&key), list);
    reserve(site, protocol == 17, external_port);
}

pub fn source_of_forward(site: &mut Simulation, number: u16, source: Ipv4Addr) {
    let source = from_address(source);
    let key = ForwardSourceKey { bank: 0, reserved: 0, number, source };
    site.nat.forward_sources.insert(ForwardSourceKey::BITS, &bytes(&key), 1);
}

pub fn reserve(site: &mut Simulation, udp: bool, port: u16) {
    *site.nat.reserved.entry(reserved_index(0, udp, port)).or_default() |= 1 << (port % 64);
}

/// Gives a host an external address of its own.
pub fn one_to_one(site: &mut Simulation, outside: Ipv4Addr, inside: Ipv4Addr) {
    site.zones.get_mut(&WAN_ZONE).expect("it is there").flags |= STATIC_NAT;
    external(site, outside, HAS_STATIC);
    let (outside, inside) = (from_address(outside), from_address(inside));
    for (direction, address, other) in [(INWARD, outside, inside), (OUTWARD, inside, outside)] {
        let key = StaticKey { address, bank: 0, zone: WAN_ZONE, direction, reserved: 0 };
        site.nat.statics.insert(StaticKey::BITS, &bytes(&key), other);
    }
}

/// Has the LAN take addresses from `first` on.
pub fn pool(site: &mut Simulation, first: Ipv4Addr, count: u32) {
    site.zones.get_mut(&WAN_ZONE).expect("it is there").flags |= SOURCE_POOLS | MASQUERADE;
    for number in 0..count {
        external(site, Ipv4Addr::from(u32::from(first) + number), 0);
    }
    let [network, ..] = [from_address(Ipv4Addr::new(192, 168, 77, 0))];
    let key = PoolKey { bank: 0, zone: WAN_ZONE, reserved: 0, source: network };
    site.nat.pools.insert(PoolKey::FIXED_BITS + 24, &bytes(&key), Pool { first: 0, count });
    let key = PoolBlockKey { bank: 0, index: 0 };
    let block = PoolBlock { index: 0, address: first.into() };
    site.nat.pool_blocks.insert(PoolBlockKey::FIXED_BITS, &bytes(&key), block);
}

/// The index, for what the service does to it.
pub struct Index<'a>(pub &'a Simulation);

impl Memory for Index<'_> {
    fn buckets(&self) -> u32 {
        self.0.config.buckets
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.0.bucket(index)
    }

    fn lock(&self, index: u32) -> Option<&AtomicU32> {
        self.0.lock(index)
    }
}

/// The references of a mapping.
pub fn references(site: &Simulation, number: u32) -> References<'_> {
    use portcullis_datapath::nat::NatTables;
    let mapping: *mut Mapping = site.mapping(number).expect("it is there").as_ptr();
    // SAFETY: mappings live as long as the tables, and this field is only changed as an atomic.
    References(unsafe { AtomicU32::from_ptr(&raw mut (*mapping).references) })
}

/// What the service does with a mapping that no flow uses.
pub fn clear_away(site: &Simulation, number: u32) {
    assert!(references(site, number).close(), "it is still used");
    let mapping = site.nat.mappings()[&number];
    let entries = [
        (EntryKind::Internal, mapping.internal_key()),
        (EntryKind::External, mapping.external_key()),
    ];
    for (kind, key) in entries {
        let hash = hash16(site.config.seed, key.words(kind));
        assert!(remove(&Index(site), hash, Payload::new(kind, number, 0).0), "in the index");
    }
    site.nat.recycle(number);
}

/// Addresses and ports of a UDP or TCP packet: source, destination.
pub fn ends(ip: &[u8]) -> [(Ipv4Addr, u16); 2] {
    [(12, 20), (16, 22)].map(|(address, port)| {
        let octets: [u8; 4] = ip[address..address + 4].try_into().expect("four");
        (octets.into(), u16::from_be_bytes([ip[port], ip[port + 1]]))
    })
}

/// Sends a UDP datagram through, and returns its ends behind the router.
pub fn send(
    site: &Simulation,
    interface: u32,
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
) -> Result<[(Ipv4Addr, u16); 2], String> {
    let packet = frames::datagram(from.0, to.0, 17, 64, &frames::udp(from.1, to.1, b"payload"));
    let out = frames::pass(site, interface, &packet)?;
    let sum = frames::sum(&out[..20]);
    assert_eq!(sum, 0xffff, "checksum of the header");
    Ok(ends(&out))
}

/// The zone of an interface.
pub fn zone(interface: u32) -> u8 {
    match interface {
        frames::LAN => LAN_ZONE,
        frames::WAN => WAN_ZONE,
        _ => DMZ_ZONE,
    }
}
