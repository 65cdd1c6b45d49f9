//! Answers of the router, byte by byte, read back by a parser that is not ours.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket,
    TransportSlice, icmpv4, icmpv6,
};
use portcullis_datapath::{
    Answer, AnswerKind, Arrival, Cast, Drop, Hook,
    simulation::{Bytes, Simulation},
};
use portcullis_datapath_abi::{Counter, Interface, from_address};
use proptest::prelude::*;

const LAN: u32 = 3;
const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const HOST: [u8; 4] = [192, 168, 77, 100];
const SERVER: [u8; 4] = [203, 0, 113, 10];
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const HOST6: [u8; 16] = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100).octets();
const SERVER6: [u8; 16] = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).octets();

fn words(address: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(address.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().unwrap());
    }
    words
}

fn router() -> Simulation {
    let mut router = Simulation::default();
    router.interfaces.insert(
        LAN,
        Interface {
            index: LAN,
            nat_address: from_address(ROUTER),
            mac: ROUTER_MAC,
            zone: 1,
            ..Interface::default()
        },
    );
    router.answers.addresses.insert((LAN, true), words(ROUTER6.octets()));
    router
}

fn arrival(frame: &Bytes) -> Arrival {
    Arrival {
        interface: LAN,
        cast: Cast::Host,
        hook: Hook::Tcx,
        length: frame.0.len() as u32 - 14,
        segments: 1,
        segment_size: 0,
        ends: None,
    }
}

fn about(kind: AnswerKind, mtu: u16) -> Answer {
    Answer { drop: Drop::from(Counter::DropPolicy, 1), kind, mtu }
}

fn ethernet() -> PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(SENDER_MAC, ROUTER_MAC)
}

fn ip(ipv6: bool) -> PacketBuilderStep<etherparse::IpHeaders> {
    if ipv6 { ethernet().ipv6(HOST6, SERVER6, 1) } else { ethernet().ipv4(HOST, SERVER, 1) }
}

fn udp(ipv6: bool, payload: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    ip(ipv6).udp(4000, 53).write(&mut frame, payload).unwrap();
    Bytes(frame)
}

fn syn(ipv6: bool) -> Bytes {
    let mut frame = Vec::new();
    ip(ipv6).tcp(4000, 80, 1_000_000, 64240).syn().write(&mut frame, &[]).unwrap();
    Bytes(frame)
}

/// The answer to a frame.
fn ask(frame: &Bytes, kind: AnswerKind, mtu: u16) -> Option<Vec<u8>> {
    router().answer(frame, &arrival(frame), &about(kind, mtu), false).map(|bytes| bytes.0)
}

/// Checks what all answers have in common and returns them parsed.
fn parse(answer: &[u8]) -> SlicedPacket<'_> {
    assert_eq!(answer[..6], SENDER_MAC, "to the MAC address that it came from");
    assert_eq!(answer[6..12], ROUTER_MAC);
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), answer.len() - 14);
            assert_eq!((header.destination, header.time_to_live), (HOST, 64));
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length), answer.len() - 54);
            assert_eq!((header.destination, header.hop_limit), (HOST6, 64));
        }
        other => panic!("{other:?}"),
    }
    packet
}

/// Type of the ICMP error in an answer, and what it quotes.
fn icmp4(answer: &[u8]) -> (Icmpv4Type, Vec<u8>) {
    let packet = parse(answer);
    assert_eq!(answer[26..30], ROUTER.octets(), "from the address of the interface");
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else {
        panic!("{packet:?}");
    };
    let header = icmp.header();
    assert_eq!(header.checksum, header.icmp_type.calc_checksum(icmp.payload()));
    (header.icmp_type, icmp.payload().to_vec())
}

fn icmp6(answer: &[u8]) -> (Icmpv6Type, Vec<u8>) {
    let packet = parse(answer);
    let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else {
        panic!("{packet:?}");
    };
    let header = icmp.header();
    let sum = header.icmp_type.calc_checksum(ROUTER6.octets(), HOST6, icmp.payload()).unwrap();
    assert_eq!(header.checksum, sum);
    (header.icmp_type, icmp.payload().to_vec())
}

/// The checksum of an IPv4 header.
fn header_checksum(header: &[u8]) -> u16 {
    etherparse::Ipv4HeaderSlice::from_slice(header).unwrap().to_header().calc_header_checksum()
}

