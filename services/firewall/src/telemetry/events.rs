//! The log of rules and flows: one record in the journal for each hit of a rule that is to be
//! logged, and for start and end of the flows that are.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use portcullis_datapath_abi::{
    FlowRecord, address,
    event::{Event, FLOW_START, RULE_HIT},
    flow::{ICMP, ICMPV6, IPV6, LOGGED, TCP, UDP},
    policy::NO_RULE,
    port,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::{ageing::seconds_since, purge::bytes6, sweep::EndReason};

/// Events that are taken from the ring before others run.
const BATCH: usize = 256;

/// Pause after which the ring is looked at even if nothing was heard of it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Where a packet came from and went to, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    /// `tcp`, `udp`, ... or a number.
    pub protocol: String,
    /// Zone that it came from.
    pub from: String,
    /// Zone that it goes to.
    pub to: String,
    /// Address and port; the port is the query id for ICMP.
    pub source: SocketAddr,
    /// The same of the destination.
    pub destination: SocketAddr,
    /// Name of the rule; of the default if no rule fits.
    pub rule: String,
}

/// What a log record says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// A rule decided about a first packet.
    Hit {
        /// The packet.
        subject: Subject,
        /// `allow`, `deny`, `reject`.
        action: &'static str,
        /// Records left out since the last one.
        untold: u32,
    },
    /// A flow began.
    Start {
        /// Its first packet.
        subject: Subject,
        /// Records left out since the last one.
        untold: u32,
    },
    /// A flow ended.
    End {
        /// Its first packet.
        subject: Subject,
        /// `idle`, `closed`, `forced`, `resources`.
        reason: &'static str,
        /// Packets of initiator and responder.
        packets: [u64; 2],
        /// Bytes of both (layer 3).
        bytes: [u64; 2],
        /// Seconds from the first packet to the last.
        seconds: u32,
        /// Records left out since the last one.
        untold: u32,
    },
}

/// Names of zones and rules.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogNames {
    /// Zones by id.
    pub zones: BTreeMap<u8, String>,
    /// Rules by number.
    pub rules: BTreeMap<u16, String>,
}

/// Puts events into words, no more of them than the configuration allows.
#[derive(Debug)]
pub struct EventLog {
    names: LogNames,
    /// Start and end of every flow is logged.
    all_flows: bool,
    per_second: u32,
    /// Records of this second.
    second: Option<(Instant, u32)>,
    /// Records left out since the last one that was not.
    left_out: u32,
}

impl EventLog {
    /// As configured.
    pub fn new(settings: &portcullis_model::firewall::Log, names: LogNames) -> Self {
        Self {
            names,
            all_flows: settings.flows,
            per_second: settings.per_second,
            second: None,
            left_out: 0,
        }
    }

    /// Takes new settings. What was left out, and what was said in this second, is counted on.
    pub fn configure(&mut self, settings: &portcullis_model::firewall::Log, names: LogNames) {
        *self = Self { second: self.second, left_out: self.left_out, ..Self::new(settings, names) };
    }

    /// What is to be said of an event of the packet path.
    pub fn event(&mut self, event: &Event, now: Instant) -> Option<Record> {
        let untold = match event.kind {
            RULE_HIT => self.admit(now, event.untold)?,
            FLOW_START if self.all_flows => self.admit(now, 0)?,
            _ => return None,
        };
        let subject = Subject {
            protocol: protocol_name(event.protocol),
            from: self.zone(event.from),
            to: self.zone(event.to),
            source: SocketAddr::new(mapped(event.source), port(event.source_port)),
            destination: SocketAddr::new(mapped(event.destination), port(event.destination_port)),
            rule: self.rule(event.rule),
        };
        Some(if event.kind == RULE_HIT {
            Record::Hit { subject, action: action_name(event.action), untold }
        } else {
            Record::Start { subject, untold }
        })
    }

    /// What is to be said of a flow that has ended.
    pub fn ended(
        &mut self,
        record: &FlowRecord,
        reason: EndReason,
        now: Instant,
    ) -> Option<Record> {
        if !self.all_flows && record.flags & LOGGED == 0 {
            return None;
        }
        let untold = self.admit(now, 0)?;
        Some(Record::End {
            subject: self.subject(record),
            reason: reason_name(reason),
            packets: record.packets,
            bytes: record.bytes,
            seconds: seconds_since(record.created, record.last_seen),
            untold,
        })
    }

