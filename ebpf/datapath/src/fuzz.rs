//! What fuzzing and the replay of its corpus run: a router that has flows of each protocol, and a
//! sequence of raw frames.
//!
//! The input is a sequence of `interface (1 byte), length (1 byte), frame`. Bits of the first byte:
//! 0 and 1 the interface, 4 the checksums of an ICMP message are put right, 5 XDP, 6 for a group or
//! forwarded by the kernel, 7 leaving.

use portcullis_datapath_abi::{
    Interface, Zone,
    flow::{ICMP, ICMPV6, LIVE, TCP, UDP},
    nat, policy,
};

use crate::{
    Arrival, Cast, Departure, Hook, L3, Route, Verdict, add, mapped,
    simulation::{Bytes, Simulation, nat::bytes},
};

/// Runs the frames of `input` through a router.
///
/// # Panics
/// If a frame is changed that no flow covers, grows or shrinks, or if the flow table leaks.
pub fn run(input: &[u8]) {
    let router = router();
    let mut rest = input;
    while let [interface, length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        one(&router, *interface, bytes);
        router.now.set(router.now.get().wrapping_add(1));
    }
    router.flows.clear_gone();
    let live = router.flows.live();
    assert_eq!(live.len(), router.flows.in_use(), "a record is lost");
    assert!(live.values().all(|record| record.state == LIVE));
}

fn one(router: &Simulation, interface: u8, bytes: &[u8]) {
    let mut frame = Bytes(bytes.to_vec());
    if interface & 16 != 0 {
        put_right(&mut frame.0);
    }
    let before = frame.clone();
    let length = u32::try_from(bytes.len().saturating_sub(14)).unwrap_or(u32::MAX);
    let index = u32::from(interface & 3);
    let verdict = if interface & 128 == 0 {
        let cast = if interface & 64 == 0 { Cast::Host } else { Cast::Group };
        let hook = if interface & 32 == 0 { Hook::Tcx } else { Hook::Xdp };
        let arrival = Arrival {
            interface: index,
            cast,
            hook,
            length,
            segments: 1,
            segment_size: 0,
            ends: None,
        };
        router.arrive(&frame, &arrival)
    } else {
        let forwarded = interface & 64 != 0;
        router.leave(&frame, &Departure { interface: index, forwarded, length, segments: 1 })
    };
    let carried_out = frame.carry_out(&verdict);
    match verdict {
        Verdict::Translate(..) | Verdict::Forward(..) => {
            assert!(carried_out, "cut short in the middle of a rewrite: {verdict:?}");
            assert_eq!(frame.0.len(), before.0.len());
        }
        _ => assert_eq!(frame, before, "{verdict:?}"),
    }
}

/// Sets the checksum of an ICMP message, and of the IPv4 header that it quotes: guessing those is not
/// what a fuzzer is for.
fn put_right(frame: &mut [u8]) {
    let Some((ethernet, packet)) = frame.split_at_mut_checked(L3) else {
        return;
    };
    let (header, protocol, mut ends) = match ethernet.get(12..) {
        Some([8, 0]) => (20, packet.get(9).copied(), Vec::new()),
        Some([0x86, 0xdd]) => {
            (40, packet.get(6).copied(), packet.get(8..40).unwrap_or(&[]).to_vec())
        }
        _ => return,
    };
    let words = if header == 20 { packet.get(2..4) } else { packet.get(4..6) };
    let Some([high, low]) = words else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let end = if header == 20 { length } else { length + header };
    let Some(message) = packet.get_mut(header..end) else {
        return;
    };
    if header == 20
        && let Some(quoted) = message.get_mut(8..28)
    {
        complete(quoted, 10, &[]);
    }
    match protocol {
        Some(ICMP) => complete(message, 2, &[]),
        Some(ICMPV6) => {
            ends.extend(u32::try_from(length).unwrap_or_default().to_be_bytes());
            ends.extend([0, 0, 0, ICMPV6]);
            complete(message, 2, &ends);
        }
        _ => {}
    }
}