#[test]
fn errors_over_ipv4_say_what_happened() {
    use icmpv4::{DestUnreachableHeader as Unreachable, TimeExceededCode};
    let datagram = udp(false, b"query");
    let tcp = syn(false);
    let mut echo = Vec::new();
    ip(false).icmpv4_echo_request(7, 1).write(&mut echo, b"ping").unwrap();
    let unreachable = Icmpv4Type::DestinationUnreachable;
    let cases = [
        (
            &datagram,
            AnswerKind::TimeExceeded,
            0,
            Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
        ),
        (
            &tcp,
            AnswerKind::TooBig,
            1400,
            unreachable(Unreachable::FragmentationNeeded { next_hop_mtu: 1400 }),
        ),
        (&datagram, AnswerKind::NoRoute, 0, unreachable(Unreachable::Network)),
        (&datagram, AnswerKind::Refused, 0, unreachable(Unreachable::Port)),
        (&Bytes(echo), AnswerKind::Refused, 0, unreachable(Unreachable::FilterProhibited)),
        (&datagram, AnswerKind::Prohibited, 0, unreachable(Unreachable::FilterProhibited)),
        (&tcp, AnswerKind::Prohibited, 0, unreachable(Unreachable::FilterProhibited)),
    ];
    for (frame, kind, mtu, expected) in cases {
        // Of the class of what it is about, without its bits of congestion (RFC 5508 section 7.7).
        let mut frame = frame.clone();
        frame.0[15] = 0xb9;
        let sum = header_checksum(&frame.0[14..34]);
        frame.0[24..26].copy_from_slice(&sum.to_be_bytes());
        let answer = ask(&frame, kind, mtu).unwrap();
        assert_eq!(answer[15], 0xb8);
        let (message, quoted) = icmp4(&answer);
        assert_eq!(message, expected);
        assert_eq!(quoted, frame.0[14..], "what the sender sent");
    }
}

#[test]
fn errors_over_ipv6_say_what_happened() {
    use icmpv6::{DestUnreachableCode as Unreachable, TimeExceededCode};
    let datagram = udp(true, b"query");
    let tcp = syn(true);
    let mut echo = Vec::new();
    ip(true).icmpv6_echo_request(7, 1).write(&mut echo, b"ping").unwrap();
    let unreachable = Icmpv6Type::DestinationUnreachable;
    let cases = [
        (
            &datagram,
            AnswerKind::TimeExceeded,
            0,
            Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
        ),
        (&tcp, AnswerKind::TooBig, 1400, Icmpv6Type::PacketTooBig { mtu: 1400 }),
        (&datagram, AnswerKind::NoRoute, 0, unreachable(Unreachable::NoRoute)),
        (&datagram, AnswerKind::Refused, 0, unreachable(Unreachable::Port)),
        (&Bytes(echo), AnswerKind::Refused, 0, unreachable(Unreachable::Prohibited)),
        (&tcp, AnswerKind::Prohibited, 0, unreachable(Unreachable::Prohibited)),
    ];
    for (frame, kind, mtu, expected) in cases {
        let (message, quoted) = icmp6(&ask(frame, kind, mtu).unwrap());
        assert_eq!(message, expected);
        assert_eq!(quoted, frame.0[14..], "what the sender sent");
    }
}

#[test]
fn errors_are_not_longer_than_allowed() {
    let long = udp(false, &[7; 1400]);
    let answer = ask(&long, AnswerKind::TimeExceeded, 0).unwrap();
    assert_eq!(answer.len(), 14 + 576, "RFC 1812 section 4.3.2.3");
    assert_eq!(icmp4(&answer).1, long.0[14..14 + 548]);
    let long = udp(true, &[7; 1400]);
    let answer = ask(&long, AnswerKind::TimeExceeded, 0).unwrap();
    assert_eq!(answer.len(), 14 + 1280, "RFC 4443 section 2.4 c");
    assert_eq!(icmp6(&answer).1, long.0[14..14 + 1232]);
}

