//! Mappings against a slow model: a list of who has what.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_datapath::{
    nat::{Exit, outbound, release},
    simulation::Simulation,
};
use portcullis_datapath_abi::{
    FlowKey, Mapping,
    flow::{ENDPOINT_INDEPENDENT_FILTER, ICMP, TCP, UDP},
    from_address,
    policy::{MASQUERADE, ROUTER},
};
use proptest::prelude::*;

use crate::{
    frames::{LAN, LAN_ZONE, OUTSIDE, WAN, WAN_ZONE},
    site::*,
};

#[derive(Clone, Debug)]
enum Step {
    /// A flow of host, port, protocol leaves by an address; full cone or not.
    Open { host: u8, port: u16, protocol: u8, second: bool, full_cone: bool },
    /// The flow made at this place ends.
    End(usize),
    /// The service clears away what is not used.
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let port = prop_oneof![0..4_u16, 1020..1030_u16, 65_530..=65_535_u16, any::<u16>()];
    let protocol = prop_oneof![Just(UDP), Just(TCP), Just(ICMP)];
    let open = (0..6_u8, port, protocol, any::<bool>(), any::<bool>()).prop_map(
        |(host, port, protocol, second, full_cone)| Step::Open {
            host,
            port,
            protocol,
            second,
            full_cone,
        },
    );
    let step =
        prop_oneof![6 => open, 3 => any::<usize>().prop_map(Step::End), 1 => Just(Step::Sweep)];
    prop::collection::vec(step, 1..200)
}

/// Host 0 is the router itself.
fn key(host: u8, port: u16, protocol: u8) -> FlowKey {
    let source =
        if host == 0 { from_address(OUTSIDE) } else { u32::from_ne_bytes([192, 168, 77, host]) };
    let zone = if host == 0 { ROUTER } else { LAN_ZONE };
    FlowKey { source, source_port: port.to_be(), protocol, zone, ..FlowKey::default() }
}

type Internal = (u32, u16, u8, u8, u32);

