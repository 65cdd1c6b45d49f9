//! What is told about packets: drops by zone pair, hits of rules that are to be logged, starts of
//! flows, and which packets somebody wants a copy of. Nothing here decides about a packet.

use core::{cell::Cell, mem::MaybeUninit};

use portcullis_datapath_abi::{
    Counter,
    capture::{ANY_PROTOCOL, ANY_REASON, ANY_ZONE, CaptureFilter, DROPPED_ONLY},
    event::{DropKey, Event, FLOW_START, HITS_PER_TICK, HitBudget, NO_RECORD, RULE_HIT},
    flow::{TCP, UDP},
};

use crate::{
    classify::{Question, Ruling},
    frame::{IPV4, IPV6, L3},
};

/// Where it is told.
pub trait TelemetryTables {
    /// Adds to a cell of the table of drops.
    fn count_drop(&self, key: &DropKey, packets: u32, bytes: u32);
    /// What this CPU has told of rule hits.
    fn hit_budget(&self) -> Option<&Cell<HitBudget>>;
    /// Writes an event to the ring, with the time. False if there is no room.
    fn tell(&self, fill: impl FnOnce(&mut MaybeUninit<Event>)) -> bool;
}

/// Counts a dropped packet between its zones ([`portcullis_datapath_abi::event::UNKNOWN_ZONE`] for
/// what is not known).
#[inline(always)]
pub fn dropped<T: TelemetryTables>(
    tables: &T,
    reason: Counter,
    zones: (u8, u8),
    packets: u32,
    bytes: u32,
) {
    let key = DropKey { reason: reason as u16, from: zones.0, to: zones.1 };
    tables.count_drop(&key, packets, bytes);
}

/// Tells that a rule with the flag to be logged decided about a first packet; `now` in ticks.
#[inline(never)]
pub fn rule_hit<T: TelemetryTables>(
    tables: &T,
    question: &Question<'_>,
    ruling: &Ruling,
    now: u32,
) {
    let Some(cell) = tables.hit_budget() else {
        return;
    };
    let mut budget = cell.get();
    if budget.tick != now {
        budget.tick = now;
        budget.told = 0;
    }
    if budget.told < HITS_PER_TICK
        && tables.tell(|event| {
            let event = fill(event, question, ruling);
            event.kind = RULE_HIT;
            event.record = NO_RECORD;
            event.untold = budget.untold;
        })
    {
        budget.told += 1;
        budget.untold = 0;
    } else {
        budget.untold = budget.untold.saturating_add(1);
    }
    cell.set(budget);
}

/// Tells that a flow was entered into the table as `record`.
#[inline(never)]
pub fn flow_started<T: TelemetryTables>(
    tables: &T,
    question: &Question<'_>,
    ruling: &Ruling,
    record: u32,
) {
    tables.tell(|event| {
        let event = fill(event, question, ruling);
        event.kind = FLOW_START;
        event.record = record;
        event.untold = 0;
    });
}

#[inline(always)]
fn fill<'e>(
    event: &'e mut MaybeUninit<Event>,
    question: &Question<'_>,
    ruling: &Ruling,
) -> &'e mut Event {
    event.write(Event {
        source: *question.source,
        destination: *question.destination,
        time_ns: 0,
        record: 0,
        untold: 0,
        source_port: question.source_port,
        destination_port: question.destination_port,
        rule: ruling.rule,
        kind: 0,
        protocol: question.protocol,
        from: question.from,
        to: question.to,
        action: ruling.action as u8,
        reserved: 0,
        reserved2: 0,
    })
}

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Number of the [`Counter`] that it was dropped for, [`ANY_REASON`] if it was not.
    pub reason: u16,
    /// Zone that it came from, or of the interface that it leaves by.
    pub from: u8,
    /// Zone that it would have gone to, [`ANY_ZONE`] if that is not known.
    pub to: u8,
}

/// The copied beginning of a frame, readable at any offset. `None` beyond its end.
pub trait Snapshot {
    /// One byte.
    fn u8(&self, offset: usize) -> Option<u8>;
    /// Two bytes as they stand.
    fn u16(&self, offset: usize) -> Option<u16>;
    /// Four bytes as they stand.
    fn u32(&self, offset: usize) -> Option<u32>;
}

/// Headers behind IPv6's that are passed over to find the ports.
const EXTENSIONS: usize = 4;

/// Whether a capture wants this packet; `random` is a random number, for the sample.
#[inline(always)]
pub fn wants<S: Snapshot>(
    filter: &CaptureFilter,
    frame: &S,
    circumstances: &Circumstances,
    random: u32,
) -> bool {
    if filter.flags & DROPPED_ONLY != 0 && circumstances.reason == ANY_REASON {
        return false;
    }
    if filter.reason != ANY_REASON && filter.reason != circumstances.reason {
        return false;
    }
    if filter.zone != ANY_ZONE
        && filter.zone != circumstances.from
        && filter.zone != circumstances.to
    {
        return false;
    }
    let any_host = filter.mask == [0; 4];
    if any_host && filter.port == 0 && filter.protocol == ANY_PROTOCOL {
        return random <= filter.sample;
    }
    let fits = fits(filter, frame).unwrap_or(false);
    fits && random <= filter.sample
}