#[test]
fn resets_are_what_a_closed_port_would_send() {
    // RFC 9293 section 3.10.7.1: SYN, ACK, FIN, RST and data of the segment; sequence and
    // acknowledgement number and ACK of its reset.
    type Case = ((bool, bool, bool, bool), &'static [u8], Option<(u32, u32, bool)>);
    let cases: [Case; 6] = [
        ((true, false, false, false), b"", Some((0, 1_000_001, true))),
        ((true, false, false, false), b"fast open", Some((0, 1_000_010, true))),
        ((false, true, false, false), b"data", Some((77, 0, false))),
        ((true, true, false, false), b"", Some((77, 0, false))),
        ((false, false, true, false), b"x", Some((0, 1_000_002, true))),
        ((false, true, false, true), b"", None),
    ];
    for ipv6 in [false, true] {
        for ((syn, ack, fin, rst), payload, expected) in cases {
            let mut frame = Vec::new();
            let mut builder = ip(ipv6).tcp(4000, 80, 1_000_000, 1024);
            if syn {
                builder = builder.syn();
            }
            if ack {
                builder = builder.ack(77);
            }
            if fin {
                builder = builder.fin();
            }
            if rst {
                builder = builder.rst();
            }
            builder.write(&mut frame, payload).unwrap();
            let answer = ask(&Bytes(frame), AnswerKind::Refused, 0);
            let Some((sequence, acknowledged, acks)) = expected else {
                assert_eq!(answer, None, "resets are not reset");
                continue;
            };
            let answer = answer.unwrap();
            let packet = parse(&answer);
            let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
                panic!("{packet:?}");
            };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 4000));
            assert_eq!(
                (tcp.sequence_number(), tcp.acknowledgment_number()),
                (sequence, acknowledged)
            );
            assert!(tcp.rst() && tcp.ack() == acks && !tcp.syn() && !tcp.fin());
            let sum = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(ip) => {
                    let ip = ip.header();
                    assert_eq!(ip.source(), SERVER, "in the name of the server");
                    tcp.calc_checksum_ipv4(ip.source(), ip.destination())
                }
                NetSlice::Ipv6(ip) => {
                    let ip = ip.header();
                    assert_eq!(ip.source(), SERVER6);
                    tcp.calc_checksum_ipv6(ip.source(), ip.destination())
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(tcp.checksum(), sum.unwrap());
        }
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let plain = udp(false, b"query");
    assert!(ask(&plain, AnswerKind::TimeExceeded, 0).is_some());
    let group = Arrival { cast: Cast::Group, ..arrival(&plain) };
    let error = about(AnswerKind::TimeExceeded, 0);
    assert_eq!(router().answer(&plain, &group, &error, false), None, "link-layer broadcast");

    let from = |address: [u8; 4], to: [u8; 4]| {
        let mut frame = Vec::new();
        ethernet().ipv4(address, to, 1).udp(1, 2).write(&mut frame, b"x").unwrap();
        Bytes(frame)
    };
    for (source, destination) in [
        ([0, 0, 0, 0], SERVER),
        ([127, 0, 0, 1], SERVER),
        ([224, 0, 0, 1], SERVER),
        ([255, 255, 255, 255], SERVER),
        ([240, 0, 0, 1], SERVER),
        (HOST, [224, 0, 0, 251]),
        (HOST, [255, 255, 255, 255]),
    ] {
        let frame = from(source, destination);
        assert_eq!(ask(&frame, AnswerKind::TimeExceeded, 0), None, "{source:?} {destination:?}");
    }
    let from = |address: Ipv6Addr, to: Ipv6Addr| {
        let mut frame = Vec::new();
        let step = ethernet().ipv6(address.octets(), to.octets(), 1);
        step.udp(1, 2).write(&mut frame, b"x").unwrap();
        Bytes(frame)
    };
    let (host, server) = (Ipv6Addr::from(HOST6), Ipv6Addr::from(SERVER6));
    assert!(ask(&from(host, server), AnswerKind::NoRoute, 0).is_some());
    for (source, destination) in [
        (Ipv6Addr::UNSPECIFIED, server),
        (Ipv6Addr::LOCALHOST, server),
        ("ff02::1".parse().unwrap(), server),
        (host, "ff0e::1".parse().unwrap()),
    ] {
        let frame = from(source, destination);
        assert_eq!(ask(&frame, AnswerKind::NoRoute, 0), None, "{source} {destination}");
    }

    // Errors about errors.
    let quoted = &plain.0[14..42];
    let mut frame = Vec::new();
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    ip(false).icmpv4(unreachable).write(&mut frame, quoted).unwrap();
    assert_eq!(ask(&Bytes(frame), AnswerKind::TimeExceeded, 0), None);
    let mut frame = Vec::new();
    let unreachable = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
    ip(true).icmpv6(unreachable).write(&mut frame, &udp(true, b"x").0[14..]).unwrap();
    assert_eq!(ask(&Bytes(frame), AnswerKind::TimeExceeded, 0), None);

    // Fragments: the first one may be answered, the others not.
    for (word, answered) in [(0x2000_u16, true), (0x2001, false), (0x0005, false)] {
        let mut frame = plain.clone();
        frame.0[20..22].copy_from_slice(&word.to_be_bytes());
        assert_eq!(ask(&frame, AnswerKind::TimeExceeded, 0).is_some(), answered, "{word:x}");
    }
}