/// Sets the checksum of `bytes` at an offset; `more` counts too.
fn complete(bytes: &mut [u8], at: usize, more: &[u8]) {
    let Some(place) = bytes.get_mut(at..at + 2) else {
        return;
    };
    place.fill(0);
    let word = |pair: &[u8]| {
        u16::from_ne_bytes([
            pair.first().copied().unwrap_or_default(),
            pair.get(1).copied().unwrap_or_default(),
        ])
    };
    let sum = bytes.chunks(2).chain(more.chunks(2)).map(word).fold(0, add);
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&(!sum).to_ne_bytes());
    }
}

/// LAN 1 and WAN 2, from the one to the other everything is allowed.
fn router() -> Simulation {
    let mut router = Simulation::default();
    let address = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
    let outside = address([198, 51, 100, 2]);
    for (index, zone, nat_address) in [(1, 1, address([192, 168, 77, 1])), (2, 2, outside)] {
        let interface = Interface { index, nat_address, mac: [0; 6], zone, flags: 0 };
        router.interfaces.insert(index, interface);
        router.addresses.insert(nat_address);
    }
    router.zones.insert(1, Zone { services: 15, ..Zone::default() });
    router.zones.insert(2, Zone { flags: policy::MASQUERADE, ..Zone::default() });
    router.policy.allow(1, 2);
    let route =
        |egress, next_hop| Route { egress, mtu: 1500, resolved: true, macs: [0; 3], next_hop };
    let [a, b, c, _] = mapped(0);
    router.routes.insert(([a, b, c], [192, 168, 77]), route(1, mapped(1)));
    router.default_route = Some(route(2, mapped(1)));
    router.default_route6 = Some(route(2, [1; 4]));
    translation(&mut router, outside);
    for protocol in [1, 6, 17] {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
        frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([192, 168, 77, 100, 203, 0, 113, 10]);
        frame.extend(match protocol {
            1 => [8, 0, 0, 0, 1, 244, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            6 => [1, 244, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 32, 0, 0, 0, 0, 0],
            _ => [1, 244, 0, 80, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        });
        one(&router, 1, &frame);
    }
    router
}

/// Port 80 of the outside address leads to a host, with hairpin; another address is another host's own;
/// the MSS is lowered.
fn translation(router: &mut Simulation, outside: u32) {
    let [host, other, own] = [[192, 168, 77, 100], [192, 168, 77, 101], [198, 51, 100, 3]]
        .map(|bytes: [u8; 4]| u32::from_ne_bytes(bytes));
    let zone_flags = policy::MASQUERADE | policy::STATIC_NAT | nat::mss_flags(nat::MSS_BY_MTU);
    router.zones.insert(2, Zone { flags: zone_flags, ..Zone::default() });
    for (address, flags) in [(outside, nat::HAS_FORWARDS), (own, nat::HAS_STATIC)] {
        let key = nat::ExternalKey { bank: 0, address };
        let external =
            nat::External { masquerade: outside, zone: 2, flags, zone_flags: zone_flags as u16 };
        router.nat.externals.insert(nat::ExternalKey::BITS, &bytes(&key), external);
    }
    let forward = nat::Forward {
        to: host,
        first_port: 80,
        to_port: 8080,
        zone: 2,
        flags: nat::HAIRPIN,
        reserved: 0,
    };
    router.nat.forwards.insert(0, forward);
    for protocol in [TCP, UDP] {
        let port = 80_u16.to_be();
        let key = nat::ForwardKey { protocol, address: outside, port, ..Default::default() };
        let list = nat::ForwardList([0, nat::NO_FORWARD, nat::NO_FORWARD, nat::NO_FORWARD]);
        router.nat.forward_ports.insert(nat::ForwardKey::BITS, &bytes(&key), list);
    }
    for (direction, address, other) in [(nat::INWARD, own, other), (nat::OUTWARD, other, own)] {
        let key = nat::StaticKey { address, bank: 0, zone: 2, direction, reserved: 0 };
        router.nat.statics.insert(nat::StaticKey::BITS, &bytes(&key), other);
    }
}