/// Whether addresses, protocol and port fit; `None` for what is no IP packet or too short.
#[inline(always)]
fn fits<S: Snapshot>(filter: &CaptureFilter, frame: &S) -> Option<bool> {
    const TAG: u16 = 0x8100_u16.to_be();
    let mut l3 = L3;
    let mut ethertype = frame.u16(L3 - 2)?;
    if ethertype == TAG {
        l3 += 4;
        ethertype = frame.u16(L3 + 2)?;
    }
    let (protocol, l4) = match ethertype {
        IPV4 => {
            let mapped = |word| [0, 0, 0xffff_u32.to_be(), word];
            let source = mapped(frame.u32(l3 + 12)?);
            if !is_host(filter, source) && !is_host(filter, mapped(frame.u32(l3 + 16)?)) {
                return Some(false);
            }
            let later = frame.u16(l3 + 6)? & 0x1fff_u16.to_be() != 0;
            let header = usize::from(frame.u8(l3)? & 15) * 4;
            (frame.u8(l3 + 9)?, if later { None } else { Some(l3 + header) })
        }
        IPV6 => {
            if !is_host(filter, address6(frame, l3 + 8)?)
                && !is_host(filter, address6(frame, l3 + 24)?)
            {
                return Some(false);
            }
            upper_layer(frame, l3)?
        }
        _ => return None,
    };
    if filter.protocol != ANY_PROTOCOL && filter.protocol != protocol {
        return Some(false);
    }
    if filter.port == 0 {
        return Some(true);
    }
    if protocol != TCP && protocol != UDP {
        return Some(false);
    }
    let l4 = l4?;
    Some(frame.u16(l4)? == filter.port || frame.u16(l4 + 2)? == filter.port)
}

#[inline(always)]
fn address6<S: Snapshot>(frame: &S, at: usize) -> Option<[u32; 4]> {
    Some([frame.u32(at)?, frame.u32(at + 4)?, frame.u32(at + 8)?, frame.u32(at + 12)?])
}

#[inline(always)]
fn is_host(filter: &CaptureFilter, address: [u32; 4]) -> bool {
    let mut different = 0;
    for ((mask, host), word) in filter.mask.iter().zip(filter.host).zip(address) {
        different |= (word ^ host) & mask;
    }
    different == 0
}

