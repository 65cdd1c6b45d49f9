//! Early drop: who is refused before the policy is asked, and how a source proves that it exists.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as expected fails the test, as it should"
)]

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use portcullis_datapath::{
    AnswerKind, Arrival, Cast, Hook, Route, Stage, Verdict,
    classify::Action,
    guard::{Challenge, challenge, write_challenge},
    mapped,
    simulation::{Bytes, Simulation},
};
use portcullis_datapath_abi::{
    Counter, Interface, Zone, classifier,
    guard::{
        BLOCKED, BLOCKLIST, BOGON, EXEMPT, EXEMPTIONS, FloodClass, Guard, Limit, MALFORMED,
        VERIFIED_TICKS,
    },
    policy::MASQUERADE,
};

const WAN: u32 = 2;
const LAN: u32 = 3;
const CLIENT: [u8; 4] = [8, 8, 4, 4];
const SERVER: [u8; 4] = [192, 0, 9, 10];
const CLIENT6: [u8; 16] = [0x26, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4];
const SERVER6: [u8; 16] = [0x26, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
const MAC_CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];
const MAC_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OPEN_WAN: u32 = 1 << 2;

/// Servers with public addresses in the LAN, open to the WAN.
fn router(settings: Guard) -> Simulation {
    let mut router = Simulation::default();
    for (index, zone) in [(WAN, 2), (LAN, 1)] {
        let interface = Interface { index, zone, mac: MAC_ROUTER, ..Interface::default() };
        router.interfaces.insert(index, interface);
        router.zones.insert(zone, Zone::default());
    }
    router.policy.allow(2, 1);
    router.policy.allow(1, 2);
    let route = |egress| Route {
        egress,
        mtu: 1500,
        resolved: true,
        macs: [1, 2, 3],
        next_hop: mapped(u32::from_ne_bytes(SERVER)),
    };
    router.default_route = Some(route(LAN));
    router.default_route6 = Some(route(LAN));
    router.guard.settings = Some(settings);
    router
}

fn arrival(frame: &Bytes) -> Arrival {
    Arrival {
        interface: WAN,
        cast: Cast::Host,
        hook: Hook::Tcx,
        length: frame.0.len() as u32 - 14,
        segments: 1,
        segment_size: 0,
        ends: None,
    }
}

fn udp(from: [u8; 4], to: [u8; 4]) -> Bytes {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MAC_CLIENT, MAC_ROUTER)
        .ipv4(from, to, 60)
        .udp(5000, 53)
        .write(&mut bytes, b"question")
        .unwrap();
    Bytes(bytes)
}

fn udp6(from: [u8; 16], to: [u8; 16]) -> Bytes {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MAC_CLIENT, MAC_ROUTER)
        .ipv6(from, to, 60)
        .udp(5000, 53)
        .write(&mut bytes, b"question")
        .unwrap();
    Bytes(bytes)
}

fn syn(port: u16) -> Bytes {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MAC_CLIENT, MAC_ROUTER)
        .ipv4(CLIENT, SERVER, 60)
        .tcp(port, 443, 0x1234_5678, 64_000)
        .syn()
        .options_raw(&[2, 4, 5, 0xb4, 1, 3, 3, 7])
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    Bytes(bytes)
}

fn syn6(port: u16) -> Bytes {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MAC_CLIENT, MAC_ROUTER)
        .ipv6(CLIENT6, SERVER6, 60)
        .tcp(port, 443, 7, 64_000)
        .syn()
        .write(&mut bytes, &[])
        .unwrap();
    Bytes(bytes)
}

fn reset(port: u16, sequence: u32) -> Bytes {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MAC_CLIENT, MAC_ROUTER)
        .ipv4(CLIENT, SERVER, 60)
        .tcp(port, 443, sequence, 0)
        .rst()
        .write(&mut bytes, &[])
        .unwrap();
    Bytes(bytes)
}

fn reset6(port: u16, sequence: u32) -> Bytes {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MAC_CLIENT, MAC_ROUTER)
        .ipv6(CLIENT6, SERVER6, 60)
        .tcp(port, 443, sequence, 0)
        .rst()
        .write(&mut bytes, &[])
        .unwrap();
    Bytes(bytes)
}

