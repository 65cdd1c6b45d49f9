//! Messages as an independent decoder reads them.

#![allow(clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use netflow_parser::{
    NetflowPacket, NetflowParser,
    variable_versions::ipfix::{FlowSetBody, IPFix},
};
use portcullis_datapath_abi::{
    FlowKey, FlowKey6, FlowRecord,
    flow::{ACK, Ends4, FIN, IPV6, SYN, Side, TCP, UDP},
    from_address,
};
use proptest::prelude::*;

use super::*;

/// 2026-11-22 10:00:00 UTC.
const NOW: Clock = Clock { unix_ms: 1_795_341_600_000, ticks: 50_000 };

const SETTINGS: Settings = Settings { active_timeout_s: 60, template_refresh_s: 600, domain: 7 };

type Decoded = BTreeMap<String, String>;

/// The data records of messages, by name of their elements; a fresh decoder has no templates.
fn decode(parser: &mut NetflowParser, messages: &[Vec<u8>]) -> (Vec<IPFix>, Vec<Decoded>) {
    let mut packets = Vec::new();
    let mut records = Vec::new();
    for message in messages {
        assert!(message.len() <= MAX_MESSAGE, "{}", message.len());
        let result = parser.parse_bytes(message);
        assert!(result.error.is_none(), "{:?}", result.error);
        for packet in result.packets {
            let NetflowPacket::IPFix(packet) = packet else {
                panic!("{packet:?}");
            };
            for set in &packet.flowsets {
                match &set.body {
                    FlowSetBody::Data(data) => records.extend(data.fields.iter().map(|record| {
                        record
                            .iter()
                            .map(|(name, value)| {
                                let value = serde_json::to_value(value).unwrap();
                                (format!("{name:?}"), plain(&value))
                            })
                            .collect()
                    })),
                    FlowSetBody::Templates(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            packets.push(packet);
        }
    }
    (packets, records)
}

/// A value without the decoder's wrapping; of several flags those that are set.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(members) if members.len() == 1 => {
            members.values().map(plain).collect()
        }
        serde_json::Value::Object(members) if members.contains_key("nanos") => {
            let nanos = members["nanos"].as_u64().unwrap();
            format!("{}.{:03}", members["secs"], nanos / 1_000_000)
        }
        serde_json::Value::Object(members) => members
            .iter()
            .filter(|(_, value)| value.as_bool() == Some(true))
            .map(|(name, _)| format!("{name} "))
            .collect(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn tick_s(tick: u32) -> u64 {
    NOW.unix_ms(tick) / 1000
}

/// A masqueraded connection of 100 packets there and 200 back.
fn connection() -> FlowRecord {
    let key =
        |source: [u8; 4], source_port: u16, destination: [u8; 4], destination_port: u16| FlowKey {
            source: from_address(source.into()),
            destination: from_address(destination.into()),
            source_port: source_port.to_be(),
            destination_port: destination_port.to_be(),
            protocol: TCP,
            zone: 1,
            reserved: 0,
        };
    let ends = Ends4 {
        keys: [
            key([192, 168, 77, 100], 50_112, [198, 51, 100, 7], 443),
            key([198, 51, 100, 7], 443, [203, 0, 113, 57], 1_024),
        ],
        ..Ends4::default()
    };
    FlowRecord {
        // SAFETY: plain integers of the same size.
        ends: unsafe { std::mem::transmute::<Ends4, [u64; 5]>(ends) },
        packets: [100, 200],
        bytes: [10_000, 250_000],
        sides: [
            Side { egress: 2, seen: SYN | ACK | FIN, ..Side::default() },
            Side { egress: 5, seen: SYN | ACK, ..Side::default() },
        ],
        created: NOW.ticks - 100,
        last_seen: NOW.ticks - 10,
        ..FlowRecord::default()
    }
}

fn connection6() -> FlowRecord {
    let words = |text: &str| {
        let octets = text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let mut words = [0; 4];
        for (to, from) in words.iter_mut().zip(octets.chunks(4)) {
            *to = u32::from_ne_bytes(from.try_into().unwrap());
        }
        words
    };
    let key = FlowKey6 {
        source: words("2001:db8:77::100"),
        destination: words("2001:db8:99::7"),
        source_port: 50_112_u16.to_be(),
        destination_port: 53_u16.to_be(),
        protocol: UDP,
        zone: 1,
        peer_zone: 2,
        reserved: 0,
    };
    FlowRecord { ends: key.words(), flags: IPV6, ..connection() }
}

#[test]
fn an_independent_decoder_reads_every_element() {
    let mut exporter = Exporter::new(SETTINGS);
    exporter.ended(1, &connection(), EndReason::EndOfFlow, &NOW);
    exporter.ended(2, &connection6(), EndReason::Idle, &NOW);
    let (packets, records) = decode(&mut NetflowParser::default(), &exporter.messages(&NOW));
    assert_eq!(packets[0].header.observation_domain_id, 7);
    assert_eq!(u64::from(packets[0].header.export_time), NOW.unix_ms / 1000);
    let text = |record: &Decoded| {
        let lines = record.iter().map(|(name, value)| format!("{name} {value}").trim().to_owned());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(
        text(&records[0]),
        [
            "IANA(BiflowDirection) 1",
            "IANA(DestinationIpv4address) 198.51.100.7",
            "IANA(DestinationTransportPort) 443",
            "IANA(EgressInterface) 2",
            "IANA(FlowEndMilliseconds) 1795341589.263",
            "IANA(FlowEndReason) EndOfFlow",
            "IANA(FlowStartMilliseconds) 1795341492.626",
            "IANA(IngressInterface) 5",
            "IANA(OctetDeltaCount) 10000",
            "IANA(PacketDeltaCount) 100",
            "IANA(PostNaptdestinationTransportPort) 443",
            "IANA(PostNaptsourceTransportPort) 1024",
            "IANA(PostNatdestinationIpv4address) 198.51.100.7",
            "IANA(PostNatsourceIpv4address) 203.0.113.57",
            "IANA(ProtocolIdentifier) Tcp",
            "IANA(SourceIpv4address) 192.168.77.100",
            "IANA(SourceTransportPort) 50112",
            "IANA(TcpControlBits) ack fin syn",
            "ReverseInformationElement(ReverseOctetDeltaCount) 250000",
            "ReverseInformationElement(ReversePacketDeltaCount) 200",
            "ReverseInformationElement(ReverseTcpControlBits) ack syn",
        ]
    );
    assert_eq!(
        text(&records[1]),
        [
            "IANA(BiflowDirection) 1",
            "IANA(DestinationIpv6address) 2001:db8:99::7",
            "IANA(DestinationTransportPort) 53",
            "IANA(EgressInterface) 2",
            "IANA(FlowEndMilliseconds) 1795341589.263",
            "IANA(FlowEndReason) IdleTimeout",
            "IANA(FlowStartMilliseconds) 1795341492.626",
            "IANA(IngressInterface) 5",
            "IANA(OctetDeltaCount) 10000",
            "IANA(PacketDeltaCount) 100",
            "IANA(ProtocolIdentifier) Udp",
            "IANA(SourceIpv6address) 2001:db8:77::100",
            "IANA(SourceTransportPort) 50112",
            "IANA(TcpControlBits) ack fin syn",
            "ReverseInformationElement(ReverseOctetDeltaCount) 250000",
            "ReverseInformationElement(ReversePacketDeltaCount) 200",
            "ReverseInformationElement(ReverseTcpControlBits) ack syn",
        ]
    );
    assert_eq!(records.len(), 2);
}

#[test]
fn templates_come_first_and_again_when_they_are_due() {
    let mut exporter = Exporter::new(SETTINGS);
    let mut parser = NetflowParser::default();
    let (packets, _) = decode(&mut parser, &exporter.messages(&NOW));
    assert_eq!(packets.len(), 1, "also before there is any flow");
    assert!(exporter.messages(&NOW).is_empty(), "nothing to say");
    exporter.ended(1, &connection(), EndReason::Idle, &NOW);
    let messages = exporter.messages(&Clock { unix_ms: NOW.unix_ms + 599_999, ..NOW });
    let (packets, records) = decode(&mut parser, &messages);
    assert_eq!((packets[0].flowsets.len(), records.len()), (1, 1));
    let later = Clock { unix_ms: NOW.unix_ms + 600_000, ..NOW };
    assert_eq!(exporter.messages(&later).len(), 1);
    assert_eq!(exporter.messages(&NOW).len(), 1, "the clock was set back");
}

#[test]
fn the_sequence_counts_records_and_not_templates() {
    let mut exporter = Exporter::new(SETTINGS);
    let mut parser = NetflowParser::default();
    let mut expected = 0;
    for round in 0..3_u32 {
        for number in 0..40 {
            exporter.ended(number, &connection(), EndReason::Idle, &NOW);
            exporter.ended(1000 + number, &connection6(), EndReason::Idle, &NOW);
        }
        let clock = Clock { unix_ms: NOW.unix_ms + u64::from(round) * 700_000, ..NOW };
        let (packets, records) = decode(&mut parser, &exporter.messages(&clock));
        assert_eq!(records.len(), 80);
        for packet in packets {
            assert_eq!(packet.header.sequence_number, expected);
            for set in packet.flowsets {
                if let FlowSetBody::Data(data) = set.body {
                    expected += u32::try_from(data.fields.len()).unwrap();
                }
            }
        }
    }
    assert_eq!(expected, 240);
}

#[test]
fn a_flow_that_lives_on_is_reported_by_what_is_new() {
    let mut exporter = Exporter::new(SETTINGS);
    let mut parser = NetflowParser::default();
    let created = NOW.ticks;
    let mut record = FlowRecord { created, ..connection() };
    let at = |ticks: u32| Clock {
        unix_ms: NOW.unix_ms + (u64::from(ticks) << 30) / 1_000_000,
        ticks: NOW.ticks + ticks,
    };
    let mut step = |ticks: u32, record: &FlowRecord, ended: bool| -> Vec<(String, String)> {
        let clock = at(ticks);
        if ended {
            exporter.ended(9, record, EndReason::Idle, &clock);
        } else {
            exporter.lives(9, record, &clock);
        }
        let (_, records) = decode(&mut parser, &exporter.messages(&clock));
        records
            .iter()
            .map(|record| {
                let of = |end: &str| {
                    let found = record.iter().find(|(name, _)| name.ends_with(end));
                    found.map(|(_, value)| value.clone()).unwrap_or_default()
                };
                (of("(PacketDeltaCount)"), of("(ReversePacketDeltaCount)"))
            })
            .collect()
    };
    let pair = |a: &str, b: &str| vec![(a.to_owned(), b.to_owned())];
    assert_eq!(step(50, &record, false), [], "younger than the active timeout");
    assert_eq!(step(60, &record, false), pair("100", "200"));
    record.packets = [110, 200];
    assert_eq!(step(100, &record, false), [], "not due again");
    assert_eq!(step(120, &record, false), pair("10", "0"));
    assert_eq!(step(200, &record, false), [], "silent");
    record.packets = [111, 203];
    assert_eq!(step(230, &record, true), pair("1", "3"));
    // The number is another flow's now.
    let other = FlowRecord { created: created + 231, packets: [5, 5], ..record };
    assert_eq!(step(240, &other, true), pair("5", "5"));
}

#[test]
fn times_are_of_the_wall_clock() {
    assert_eq!(NOW.unix_ms(NOW.ticks), NOW.unix_ms);
    assert_eq!(NOW.unix_ms(NOW.ticks + 1), NOW.unix_ms, "a tick ahead");
    assert_eq!(NOW.unix_ms(NOW.ticks - 1), NOW.unix_ms - 1_073);
    assert_eq!(tick_s(NOW.ticks - 10_000), NOW.unix_ms / 1000 - 10_738);
}

proptest! {
    /// Whatever a record holds, messages decode to as many records, and no message is too long.
    #[test]
    fn any_records_make_whole_messages(
        flows in prop::collection::vec((any::<[u64; 5]>(), any::<u8>(), any::<[u64; 2]>(), any::<[u32; 2]>()), 0..60),
    ) {
        let mut exporter = Exporter::new(SETTINGS);
        for (number, (ends, flags, packets, times)) in (0_u32..).zip(&flows) {
            let record = FlowRecord {
                ends: *ends,
                flags: *flags,
                packets: *packets,
                created: times[0],
                last_seen: times[1],
                ..FlowRecord::default()
            };
            exporter.ended(number, &record, EndReason::Forced, &NOW);
        }
        let (_, records) = decode(&mut NetflowParser::default(), &exporter.messages(&NOW));
        prop_assert_eq!(records.len(), flows.len());
    }
}
