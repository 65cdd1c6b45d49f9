//! How long flows live. Pure: entries and time in, decisions out.

use portcullis_datapath_abi::{
    FlowEntry, TICK_SHIFT,
    flow::{ACK, FIN, ICMP, RST, SYN, TCP, UDP},
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

/// The state of a flow of `protocol` whose directions are these.
pub fn state(protocol: u8, original: &FlowEntry, reply: &FlowEntry) -> State {
    if protocol == TCP {
        let either = original.seen | reply.seen;
        let both = original.seen & reply.seen;
        if either & RST != 0 || both & FIN != 0 {
            State::Closing
        } else if original.seen & ACK != 0 && reply.seen & SYN != 0 {
            State::Established
        } else {
            State::New
        }
    } else if reply.packets > 0 {
        State::Established
    } else {
        State::Unreplied
    }
}

/// Seconds of idleness that a flow may have.
pub fn timeout_s(protocol: u8, state: State, timeouts: &Timeouts) -> u32 {
    match (protocol, state) {
        (TCP, State::Established) => timeouts.tcp_established_s,
        (TCP, _) => timeouts.tcp_transitory_s,
        (UDP, State::Unreplied) => timeouts.udp_unreplied_s,
        (ICMP, _) => timeouts.icmp_s,
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

/// How full the table is, as what it does to flows that nobody has answered: their timeouts shrink
/// from 7/8 of the capacity on, down to nothing when it is full, so that they make room and an
/// established flow never has to.
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
pub fn expired(
    protocol: u8,
    original: &FlowEntry,
    reply: &FlowEntry,
    timeouts: &Timeouts,
    pressure: Pressure,
    now: u32,
) -> bool {
    let state = state(protocol, original, reply);
    let idle = seconds_since(original.last_seen, now).min(seconds_since(reply.last_seen, now));
    let limit = pressure.apply(state, timeout_s(protocol, state, timeouts));
    // A flow lives for a second at least: its first answer is on the way.
    idle > limit.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seen: u8, packets: u64, last_seen: u32) -> FlowEntry {
        FlowEntry { seen, packets, last_seen, ..FlowEntry::default() }
    }

    #[test]
    fn tcp_states_follow_the_flags_of_both_sides() {
        let state = |original, reply| state(TCP, &entry(original, 1, 0), &entry(reply, 1, 0));
        assert_eq!(state(SYN, 0), State::New);
        assert_eq!(state(SYN, SYN), State::New, "the handshake's last segment is missing");
        assert_eq!(state(SYN | ACK, SYN), State::Established);
        assert_eq!(state(SYN | ACK | FIN, SYN | ACK), State::Established, "half closed");
        assert_eq!(state(SYN | ACK | FIN, SYN | ACK | FIN), State::Closing);
        assert_eq!(state(SYN, RST), State::Closing);
    }

    #[test]
    fn one_way_udp_is_not_established() {
        assert_eq!(state(UDP, &entry(0, 1000, 0), &entry(0, 0, 0)), State::Unreplied);
        assert_eq!(state(UDP, &entry(0, 1, 0), &entry(0, 1, 0)), State::Established);
    }

    #[test]
    fn either_direction_keeps_a_flow_alive() {
        let timeouts = Timeouts::default();
        let old = entry(SYN | ACK, 9, 100);
        let young = entry(SYN | ACK, 9, 100 + 7_000);
        let now = 100 + 7_100;
        assert!(!expired(TCP, &old, &young, &timeouts, Pressure::NONE, now));
        assert!(expired(TCP, &old, &old, &timeouts, Pressure::NONE, now));
    }

    #[test]
    fn a_full_table_costs_unreplied_flows_first_and_established_ones_never() {
        let timeouts = Timeouts::default();
        let full = Pressure::of(1000, 1000, false);
        let unreplied = (entry(0, 1, 100), entry(0, 0, 100));
        let established = (entry(0, 1, 100), entry(0, 1, 100));
        let gone = |flow: &(FlowEntry, FlowEntry), pressure| {
            expired(UDP, &flow.0, &flow.1, &timeouts, pressure, 104)
        };
        assert!(gone(&unreplied, full));
        assert!(!gone(&unreplied, Pressure::NONE));
        assert!(!gone(&established, full));
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