/// What becomes of a frame: `None` if it is sent on, else why not.
fn fate(router: &Simulation, frame: &Bytes) -> Option<Counter> {
    match router.arrive(frame, &arrival(frame)) {
        Verdict::Forward(..) => None,
        Verdict::Drop(drop) => Some(drop.counter),
        Verdict::Next(Stage::Challenge) => match challenge(router, frame, &arrival(frame)) {
            Ok(_) => Some(Counter::DropUnproven),
            Err(drop) => Some(drop.counter),
        },
        other => panic!("{other:?}"),
    }
}

fn address(octets: [u8; 4]) -> [u32; 4] {
    mapped(u32::from_ne_bytes(octets))
}

fn address6(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d] = std::array::from_fn(|word| *octets[word * 4..].first_chunk().unwrap());
    [a, b, c, d].map(u32::from_ne_bytes)
}

#[test]
fn blocked_addresses_are_refused_in_both_directions() {
    let mut router = router(Guard { flags: BLOCKLIST, ..Guard::default() });
    router.guard.prefixes.insert(address(CLIENT), BLOCKED);
    assert_eq!(fate(&router, &udp(CLIENT, SERVER)), Some(Counter::DropBlocked));
    assert_eq!(fate(&router, &udp([1, 1, 1, 1], CLIENT)), Some(Counter::DropBlocked));
    assert_eq!(fate(&router, &udp([1, 1, 1, 1], SERVER)), None);
}

#[test]
fn bogons_are_refused_in_the_zones_that_say_so() {
    let mut settings = Guard { bogon_zones: OPEN_WAN, ..Guard::default() };
    for (zones, expected) in [(OPEN_WAN, Some(Counter::DropBogon)), (1 << 1, None)] {
        settings.bogon_zones = zones;
        let mut router = router(settings);
        router.guard.prefixes.insert(address([10, 0, 0, 1]), BOGON);
        assert_eq!(fate(&router, &udp([10, 0, 0, 1], SERVER)), expected);
    }
}

#[test]
fn packets_from_an_address_to_itself_are_refused() {
    let router = router(Guard { flags: MALFORMED, ..Guard::default() });
    assert_eq!(fate(&router, &udp(SERVER, SERVER)), Some(Counter::DropMalformed));
}

#[test]
fn a_source_over_its_limit_is_refused_and_others_are_not() {
    let mut settings = Guard { flood_zones: OPEN_WAN, ..Guard::default() };
    settings.per_source[FloodClass::Udp as usize] = Limit::new(10, 3);
    let router = router(settings);
    let send = |from: [u8; 4], port: u8| fate(&router, &udp(from, [192, 0, 9, port]));
    let passed = (0..20).filter(|port| send(CLIENT, *port).is_none()).count();
    assert_eq!(passed, 4);
    assert_eq!(send(CLIENT, 99), Some(Counter::DropFloodSource));
    assert_eq!(send([9, 9, 9, 9], 1), None);
    // Packets of flows that are open already are not counted.
    assert_eq!(send(CLIENT, 0), None);
    router.guard.nanoseconds.set(router.guard.nanoseconds.get() + 100_000_000);
    assert_eq!(send(CLIENT, 100), None, "a tenth of a second later there is one more");
}

/// XDP leaves what is for a service of the router to tcx, which asks again: that is one packet, not two.
#[test]
fn what_both_hooks_see_counts_once() {
    let mut settings = Guard { flood_zones: OPEN_WAN, ..Guard::default() };
    settings.per_source[FloodClass::Udp as usize] = Limit::new(10, 3);
    settings.total[FloodClass::Udp as usize] = Limit::new(10, 3);
    let mut router = router(settings);
    router.addresses.insert(u32::from_ne_bytes(SERVER));
    router.addresses6.insert(address6(SERVER6));
    let zone = Zone { services: portcullis_datapath_abi::policy::DNS, ..Zone::default() };
    router.zones.insert(2, zone);
    for frame in [udp(CLIENT, SERVER), udp6(CLIENT6, SERVER6)] {
        let first = Arrival { hook: Hook::Xdp, ..arrival(&frame) };
        for _ in 0..4 {
            let verdict = router.arrive(&frame, &first);
            assert!(matches!(verdict, Verdict::Defer), "{verdict:?}");
            let verdict = router.arrive(&frame, &arrival(&frame));
            assert!(matches!(verdict, Verdict::Kernel(Counter::Service)), "{verdict:?}");
        }
        // And what is too much is dropped by the first of them.
        let verdict = router.arrive(&frame, &first);
        assert!(matches!(verdict, Verdict::Drop(drop) if drop.counter == Counter::DropFloodSource));
        router.guard.nanoseconds.set(2 * router.guard.nanoseconds.get());
    }
}

