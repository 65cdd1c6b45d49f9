//! How long flows live. Pure: records and time in, decisions out.

use portcullis_datapath_abi::{
    FlowRecord, TICK_SHIFT,
    flow::{ACK, FIN, ICMP, ICMPV6, IPV6, RST, SYN, TCP},
};
use portcullis_model::Timeouts;

/// State of a flow, from what both directions saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// TCP that is opening.
    New,
    /// Traffic went both ways (TCP: the handshake is complete).
    Established,
    /// TCP with a RST, or a FIN from each side.
    Closing,
    /// UDP or ICMP without an answer.
    Unreplied,
}

impl State {
    /// Name on the bus.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Unreplied => "unreplied",
        }
    }
}

/// Protocol of a flow.
pub const fn protocol(record: &FlowRecord) -> u8 {
    if record.flags & IPV6 != 0 {
        record.ends6().protocol
    } else {
        let [original, _] = record.ends4().keys;
        original.protocol
    }
}

/// The state of a flow.
pub fn state(record: &FlowRecord) -> State {
    let [original, reply] = &record.sides;
    let [_, answers] = record.packets;
    if protocol(record) == TCP {
        let either = original.seen | reply.seen;
        let both = original.seen & reply.seen;
        if either & RST != 0 || both & FIN != 0 {
            State::Closing
        } else if original.seen & ACK != 0 && reply.seen & SYN != 0 {
            State::Established
        } else {
            State::New
        }
    } else if answers > 0 {
        State::Established
    } else {
        State::Unreplied
    }
}

/// Seconds of idleness that a flow may have. After a RST the time is that of any closing connection
/// (RFC 7857 section 2.2): the RST may have been forged, or be lost behind us and sent again.
pub fn timeout_s(protocol: u8, state: State, timeouts: &Timeouts) -> u32 {
    match (protocol, state) {
        (TCP, State::Established) => timeouts.tcp_established_s,
        (TCP, _) => timeouts.tcp_transitory_s,
        (ICMP | ICMPV6, _) => timeouts.icmp_s,
        // UDP, and protocols without ports.
        (_, State::Unreplied) => timeouts.udp_unreplied_s,
        _ => timeouts.udp_s,
    }
}

/// The shortest of all timeouts: what is younger needs no second look.
pub fn shortest_s(timeouts: &Timeouts) -> u32 {
    [
        timeouts.tcp_established_s,
        timeouts.tcp_transitory_s,
        timeouts.udp_s,
        timeouts.udp_unreplied_s,
        timeouts.icmp_s,
    ]
    .into_iter()
    .min()
    .unwrap_or_default()
}

/// Seconds between two times in ticks; 0 if `then` is later (the datapath's clock may be ahead of
/// ours by a tick).
pub fn seconds_since(then: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(then);
    if ticks > u32::MAX / 2 {
        return 0;
    }
    let nanoseconds = u64::from(ticks) << TICK_SHIFT;
    u32::try_from(nanoseconds / 1_000_000_000).unwrap_or(u32::MAX)
}

/// As many ticks as `seconds` have, and the rest of the last one.
pub fn ticks(seconds: u32) -> u32 {
    let nanoseconds = u64::from(seconds) * 1_000_000_000;
    u32::try_from(nanoseconds.div_ceil(1 << TICK_SHIFT)).unwrap_or(u32::MAX)
}

/// How full the table is, as what it does to flows that are not established: the timeouts of those
/// that nobody has answered, or that both sides have closed, shrink from 7/8 of the capacity on, down
/// to nothing when it is full, so that they make room and an established flow never has to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pressure {
    /// Remaining share of their timeout, 0 to 256.
    share: u32,
}

impl Pressure {
    /// None.
    pub const NONE: Self = Self { share: 256 };

    /// With `flows` of `capacity` in use; `refused` if a new one found no room.
    pub fn of(flows: u64, capacity: u64, refused: bool) -> Self {
        if refused {
            return Self { share: 0 };
        }
        let reserve = (capacity / 8).max(1);
        let free = capacity.saturating_sub(flows);
        Self { share: u32::try_from((free * 256 / reserve).min(256)).unwrap_or(256) }
    }

    /// Whether it shortens anything.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The timeout of a flow in `state` under this pressure.
    pub fn apply(self, state: State, timeout_s: u32) -> u32 {
        match state {
            State::Established => timeout_s,
            _ => u32::try_from(u64::from(timeout_s) * u64::from(self.share) / 256)
                .unwrap_or(timeout_s),
        }
    }
}