fn internal(mapping: &Mapping) -> Internal {
    let port = mapping.internal_port;
    (mapping.internal, port, mapping.protocol, mapping.zone, mapping.external)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_two_ends_inside_ever_have_the_same_end_outside(steps in steps()) {
        let mut site = site();
        for port in [53, 443, 1024] {
            reserve(&mut site, true, port);
            reserve(&mut site, false, port);
        }
        // The model: external port and number of flows by internal end.
        let mut model: BTreeMap<Internal, (u16, u32)> = BTreeMap::new();
        let mut flows: Vec<(Internal, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Open { host, port, protocol, second, full_cone } => {
                    let key = key(host, port, protocol);
                    let address = from_address(if second && host != 0 { SECOND } else { OUTSIDE });
                    let exit = Exit { address, flags: MASQUERADE, zone: WAN_ZONE };
                    let source = outbound(&site, &site.config, &key, &exit, full_cone).unwrap();
                    prop_assert_eq!(source.address, address);
                    let internal = (key.source, key.source_port, protocol, key.zone, address);
                    let mine = u16::from_be(source.port);
                    match model.get_mut(&internal) {
                        Some((known, count)) => {
                            prop_assert_eq!(*known, source.port, "endpoint-independent");
                            *count += 1;
                        }
                        None => {
                            let taken = model.iter().any(|((_, _, p, _, a), (known, _))| {
                                (*p, *a, *known) == (protocol, address, source.port)
                            });
                            prop_assert!(!taken, "{mine} is somebody's");
                            let wanted_taken = model.iter().any(|((_, _, p, _, a), (known, _))| {
                                (*p, *a, *known) == (protocol, address, key.source_port)
                            });
                            let reserved = [53, 443, 1024].contains(&port) && host != 0;
                            let possible = protocol == ICMP || (port != 0 && !reserved);
                            if possible && !wanted_taken {
                                prop_assert_eq!(mine, port, "preserved");
                            }
                            if protocol != ICMP {
                                prop_assert_eq!(mine & 1, port & 1, "parity");
                                prop_assert_ne!(mine, 0);
                                if port != 0 {
                                    prop_assert_eq!(mine < 1024, port < 1024, "range");
                                }
                                let free = ![53, 443, 1024].contains(&mine);
                                prop_assert!(host == 0 || free);
                            }
                            model.insert(internal, (source.port, 1));
                        }
                    }
                    let mapping = site.nat.mappings()[&source.mapping];
                    prop_assert!(!full_cone || mapping.flags == ENDPOINT_INDEPENDENT_FILTER);
                    flows.push((internal, source.mapping));
                }
                Step::End(place) => {
                    if flows.is_empty() {
                        continue;
                    }
                    let (internal, number) = flows.swap_remove(place % flows.len());
                    release(&site, number);
                    model.get_mut(&internal).unwrap().1 -= 1;
                }
                Step::Sweep => {
                    for (number, mapping) in site.nat.mappings() {
                        if references(&site, number).count() == 0 {
                            clear_away(&site, number);
                            model.remove(&self::internal(&mapping));
                        }
                    }
                }
            }
            let now: BTreeMap<Internal, (u16, u32)> = site
                .nat
                .mappings()
                .values()
                .map(|mapping| (internal(mapping), (mapping.external_port, mapping.references)))
                .collect();
            prop_assert_eq!(&now, &model);
        }
    }

    /// Whatever goes out, its answer comes back to who sent it, with the ends that it knows.
    #[test]
    fn the_answer_to_every_packet_finds_back(
        packets in prop::collection::vec(
            (
                prop_oneof![Just(LAN), Just(DMZ)], 100..104_u8, 1..3000_u16,
                0..5_usize, prop_oneof![1..3000_u16, 8080..8084_u16],
            ),
            1..60,
        ),
    ) {
        let mut site = site();
        site.policy.allow(LAN_ZONE, DMZ_ZONE);
        for port in 8080..8083 {
            let to = from_address([WEB_SERVER, OTHER_HOST][usize::from(port) % 2]);
            let forwarded = portcullis_datapath_abi::nat::Forward {
                to, first_port: port, to_port: 80, zone: WAN_ZONE, flags: 1, reserved: 0,
            };
            forward(&mut site, UDP, port, forwarded);
        }
        let mut keys = BTreeSet::new();
        for (interface, host, port, destination, destination_port) in packets {
            let network = if interface == LAN { [192, 168, 77] } else { [10, 0, 0] };
            let from = (std::net::Ipv4Addr::new(network[0], network[1], network[2], host), port);
            let to = [
                std::net::Ipv4Addr::new(203, 0, 113, 10), OUTSIDE, SECOND, WEB_SERVER,
                std::net::Ipv4Addr::new(192, 168, 77, 101),
            ][destination];
            let to = (to, destination_port);
            let sent = send(&site, interface, from, to);
            prop_assert!(destination != 0 || sent.is_ok(), "the policy lets it out: {sent:?}");
            let Ok([source, reached]) = sent else {
                continue;
            };
            let back = match reached.0.octets() {
                [192, 168, 77, _] => LAN,
                [10, 0, 0, _] => DMZ,
                _ => WAN,
            };
            let answer = send(&site, back, reached, source);
            prop_assert_eq!(answer, Ok([to, from]), "{:?} to {:?} left as {:?}", from, to, source);
            // And again the same way.
            prop_assert_eq!(send(&site, interface, from, to), Ok([source, reached]));
        }
        // No key of any direction is in two flows, and outside all of them are different.
        for pair in site.flows4() {
            for key in BTreeSet::from(pair) {
                prop_assert!(keys.insert(key), "twice: {key:?}");
            }
        }
    }
}

/// Two CPUs at once: threads that open, end and clear away the same few ends.
#[test]
fn references_survive_all_cpus_at_once() {
    use portcullis_datapath_abi::nat::References;
    let word = portcullis_flow_table::AtomicU32::new(0);
    let closed = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let references = References(&word);
                    if references.acquire() {
                        assert!(!references.close(), "closed while it is used");
                        references.release();
                    }
                }
                if References(&word).close() {
                    closed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
    let references = References(&word);
    if closed.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        assert!(references.close());
    }
    assert!(closed.load(std::sync::atomic::Ordering::SeqCst) <= 1);
    assert!(!references.acquire() && references.count() == 0);
}

/// The external port stays with a mapping until it is cleared away, and is free then.
#[test]
fn a_port_is_free_again_after_the_last_flow() {
    let site: Simulation = site();
    let exit = Exit { address: from_address(OUTSIDE), flags: MASQUERADE, zone: WAN_ZONE };
    let open = |host| outbound(&site, &site.config, &key(host, 4000, UDP), &exit, false).unwrap();
    let first = open(1);
    assert_eq!(first.port, 4000_u16.to_be());
    release(&site, first.mapping);
    assert_ne!(open(2).port, 4000_u16.to_be(), "it idles, but is there");
    clear_away(&site, first.mapping);
    assert_eq!(open(3).port, 4000_u16.to_be());
}