/// The same of what the router answers, which XDP leaves to tcx at every stage.
#[test]
fn what_tcx_answers_counts_once_and_is_logged_once() {
    let mut settings = Guard { flood_zones: OPEN_WAN, ..Guard::default() };
    settings.per_source[FloodClass::Udp as usize] = Limit::new(10, 3);
    settings.total[FloodClass::Udp as usize] = Limit::new(10, 3);
    let with = |change: &dyn Fn(&mut Simulation)| {
        let mut router = router(settings);
        router.policy.decide(2, 1, Action::Allow, classifier::LOG);
        change(&mut router);
        router
    };
    let rejects = with(&|it| it.policy.decide(2, 1, Action::Reject, classifier::LOG));
    let nowhere = with(&|it| (it.default_route, it.default_route6) = (None, None));
    let narrow = with(&|it| {
        for route in [&mut it.default_route, &mut it.default_route6] {
            route.as_mut().unwrap().mtu = 20;
        }
    });
    let full = with(&|it| {
        it.config.flows = 0;
        it.zones.get_mut(&1).unwrap().flags = MASQUERADE;
        it.interfaces.get_mut(&LAN).unwrap().nat_address = u32::from_ne_bytes(SERVER);
    });
    let (v4, v6) = (udp(CLIENT, SERVER), udp6(CLIENT6, SERVER6));
    let (mut last4, mut last6) = (v4.clone(), v6.clone());
    (last4.0[22], last6.0[21]) = (1, 1);
    for (router, frame, answer, hits) in [
        (&rejects, &v4, AnswerKind::Refused, 4),
        (&rejects, &v6, AnswerKind::Refused, 4),
        (&nowhere, &v4, AnswerKind::NoRoute, 0),
        (&nowhere, &v6, AnswerKind::NoRoute, 0),
        (&narrow, &v4, AnswerKind::TooBig, 4),
        (&narrow, &v6, AnswerKind::TooBig, 4),
        (&with(&|_| {}), &last4, AnswerKind::TimeExceeded, 4),
        (&with(&|_| {}), &last6, AnswerKind::TimeExceeded, 4),
        // That there is no room is known last: both have asked the policy.
        (&full, &v4, AnswerKind::Prohibited, 8),
    ] {
        router.telemetry.events.borrow_mut().clear();
        let first = Arrival { hook: Hook::Xdp, ..arrival(frame) };
        for _ in 0..4 {
            let verdict = router.arrive(frame, &first);
            assert!(matches!(verdict, Verdict::Defer), "{answer:?}: {verdict:?}");
            let verdict = router.arrive(frame, &arrival(frame));
            assert!(
                matches!(verdict, Verdict::Answer(it) if it.kind == answer),
                "{answer:?}: {verdict:?}"
            );
        }
        assert_eq!(router.telemetry.events.borrow().len(), hits, "{answer:?}");
        let verdict = router.arrive(frame, &first);
        assert!(
            matches!(verdict, Verdict::Drop(drop) if drop.counter == Counter::DropFloodSource),
            "{answer:?}: {verdict:?}"
        );
        router.guard.nanoseconds.set(2 * router.guard.nanoseconds.get());
    }
}

#[test]
fn the_total_limit_holds_over_all_sources_and_spares_the_exempt() {
    let mut settings = Guard { flood_zones: OPEN_WAN, flags: EXEMPTIONS, ..Guard::default() };
    settings.total[FloodClass::Udp as usize] = Limit::new(10, 3);
    let mut router = router(settings);
    router.guard.prefixes.insert(address([7, 7, 7, 7]), EXEMPT);
    let send = |from: [u8; 4]| fate(&router, &udp(from, SERVER));
    let passed = (1..=20).filter(|last| send([9, 9, 9, *last]).is_none()).count();
    assert_eq!(passed, 4);
    assert_eq!(send([9, 9, 9, 100]), Some(Counter::DropFloodTotal));
    assert_eq!(send([7, 7, 7, 7]), None);
}

