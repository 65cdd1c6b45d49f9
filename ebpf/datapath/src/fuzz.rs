//! What fuzzing and the replay of its corpus run: a router that has one flow of each protocol, and
//! a sequence of raw frames.
//!
//! The input is a sequence of `interface (1 byte), length (1 byte), frame`.

use portcullis_datapath_abi::{FlowKey, Interface, Zone, policy};

use crate::{
    Arrival, Cast, Departure, Route, Verdict, egress, ingress,
    simulation::{Bytes, Simulation},
};

/// Runs the frames of `input` through a router.
///
/// # Panics
/// If a frame is changed that no flow covers, grows or shrinks, or if a flow has one direction only.
pub fn run(input: &[u8]) {
    let router = router();
    let mut rest = input;
    while let [interface, length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        one(&router, *interface, bytes);
        router.now.set(router.now.get().wrapping_add(1));
    }
    let flows = router.flows();
    for (key, entry) in &flows {
        assert!(flows.contains_key(&entry.peer_key(key)), "half a flow: {key:?}");
    }
}

fn one(router: &Simulation, interface: u8, bytes: &[u8]) {
    let mut frame = Bytes(bytes.to_vec());
    let before = frame.clone();
    let length = u32::try_from(bytes.len().saturating_sub(14)).unwrap_or(u32::MAX);
    let index = u32::from(interface & 3);
    let verdict = if interface & 128 == 0 {
        let cast = if interface & 64 == 0 { Cast::Host } else { Cast::Group };
        let arrival = Arrival { interface: index, cast, length, segments: 1, segment_size: 0 };
        ingress(router, &frame, &arrival)
    } else {
        let forwarded = interface & 64 != 0;
        egress(router, &frame, &Departure { interface: index, forwarded, length, segments: 1 })
    };
    let carried_out = frame.carry_out(&verdict);
    match verdict {
        Verdict::Drop(_) | Verdict::Kernel(_) => assert_eq!(frame, before, "{verdict:?}"),
        Verdict::Translate(..) | Verdict::Forward(..) => {
            assert!(carried_out, "cut short in the middle of a rewrite: {verdict:?}");
            assert_eq!(frame.0.len(), before.0.len());
        }
    }
}

fn router() -> Simulation {
    let mut router = Simulation::default();
    let address = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
    let outside = address([198, 51, 100, 2]);
    for (index, zone, nat_address) in [(1, 1, address([192, 168, 77, 1])), (2, 2, outside)] {
        router
            .interfaces
            .insert(index, Interface { index, nat_address, mac: [0; 6], zone, flags: 0 });
        router.addresses.insert(nat_address);
    }
    router.zones.insert(1, Zone { services: 15, ..Zone::default() });
    router.zones.insert(2, Zone { flags: policy::MASQUERADE, ..Zone::default() });
    router.allow(1, 2);
    let route = |egress| Route { egress, mtu: 1500, next_hop: 1, resolved: true, macs: [0; 3] };
    router.routes.insert([192, 168, 77], route(1));
    router.default_route = Some(route(2));
    for protocol in [1, 6, 17] {
        let key = FlowKey {
            source: address([192, 168, 77, 100]),
            destination: address([203, 0, 113, 10]),
            source_port: 500_u16.to_be(),
            destination_port: if protocol == 1 { 0 } else { 80_u16.to_be() },
            protocol,
            zone: 1,
            reserved: 0,
        };
        // The table is empty: there is room.
        let _ = crate::open::create(&router, &key, 2, outside, None);
    }
    router
}