/// Whether a flow is to be forgotten.
pub fn expired(record: &FlowRecord, timeouts: &Timeouts, pressure: Pressure, now: u32) -> bool {
    let state = state(record);
    let limit = pressure.apply(state, timeout_s(protocol(record), state, timeouts));
    // A flow lives for a second at least: its first answer is on the way.
    seconds_since(record.last_seen, now) > limit.max(1)
}

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::{
        FlowKey, FlowKey6,
        flow::{Ends4, UDP},
    };

    use super::*;

    /// A flow of `protocol` with the flags and packets of both sides.
    fn flow(protocol: u8, seen: [u8; 2], packets: [u64; 2], last_seen: u32) -> FlowRecord {
        let key = FlowKey { protocol, ..FlowKey::default() };
        let ends = Ends4 { keys: [key, key], ..Ends4::default() };
        let mut record = FlowRecord { packets, last_seen, ..FlowRecord::default() };
        record.set_ends4(&ends);
        for (side, seen) in record.sides.iter_mut().zip(seen) {
            side.seen = seen;
        }
        record
    }

    #[test]
    fn tcp_states_follow_the_flags_of_both_sides() {
        let state = |original, reply| state(&flow(TCP, [original, reply], [1, 1], 0));
        assert_eq!(state(SYN, 0), State::New);
        assert_eq!(state(SYN, SYN), State::New, "the handshake's last segment is missing");
        assert_eq!(state(SYN | ACK, SYN), State::Established);
        assert_eq!(state(SYN | ACK | FIN, SYN | ACK), State::Established, "half closed");
        assert_eq!(state(SYN | ACK | FIN, SYN | ACK | FIN), State::Closing);
        assert_eq!(state(SYN, RST), State::Closing);
    }

    #[test]
    fn one_way_udp_is_not_established() {
        assert_eq!(state(&flow(UDP, [0; 2], [1000, 0], 0)), State::Unreplied);
        assert_eq!(state(&flow(UDP, [0; 2], [1, 1], 0)), State::Established);
    }

    #[test]
    fn both_families_have_the_same_times() {
        let timeouts = Timeouts::default();
        let mut six = FlowRecord { flags: IPV6, packets: [1, 1], ..FlowRecord::default() };
        six.set_ends6(&FlowKey6 { protocol: ICMPV6, ..FlowKey6::default() });
        assert_eq!(protocol(&six), ICMPV6);
        let four = flow(ICMP, [0; 2], [1, 1], 0);
        for record in [&four, &six] {
            let timeout = timeout_s(protocol(record), state(record), &timeouts);
            assert_eq!(timeout, timeouts.icmp_s);
        }
        let gre = flow(47, [0; 2], [1, 0], 0);
        assert_eq!(timeout_s(47, state(&gre), &timeouts), timeouts.udp_unreplied_s);
    }

    #[test]
    fn ticks_are_not_less_than_the_seconds_they_stand_for() {
        assert_eq!([0, 1, 15, 60, 120].map(ticks), [0, 1, 14, 56, 112]);
        for seconds in [1, 15, 60, 120, Timeouts::MAX_S] {
            assert!(seconds_since(0, ticks(seconds)) >= seconds);
            assert!(seconds_since(0, ticks(seconds) - 1) < seconds);
        }
    }

    #[test]
    fn an_established_connection_outlives_the_silence_that_the_rfc_asks_for() {
        let timeouts = Timeouts::default();
        let old = flow(TCP, [SYN | ACK, SYN | ACK], [9, 9], 100);
        let ticks = |seconds: u64| ((seconds * 1_000_000_000) >> TICK_SHIFT) as u32;
        assert!(!expired(&old, &timeouts, Pressure::NONE, 100 + ticks(7_440)));
        assert!(expired(&old, &timeouts, Pressure::NONE, 100 + ticks(7_445)));
        let reset = flow(TCP, [SYN | ACK, SYN | ACK | RST], [9, 9], 100);
        assert!(!expired(&reset, &timeouts, Pressure::NONE, 100 + ticks(239)));
        assert!(expired(&reset, &timeouts, Pressure::NONE, 100 + ticks(243)));
    }

    #[test]
    fn a_full_table_costs_unreplied_and_closed_flows_first_and_established_ones_never() {
        let timeouts = Timeouts::default();
        let full = Pressure::of(1000, 1000, false);
        let unreplied = flow(UDP, [0; 2], [1, 0], 100);
        let closed = flow(TCP, [SYN | ACK | FIN; 2], [5, 5], 100);
        let established = [flow(UDP, [0; 2], [1, 1], 100), flow(TCP, [SYN | ACK; 2], [5, 5], 100)];
        let gone = |flow: &FlowRecord, pressure| expired(flow, &timeouts, pressure, 104);
        assert!(gone(&unreplied, full) && gone(&closed, full));
        assert!(!gone(&unreplied, Pressure::NONE) && !gone(&closed, Pressure::NONE));
        assert!(established.iter().all(|flow| !gone(flow, full)));
        assert!(Pressure::of(800, 1000, false).is_none());
        assert!(!Pressure::of(900, 1000, false).is_none());
        assert!(gone(&unreplied, Pressure::of(10, 1000, true)));
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_make_flows_old() {
        assert_eq!(seconds_since(101, 100), 0);
        assert_eq!(seconds_since(u32::MAX, 9), 10, "wraps");
    }
}