fn sum(bytes: impl IntoIterator<Item = u8>) -> u16 {
    let bytes: Vec<u8> = bytes.into_iter().collect();
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The cookie in the answer to a SYN, after a look at all else that it says.
fn asked(router: &Simulation, frame: &Bytes) -> u32 {
    let question: Challenge = challenge(router, frame, &arrival(frame)).expect("a challenge");
    let mut answer = frame.clone();
    write_challenge(&mut answer, &question).expect("room");
    let before = SlicedPacket::from_ethernet(&frame.0).unwrap();
    let after = SlicedPacket::from_ethernet(&answer.0).unwrap();
    assert_eq!(&answer.0[..6], MAC_CLIENT);
    assert_eq!(&answer.0[6..12], MAC_ROUTER);
    let (Some(TransportSlice::Tcp(asks)), Some(TransportSlice::Tcp(said))) =
        (&before.transport, &after.transport)
    else {
        panic!("no TCP");
    };
    match (before.net.unwrap(), after.net.unwrap()) {
        (NetSlice::Ipv4(old), NetSlice::Ipv4(new)) => {
            assert_eq!(old.header().source(), new.header().destination());
            assert_eq!(old.header().destination(), new.header().source());
            assert_eq!(sum(answer.0[14..34].iter().copied()), 0xffff);
            let length = (answer.0.len() - 34) as u16;
            let pseudo = answer.0[26..34].iter().copied().chain([0, 6]).chain(length.to_be_bytes());
            assert_eq!(sum(pseudo.chain(answer.0[34..].iter().copied())), 0xffff);
        }
        (NetSlice::Ipv6(old), NetSlice::Ipv6(new)) => {
            assert_eq!(old.header().source(), new.header().destination());
            assert_eq!(old.header().destination(), new.header().source());
            let length = (answer.0.len() - 54) as u16;
            let pseudo = answer.0[22..54].iter().copied().chain([0, 6]).chain(length.to_be_bytes());
            assert_eq!(sum(pseudo.chain(answer.0[54..].iter().copied())), 0xffff);
        }
        other => panic!("{other:?}"),
    }
    assert!(said.syn() && said.ack() && !said.rst());
    assert_eq!((said.source_port(), said.destination_port()), (443, asks.source_port()));
    assert!(said.options_iterator().next().is_none(), "the client's options stay");
    assert_ne!(said.acknowledgment_number(), asks.sequence_number().wrapping_add(1));
    said.acknowledgment_number()
}

#[test]
fn under_attack_a_source_proves_itself_and_connects() {
    for family in [4, 6] {
        let router = router(Guard { cookie_zones: OPEN_WAN, ..Guard::default() });
        let ask: fn(u16) -> Bytes = if family == 4 { syn } else { syn6 };
        let prove: fn(u16, u32) -> Bytes = if family == 4 { reset } else { reset6 };
        assert_eq!(fate(&router, &ask(1000)), Some(Counter::DropUnproven));
        assert_eq!(router.flows.in_use(), 0, "nothing is kept of it");
        let cookie = asked(&router, &ask(1000));
        assert_eq!(fate(&router, &prove(1000, cookie ^ 1)), Some(Counter::DropTcpState));
        assert_eq!(fate(&router, &prove(1001, cookie)), Some(Counter::DropTcpState));
        assert_eq!(fate(&router, &ask(1000)), Some(Counter::DropUnproven));
        assert_eq!(fate(&router, &prove(1000, cookie)), Some(Counter::DropProof));
        assert_eq!(fate(&router, &ask(1000)), None);
        assert_eq!(fate(&router, &ask(1002)), None, "its other connections too");
        router.now.set(router.now.get() + VERIFIED_TICKS);
        assert_eq!(fate(&router, &ask(1003)), Some(Counter::DropUnproven), "not for ever");
    }
}

#[test]
fn data_in_a_syn_is_not_sent_back() {
    let router = router(Guard { cookie_zones: OPEN_WAN, ..Guard::default() });
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MAC_CLIENT, MAC_ROUTER)
        .ipv4(CLIENT, SERVER, 60)
        .tcp(1, 443, 1, 64_000)
        .syn()
        .write(&mut bytes, &[1; 100])
        .unwrap();
    let frame = Bytes(bytes);
    let refused = challenge(&router, &frame, &arrival(&frame)).expect_err("a refusal");
    assert_eq!(refused.counter, Counter::DropUnproven);
}

#[test]
fn without_attack_nobody_is_asked() {
    let router = router(Guard::default());
    assert_eq!(fate(&router, &syn(1)), None);
    assert_eq!(fate(&router, &reset(2, 0)), Some(Counter::DropTcpState));
}