    fn subject(&self, record: &FlowRecord) -> Subject {
        let rule = self.rule(record.rule);
        if record.flags & IPV6 != 0 {
            let key = record.ends6();
            let end = |raw, raw_port| {
                SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes6(raw))), port(raw_port))
            };
            return Subject {
                protocol: protocol_name(key.protocol),
                from: self.zone(key.zone),
                to: self.zone(key.peer_zone),
                source: end(key.source, key.source_port),
                destination: end(key.destination, key.destination_port),
                rule,
            };
        }
        let [there, back] = record.ends4().keys;
        let end = |raw, raw_port| SocketAddr::new(IpAddr::V4(address(raw)), port(raw_port));
        Subject {
            protocol: protocol_name(there.protocol),
            from: self.zone(there.zone),
            to: self.zone(back.zone),
            source: end(there.source, there.source_port),
            destination: end(there.destination, there.destination_port),
            rule,
        }
    }

    /// Whether another record may be written; how many were left out before it, with those that the
    /// packet path left out.
    fn admit(&mut self, now: Instant, untold: u32) -> Option<u32> {
        let second = match &mut self.second {
            Some((began, count)) if now.duration_since(*began).as_secs() == 0 => {
                *count += 1;
                *count
            }
            _ => {
                self.second = Some((now, 1));
                1
            }
        };
        if second > self.per_second {
            self.left_out = self.left_out.saturating_add(1).saturating_add(untold);
            return None;
        }
        Some(std::mem::take(&mut self.left_out).saturating_add(untold))
    }

    fn zone(&self, id: u8) -> String {
        self.names.zones.get(&id).cloned().unwrap_or_default()
    }

    fn rule(&self, number: u16) -> String {
        match self.names.rules.get(&number) {
            Some(name) => name.clone(),
            None if number == NO_RULE => "default".to_owned(),
            None => format!("number {number}"),
        }
    }
}

impl Record {
    /// Writes it to the journal.
    pub fn write(&self) {
        let (Self::Hit { subject, .. } | Self::Start { subject, .. } | Self::End { subject, .. }) =
            self;
        let Subject { protocol, from, to, source, destination, rule } = subject;
        match self {
            Self::Hit { action, untold, .. } => tracing::info!(
                rule, action, from, to, protocol, %source, %destination, untold, "rule"
            ),
            Self::Start { untold, .. } => tracing::info!(
                rule, from, to, protocol, %source, %destination, untold, "flow began"
            ),
            Self::End { reason, packets, bytes, seconds, untold, .. } => {
                let [packets_out, packets_in] = packets;
                let [bytes_out, bytes_in] = bytes;
                tracing::info!(
                    rule, from, to, protocol, %source, %destination, reason, packets_out,
                    packets_in, bytes_out, bytes_in, seconds, untold, "flow ended"
                );
            }
        }
    }
}