/// Protocol and offset of the header behind IPv6 and its extensions (RFC 8200 section 4.1); no
/// offset for a later fragment.
#[inline(always)]
fn upper_layer<S: Snapshot>(frame: &S, l3: usize) -> Option<(u8, Option<usize>)> {
    let mut protocol = frame.u8(l3 + 6)?;
    let mut at = l3 + 40;
    for _ in 0..EXTENSIONS {
        match protocol {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                protocol = frame.u8(at)?;
                at += 8 + usize::from(frame.u8(at + 1)?) * 8;
            }
            44 => {
                let later = frame.u16(at + 2)? & 0xfff8_u16.to_be() != 0;
                protocol = frame.u8(at)?;
                at += 8;
                if later {
                    return Some((protocol, None));
                }
            }
            _ => break,
        }
    }
    Some((protocol, Some(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Bytes {
        fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
            self.0.get(offset..)?.first_chunk().copied()
        }
    }

    impl Snapshot for Bytes {
        fn u8(&self, offset: usize) -> Option<u8> {
            self.0.get(offset).copied()
        }

        fn u16(&self, offset: usize) -> Option<u16> {
            self.at(offset).map(u16::from_ne_bytes)
        }

        fn u32(&self, offset: usize) -> Option<u32> {
            self.at(offset).map(u32::from_ne_bytes)
        }
    }

    const FORWARDED: Circumstances = Circumstances { reason: ANY_REASON, from: 1, to: ANY_ZONE };

    fn address4(text: &str) -> [u32; 4] {
        address6(text.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped())
    }

    fn address6(address: std::net::Ipv6Addr) -> [u32; 4] {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(address.octets().chunks(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        words
    }

    /// Offset of the IP header behind up to one VLAN tag.
    fn udp4(tagged: bool) -> Bytes {
        let mut bytes = vec![2; 12];
        if tagged {
            bytes.extend([0x81, 0, 0, 7]);
        }
        bytes.extend([8, 0]);
        // With 4 bytes of options, so that the ports stand elsewhere.
        bytes.extend([0x46, 0, 0, 32, 0, 0, 0, 0, 64, UDP, 0, 0]);
        bytes.extend([192, 168, 77, 5, 203, 0, 113, 9]);
        bytes.extend([1, 1, 1, 1]);
        bytes.extend([0x30, 0x39, 0, 53, 0, 8, 0, 0]);
        Bytes(bytes)
    }

    /// TCP behind hop-by-hop options and a fragment header with this offset field.
    fn tcp6(fragment: u16) -> Bytes {
        let mut bytes = vec![2; 12];
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 36, 0, 64]);
        bytes.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        bytes.extend("2001:db8::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        bytes.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        let [high, low] = fragment.to_be_bytes();
        bytes.extend([TCP, 0, high, low, 0, 0, 0, 1]);
        bytes.extend([0x30, 0x39, 1, 0xbb]);
        bytes.extend([0; 16]);
        Bytes(bytes)
    }

    fn chosen(filter: CaptureFilter, frame: &Bytes) -> bool {
        wants(&filter, frame, &FORWARDED, 0)
    }

    #[test]
    fn addresses_fit_in_either_direction_and_under_a_mask() {
        let host = |text: &str, mask| CaptureFilter {
            host: address4(text),
            mask: [u32::MAX, u32::MAX, u32::MAX, mask],
            ..CaptureFilter::ALL
        };
        for frame in [udp4(false), udp4(true)] {
            assert!(chosen(host("192.168.77.5", u32::MAX), &frame));
            assert!(chosen(host("203.0.113.9", u32::MAX), &frame));
            assert!(!chosen(host("203.0.113.8", u32::MAX), &frame));
            assert!(chosen(host("203.0.113.0", 0xffff_ff00_u32.to_be()), &frame));
            assert!(chosen(CaptureFilter::ALL, &frame));
        }
        let six = CaptureFilter {
            host: address6("2001:db8::".parse().unwrap()),
            mask: [u32::MAX, 0, 0, 0],
            ..CaptureFilter::ALL
        };
        assert!(chosen(six, &tcp6(0)));
        assert!(!chosen(six, &udp4(false)));
    }

    #[test]
    fn ports_are_found_behind_options_and_extension_headers() {
        let port = |port: u16| CaptureFilter { port: port.to_be(), ..CaptureFilter::ALL };
        for frame in [udp4(false), udp4(true)] {
            assert!(chosen(port(53), &frame) && chosen(port(12_345), &frame));
            assert!(!chosen(port(0x0101), &frame), "the options are no ports");
        }
        assert!(chosen(port(443), &tcp6(1)), "the first fragment has them");
        assert!(!chosen(port(443), &tcp6(1 << 3)), "a later one has not");
        let protocol = |protocol| CaptureFilter { protocol, ..CaptureFilter::ALL };
        assert!(chosen(protocol(TCP), &tcp6(0)) && !chosen(protocol(UDP), &tcp6(0)));
        assert!(chosen(protocol(TCP), &tcp6(1 << 3)));
    }

    #[test]
    fn what_is_no_ip_fits_only_where_nothing_of_ip_is_asked() {
        let mut arp = udp4(false);
        arp.0[12..14].copy_from_slice(&[8, 6]);
        assert!(chosen(CaptureFilter::ALL, &arp));
        assert!(!chosen(CaptureFilter { protocol: UDP, ..CaptureFilter::ALL }, &arp));
        assert!(!chosen(CaptureFilter { port: 1, ..CaptureFilter::ALL }, &Bytes(vec![8; 20])));
    }

    #[test]
    fn reasons_zones_and_the_sample_choose_too() {
        let frame = udp4(false);
        let dropped = Circumstances { reason: Counter::DropPolicy as u16, from: 1, to: 2 };
        let chosen = |filter: &CaptureFilter, at: &Circumstances| wants(filter, &frame, at, 5);
        let drops = CaptureFilter { flags: DROPPED_ONLY, ..CaptureFilter::ALL };
        assert!(chosen(&drops, &dropped) && !chosen(&drops, &FORWARDED));
        let reason = CaptureFilter { reason: Counter::DropMalformed as u16, ..CaptureFilter::ALL };
        assert!(!chosen(&reason, &dropped));
        let zone = |zone| CaptureFilter { zone, ..CaptureFilter::ALL };
        assert!(chosen(&zone(1), &dropped) && chosen(&zone(2), &dropped));
        assert!(!chosen(&zone(3), &dropped) && !chosen(&zone(2), &FORWARDED));
        assert!(!chosen(&CaptureFilter { sample: 4, ..CaptureFilter::ALL }, &dropped));
        assert!(chosen(&CaptureFilter { sample: 5, ..CaptureFilter::ALL }, &dropped));
    }

    proptest::proptest! {
        #[test]
        fn any_frame_can_be_asked_for(
            mut bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..160),
            kind in 0..4_usize,
            port: u16,
            protocol: u8,
        ) {
            if let Some(place) = bytes.get_mut(12..14) {
                place.copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]][kind]);
            }
            let frame = Bytes(bytes);
            let filter = CaptureFilter { port, protocol, ..CaptureFilter::ALL };
            let asked = wants(&filter, &frame, &FORWARDED, 0);
            // What asks for less lets pass no less.
            let of_protocol = CaptureFilter { protocol, ..CaptureFilter::ALL };
            proptest::prop_assert!(!asked || wants(&of_protocol, &frame, &FORWARDED, 0));
            proptest::prop_assert!(wants(&CaptureFilter::ALL, &frame, &FORWARDED, 0));
        }
    }
}