#[test]
fn nobody_gets_more_answers_than_the_rate() {
    let router = router();
    let count = |frame: &Bytes, times: usize| {
        let error = about(AnswerKind::TimeExceeded, 0);
        (0..times)
            .filter(|_| router.answer(frame, &arrival(frame), &error, false).is_some())
            .count()
    };
    let mine = udp(false, b"x");
    let burst = count(&mine, 1000);
    assert!((16..100).contains(&burst), "{burst}");
    // Somebody else is still answered, until all together are too many.
    let other = |n: u8| {
        let mut frame = Vec::new();
        ethernet().ipv4([10, 0, 0, n], SERVER, 1).udp(1, 2).write(&mut frame, b"x").unwrap();
        Bytes(frame)
    };
    assert!(count(&other(1), 1) == 1);
    let all: usize = (2..=255).map(|n| count(&other(n), 100)).sum();
    assert!((500..2000).contains(&all), "{all}");
    let clock = &router.guard.nanoseconds;
    clock.set(clock.get() + 1_000_000_000);
    assert!((16..100).contains(&count(&mine, 1000)), "again after a second");
}

proptest! {
    /// A packet whose checksum was left to the device: when the device has completed it in the quoted
    /// packet or in the reset, all checksums are right.
    #[test]
    fn checksums_left_to_the_device_come_out_right(
        payload in prop::collection::vec(any::<u8>(), 0..1400),
        ipv6 in any::<bool>(),
        tcp in any::<bool>(),
        refused in any::<bool>(),
        field in any::<u16>(),
    ) {
        let mut frame = Vec::new();
        if tcp {
            ip(ipv6).tcp(4000, 80, 1, 1024).syn().write(&mut frame, &payload).unwrap();
        } else {
            ip(ipv6).udp(4000, 80).write(&mut frame, &payload).unwrap();
        }
        let transport = if ipv6 { 54 } else { 34 };
        let at = transport + if tcp { 16 } else { 6 };
        // The sum of the pseudo-header, or in GSO frames something else.
        frame[at..at + 2].copy_from_slice(&field.to_ne_bytes());
        let kind = if refused { AnswerKind::Refused } else { AnswerKind::TimeExceeded };
        let frame = Bytes(frame);
        let Bytes(mut answer) =
            router().answer(&frame, &arrival(&frame), &about(kind, 0), true).unwrap();
        let reset = tcp && refused;
        // What is put in front moves the place that the device completes.
        let moved = match (reset, ipv6) {
            (true, _) => 0,
            (false, false) => 28,
            (false, true) => 48,
        };
        let mut sum = 0_u32;
        for pair in answer[transport + moved..].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let complement = match !(sum as u16) {
            0 => 0xffff,
            sum => sum,
        };
        answer[at + moved..at + moved + 2].copy_from_slice(&complement.to_be_bytes());
        if reset {
            let packet = parse(&answer);
            let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
                panic!("{packet:?}");
            };
            let sum = if ipv6 {
                tcp.calc_checksum_ipv6(SERVER6, HOST6)
            } else {
                tcp.calc_checksum_ipv4(SERVER, HOST)
            };
            prop_assert_eq!(tcp.checksum(), sum.unwrap());
        } else if ipv6 {
            icmp6(&answer);
        } else {
            icmp4(&answer);
        }
    }
}