/// Hands every event of the ring to `hear`, for as long as that can be waited for.
///
/// # Errors
/// If the ring cannot be waited for.
pub async fn follow(ring: RingBuf<MapData>, mut hear: impl FnMut(&Event)) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor, which is the same for as long as it lives.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    let mut ring = ring.map_err(io::Error::from)?;
    loop {
        let mut more = false;
        for _ in 0..BATCH {
            let Some(item) = ring.get_mut().next() else {
                more = false;
                break;
            };
            more = true;
            if let Some(event) = parse(&item) {
                hear(&event);
            }
        }
        if more {
            // A flood of events must not keep the bus waiting.
            tokio::task::yield_now().await;
        } else {
            tokio::select! {
                ready = ring.readable_mut() => ready?.clear_ready(),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// Reads an event from the ring; `None` if it is of another length.
pub fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: of the right length, and an event is plain integers, valid for any bytes.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP => "icmp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

fn mapped(words: [u32; 4]) -> IpAddr {
    Ipv6Addr::from(bytes6(words)).to_canonical()
}

/// Numbers as `Action` of the packet core has them.
fn action_name(action: u8) -> &'static str {
    match action {
        1 => "allow",
        2 => "reject",
        _ => "deny",
    }
}

fn reason_name(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Idle => "idle",
        EndReason::Closed => "closed",
        EndReason::Forced => "forced",
        EndReason::Resources => "resources",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_datapath_abi::{FlowKey, flow::Ends4, from_address};
    use portcullis_model::firewall::Log;

    use super::*;

    fn names() -> LogNames {
        LogNames {
            zones: BTreeMap::from([(0, "router".into()), (1, "lan".into()), (2, "wan".into())]),
            rules: BTreeMap::from([(0, "ssh".into()), (1, "web".into())]),
        }
    }

    fn hit(untold: u32) -> Event {
        Event {
            source: [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([198, 51, 100, 7])],
            destination: [0x2001_0db8_u32.to_be(), 0, 0, 9_u32.to_be()],
            source_port: 4000_u16.to_be(),
            destination_port: 22_u16.to_be(),
            protocol: TCP,
            from: 2,
            to: 0,
            rule: 0,
            action: 2,
            kind: RULE_HIT,
            untold,
            ..Event::default()
        }
    }

    #[test]
    fn a_hit_names_rule_zones_and_ends() {
        let mut log = EventLog::new(&Log::default(), names());
        let now = Instant::now();
        let subject = Subject {
            protocol: "tcp".into(),
            from: "wan".into(),
            to: "router".into(),
            source: "198.51.100.7:4000".parse().unwrap(),
            destination: "[2001:db8::9]:22".parse().unwrap(),
            rule: "ssh".into(),
        };
        assert_eq!(
            log.event(&hit(0), now),
            Some(Record::Hit { subject: subject.clone(), action: "reject", untold: 0 })
        );
        let by_default = Event { rule: NO_RULE, action: 0, ..hit(5) };
        assert_eq!(
            log.event(&by_default, now),
            Some(Record::Hit {
                subject: Subject { rule: "default".into(), ..subject },
                action: "deny",
                untold: 5
            })
        );
        let start = Event { kind: FLOW_START, ..hit(0) };
        assert_eq!(log.event(&start, now), None, "only if all flows are logged");
    }

    #[test]
    fn no_more_is_written_than_the_configuration_says_and_the_rest_is_counted() {
        let mut log = EventLog::new(&Log { per_second: 2, flows: false }, names());
        let start = Instant::now();
        let mut told = |after_ms, untold| match log
            .event(&hit(untold), start + Duration::from_millis(after_ms))
        {
            Some(Record::Hit { untold, .. }) => Some(untold),
            None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!((told(0, 0), told(1, 0)), (Some(0), Some(0)));
        assert_eq!((told(2, 0), told(999, 30)), (None, None));
        assert_eq!(told(1000, 7), Some(2 + 30 + 7));
        assert_eq!(told(1001, 0), Some(0));
    }

    #[test]
    fn ends_are_told_of_logged_flows() {
        let key = |source: [u8; 4], destination: [u8; 4], zone| FlowKey {
            source: from_address(source.into()),
            destination: from_address(destination.into()),
            destination_port: 443_u16.to_be(),
            protocol: TCP,
            zone,
            ..FlowKey::default()
        };
        let mut record = FlowRecord {
            packets: [3, 4],
            bytes: [300, 4000],
            created: 100,
            last_seen: 110,
            rule: 1,
            ..FlowRecord::default()
        };
        record.set_ends4(&Ends4 {
            keys: [
                key([192, 168, 77, 5], [198, 51, 100, 7], 1),
                key([198, 51, 100, 7], [203, 0, 113, 57], 2),
            ],
            ..Ends4::default()
        });
        let now = Instant::now();
        let mut log = EventLog::new(&Log::default(), names());
        assert_eq!(log.ended(&record, EndReason::Idle, now), None);
        record.flags = LOGGED;
        let subject = Subject {
            protocol: "tcp".into(),
            from: "lan".into(),
            to: "wan".into(),
            source: "192.168.77.5:0".parse().unwrap(),
            destination: "198.51.100.7:443".parse().unwrap(),
            rule: "web".into(),
        };
        let end = Record::End {
            subject,
            reason: "idle",
            packets: [3, 4],
            bytes: [300, 4000],
            seconds: 10,
            untold: 0,
        };
        assert_eq!(log.ended(&record, EndReason::Idle, now), Some(end.clone()));
        record.flags = 0;
        let mut all = EventLog::new(&Log { flows: true, ..Log::default() }, names());
        assert_eq!(all.ended(&record, EndReason::Idle, now), Some(end));
        assert!(matches!(
            all.event(&Event { kind: FLOW_START, ..hit(0) }, now),
            Some(Record::Start { .. })
        ));
    }

    #[test]
    fn a_record_of_any_kind_says_how_many_were_left_out_before_it() {
        let mut log = EventLog::new(&Log { per_second: 1, flows: true }, names());
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let began = Event { kind: FLOW_START, ..hit(0) };
        let ended = FlowRecord::default();
        assert!(log.event(&hit(0), start).is_some());
        assert_eq!(log.event(&hit(4), start), None);
        assert_eq!(log.ended(&ended, EndReason::Closed, start), None);
        assert!(matches!(log.event(&began, after(1)), Some(Record::Start { untold: 6, .. })));
        assert_eq!(log.event(&began, after(1)), None);
        let end = log.ended(&ended, EndReason::Closed, after(2));
        assert!(matches!(end, Some(Record::End { untold: 1, .. })));
        assert!(matches!(log.event(&hit(0), after(3)), Some(Record::Hit { untold: 0, .. })));
    }

    #[test]
    fn new_settings_forget_neither_the_limit_nor_what_was_left_out() {
        let settings = Log { per_second: 1, flows: false };
        let mut log = EventLog::new(&settings, names());
        let start = Instant::now();
        assert!(log.event(&hit(0), start).is_some());
        assert_eq!(log.event(&hit(4), start), None);
        log.configure(&settings, names());
        assert_eq!(log.event(&hit(0), start), None, "in the same second");
        let next = log.event(&hit(0), start + Duration::from_secs(1));
        assert!(matches!(next, Some(Record::Hit { untold: 6, .. })), "{next:?}");
    }

    #[test]
    fn an_event_has_one_length() {
        assert_eq!(parse(&[0; 64]), Some(Event::default()));
        assert_eq!(parse(&[0; 63]), None);
    }
}
