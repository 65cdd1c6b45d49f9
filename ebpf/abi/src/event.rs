//! What the datapath tells user space of its own accord: drops by zone pair, starts of flows, hits
//! of rules that are to be logged.

/// Cell of the table of drops: a reason between two zones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DropKey {
    /// Number of a [`crate::Counter`].
    pub reason: u16,
    /// Zone that the packet came from, [`UNKNOWN_ZONE`] if its interface is in none.
    pub from: u8,
    /// Zone that it would have gone to, [`UNKNOWN_ZONE`] if it was dropped before that was known.
    pub to: u8,
}

/// No zone, or not known yet.
pub const UNKNOWN_ZONE: u8 = 0xff;

/// Cells of the table of drops. A reason between zones that finds no room is still counted by its
/// [`crate::Counter`].
pub const MAX_DROP_CELLS: u32 = 2048;

/// Something that happened, in the ring of events.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// Source address of the packet; IPv4 as ::ffff:a.b.c.d.
    pub source: [u32; 4],
    /// Destination address, as the packet had it.
    pub destination: [u32; 4],
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Number of the flow's record, [`NO_RECORD`] if the packet made none.
    pub record: u32,
    /// Hits that were not told since the last one that was ([`HITS_PER_TICK`]).
    pub untold: u32,
    /// Source port, as in [`crate::FlowKey`].
    pub source_port: u16,
    /// Destination port, as in [`crate::FlowKey`].
    pub destination_port: u16,
    /// Number of the rule, [`crate::policy::NO_RULE`] for the default of the zone pair.
    pub rule: u16,
    /// [`FLOW_START`], [`RULE_HIT`].
    pub kind: u8,
    /// IP protocol number, of the upper layer for IPv6.
    pub protocol: u8,
    /// Zone that the packet came from.
    pub from: u8,
    /// Zone that it goes to.
    pub to: u8,
    /// What the rule did: a verdict of [`crate::policy`].
    pub action: u8,
    /// Zero.
    pub reserved: u8,
    /// Zero.
    pub reserved2: u32,
}

/// A flow was entered into the table.
pub const FLOW_START: u8 = 1;
/// A rule (or the default of a zone pair) that is to be logged decided about a first packet.
pub const RULE_HIT: u8 = 2;

/// The event is about no flow.
pub const NO_RECORD: u32 = u32::MAX;

/// Rule hits that one CPU tells in one tick ([`crate::TICK_SHIFT`]); the others are counted and the
/// number comes with the next one. A flood of packets must not become a flood of log records.
pub const HITS_PER_TICK: u32 = 32;

/// Size of the ring of events in bytes: a power of two, at least a page.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;

/// Rule hits of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HitBudget {
    /// Tick that `told` is of.
    pub tick: u32,
    /// Hits told in it.
    pub told: u32,
    /// Hits not told since the last one that was.
    pub untold: u32,
}
