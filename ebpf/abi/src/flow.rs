//! Flows: one record for both directions, found by two entries of the index (`portcullis-flow-table`).
//!
//! Life of a record, as told by [`FlowRecord::state`]: the datapath takes a free number, fills the
//! record in place, makes it [`LIVE`] and enters it into the index. Whoever ends it (the service when
//! it ages out, the datapath when its route moved) takes it out of the index and makes it [`GONE`];
//! the service, and it alone, then gives up what it holds (a mapping, a place in a limit), reports
//! its end ([`CLEARED`]), and one pass later hands the number back ([`FREE`]).

/// What an IPv4 packet of one direction looks like when it arrives.
///
/// For ICMP echo the query id stands in the port of the side that asks: `source_port` in requests,
/// `destination_port` in replies; the other port is 0.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zone that the packet comes from; [`crate::policy::ROUTER`] for the router's own. A flow is
    /// found only from the zone that it belongs to.
    pub zone: u8,
    /// Zero.
    pub reserved: u16,
}

/// What an IPv6 packet of the original direction looks like. IPv6 is not translated, so the other
/// direction is the same with its ends exchanged ([`FlowKey6::reverse`]).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey6 {
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Source port, as in [`FlowKey`].
    pub source_port: u16,
    /// Destination port, as in [`FlowKey`].
    pub destination_port: u16,
    /// Protocol number of the upper layer.
    pub protocol: u8,
    /// Zone that the packet comes from.
    pub zone: u8,
    /// Zone that packets of the other direction come from. Not known of a packet that arrives, so
    /// not part of what is hashed.
    pub peer_zone: u8,
    /// Zero.
    pub reserved: u8,
}

impl FlowKey6 {
    /// The key of the other direction.
    #[inline(always)]
    pub const fn reverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            zone: self.peer_zone,
            peer_zone: self.zone,
            reserved: 0,
        }
    }
}

/// What identifies an IPv4 flow, and the checksum differences of its translation. Index 0 is the
/// initiator's direction, 1 the other.
///
/// A packet of one direction leaves with the addresses of the other direction's key, exchanged.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ends4 {
    /// Keys of both directions, as packets arrive.
    pub keys: [FlowKey; 2],
    /// Difference that the address translation makes to a checksum (RFC 1624, HC' = ~(~HC + d)).
    pub address_delta: [u16; 2],
    /// Difference that addresses and ports make together.
    pub transport_delta: [u16; 2],
}

/// One direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Side {
    /// Generation of routes and neighbours under which `egress`, `mtu` and `macs` were found; 0 for
    /// never, so always of flows of the router itself.
    pub generation: u32,
    /// Cached index of the device to leave by.
    pub egress: u32,
    /// Cached Ethernet destination and source, as they stand in the frame.
    pub macs: [u32; 3],
    /// Cached MTU of the egress device.
    pub mtu: u16,
    /// TCP: largest window that this side announced, as in the header.
    pub window: u16,
    /// TCP: end of the data that this side has sent: highest sequence number plus one.
    pub end: u32,
    /// TCP: end of the data that this side may send: highest acknowledged plus window of the other.
    pub max_end: u32,
    /// TCP: shift of this side's window (RFC 7323), 0 to 14, of [`NO_SCALE`] when it offered none.
    pub scale: u8,
    /// TCP flags that this side has sent: [`SYN`], [`ACK`], [`FIN`], [`RST`].
    pub seen: u8,
    /// Cached flags of the egress device, [`crate::policy::XDP_TRANSMIT`], and [`PASSED`].
    pub link: u8,
    /// TCP: a part of the number of a SYN on an established connection, see the datapath's `tcp`.
    pub again: u8,
}

/// A flow: 160 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowRecord {
    /// [`Ends4`], or for [`IPV6`] the [`FlowKey6`] of the original direction.
    pub ends: [u64; 5],
    /// Packets of each direction (segments of an aggregated frame count one each).
    pub packets: [u64; 2],
    /// Bytes of each direction, from the IP header on.
    pub bytes: [u64; 2],
    /// Both directions.
    pub sides: [Side; 2],
    /// When the last packet passed, in ticks (see [`crate::TICK_SHIFT`]), as far as the stages behind
    /// the entry and the last pass of the service know; the entry only sets [`PASSED`].
    pub last_seen: u32,
    /// When the first one did, in ticks.
    pub created: u32,
    /// Number of the mapping that it uses, [`NO_MAPPING`] for none.
    pub mapping: u32,
    /// Number of the rule that let it in, [`crate::policy::NO_RULE`] for none.
    pub rule: u16,
    /// [`FREE`], [`LIVE`], [`GONE`], [`CLEARED`].
    pub state: u8,
    /// [`IPV6`], [`TO_ROUTER`] and so on.
    pub flags: u8,
}

/// The record's number is not in use.
pub const FREE: u8 = 0;
/// The record is a flow.
pub const LIVE: u8 = 1;
/// The flow has ended and is in the index no more; the service will clear it away.
pub const GONE: u8 = 2;
/// The service has given up what the flow held; one pass later the number is free.
pub const CLEARED: u8 = 3;

/// `ends` is a [`FlowKey6`].
pub const IPV6: u8 = 1;
/// Packets of the original direction end at the router.
pub const TO_ROUTER: u8 = 2;
/// Packets of the original direction come from the router itself.
pub const FROM_ROUTER: u8 = 4;
/// Addresses or ports change.
pub const TRANSLATED: u8 = 8;
/// Counted in the limits of connections for its source (original direction, rule).
pub const LIMITED: u8 = 16;
/// Its start and end are logged.
pub const LOGGED: u8 = 32;

/// In [`Side::link`]: a packet of this direction has passed since the service looked last. Packets of
/// known flows read no clock: the service, which passes over the table every few seconds, takes the
/// mark away and notes the time.
pub const PASSED: u8 = 2;

/// No mapping.
pub const NO_MAPPING: u32 = u32::MAX;
/// The side offered no window scale. Its low four bits are a shift by none.
pub const NO_SCALE: u8 = 0xf0;

/// A SYN was seen.
pub const SYN: u8 = 1;
/// A segment with ACK and without SYN was seen.
pub const ACK: u8 = 2;
/// A FIN was seen.
pub const FIN: u8 = 4;
/// A RST inside the window was seen.
pub const RST: u8 = 8;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

impl FlowRecord {
    /// The ends of an IPv4 flow.
    pub const fn ends4(&self) -> Ends4 {
        // SAFETY: both are plain integers of the same size and alignment, valid for any bits.
        unsafe { core::mem::transmute(self.ends) }
    }

    /// The ends of an IPv6 flow.
    pub const fn ends6(&self) -> FlowKey6 {
        // SAFETY: as above.
        unsafe { core::mem::transmute(self.ends) }
    }

    /// Sets the ends of an IPv4 flow.
    pub const fn set_ends4(&mut self, ends: &Ends4) {
        // SAFETY: as above.
        self.ends = unsafe { core::mem::transmute::<Ends4, [u64; 5]>(*ends) };
    }

    /// Sets the ends of an IPv6 flow.
    pub const fn set_ends6(&mut self, key: &FlowKey6) {
        // SAFETY: as above.
        self.ends = unsafe { core::mem::transmute::<FlowKey6, [u64; 5]>(*key) };
    }
}

/// Elements of `map::TAKEN`.
pub mod taken {
    /// Flow records that were ever taken: numbers from there on are free.
    pub const FLOWS: u32 = 0;
    /// The same of mappings.
    pub const MAPPINGS: u32 = 1;
    /// Numbers in the queue of flow records: raised before one is put in and lowered after one was taken
    /// out, so that nobody overlooks one. 0: the queue need not be asked.
    pub const WAITING_FLOWS: u32 = 2;
    /// The same of mappings.
    pub const WAITING_MAPPINGS: u32 = 3;
    /// How many there are.
    pub const COUNT: u32 = 4;
}

/// What the index says of a key: number of the record, direction, kind. Never 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Payload(pub u32);

/// Kinds of index entries. They are mixed into the hash too, so that a key of one kind is never found
/// as another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum EntryKind {
    /// A direction of a flow.
    Flow = 0,
    /// A mapping by its internal end.
    Internal = 1,
    /// A mapping by its external end.
    External = 2,
}

impl Payload {
    /// Records are numbered from 0 to this.
    pub const MAX_RECORD: u32 = (1 << 24) - 1;

    /// Of record `number`; `direction` 0 or 1.
    #[inline(always)]
    pub const fn new(kind: EntryKind, number: u32, direction: u32) -> Self {
        Self(1 << 31 | (kind as u32) << 25 | (direction & 1) << 24 | (number & Self::MAX_RECORD))
    }

    /// Number of the record.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0 & Self::MAX_RECORD
    }

    /// Number of a flow's record; of a mapping's entry one that no table has.
    #[inline(always)]
    pub const fn flow(self) -> u32 {
        const { assert!(EntryKind::Flow as u32 == 0) };
        self.0 & (Self::MAX_RECORD | 3 << 25)
    }

    /// Direction that the key belongs to: 0 is the initiator's.
    #[inline(always)]
    pub const fn direction(self) -> u32 {
        self.0 >> 24 & 1
    }

    /// What the entry is, as a number of [`EntryKind`].
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 >> 25 & 3
    }
}

/// Endpoint-independent mapping (RFC 4787 section 4.1): all flows of one internal address and port
/// take the same external address and port, which nobody else has meanwhile. It lives as long as a
/// flow uses it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mapping {
    /// Internal address.
    pub internal: u32,
    /// External address.
    pub external: u32,
    /// Internal port or ICMP query id.
    pub internal_port: u16,
    /// External port or ICMP query id.
    pub external_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Zone of the internal end.
    pub zone: u8,
    /// Zone in which the external address is used.
    pub external_zone: u8,
    /// [`ENDPOINT_INDEPENDENT_FILTER`].
    pub flags: u8,
    /// Flows that use it, and [`MAPPING_CLOSED`] when it is going away. Changed atomically only.
    pub references: u32,
    /// When the last flow of it ended, in ticks.
    pub idle_since: u32,
    /// [`FREE`], [`LIVE`], [`GONE`].
    pub state: u32,
    /// Zero.
    pub reserved: u32,
}

/// Anybody outside may send to the external end ("full cone").
pub const ENDPOINT_INDEPENDENT_FILTER: u8 = 1;
/// In [`Mapping::references`]: no new flow may use it.
pub const MAPPING_CLOSED: u32 = 1 << 31;

impl Mapping {
    /// Key of the internal end: the external address is part of it, for a host that leaves by two
    /// uplinks has a mapping in each.
    #[inline(always)]
    pub const fn internal_key(&self) -> FlowKey {
        FlowKey {
            source: self.internal,
            destination: self.external,
            source_port: self.internal_port,
            destination_port: 0,
            protocol: self.protocol,
            zone: self.zone,
            reserved: 0,
        }
    }

    /// Key of the external end.
    #[inline(always)]
    pub const fn external_key(&self) -> FlowKey {
        FlowKey {
            source: 0,
            destination: self.external,
            source_port: 0,
            destination_port: self.external_port,
            protocol: self.protocol,
            zone: self.external_zone,
            reserved: 0,
        }
    }
}

impl FlowKey {
    /// As the words that the index hashes; `kind` keeps the keys of different kinds apart.
    #[inline(always)]
    pub const fn words(&self, kind: EntryKind) -> [u64; 2] {
        // SAFETY: plain integers without padding, of the same size.
        let [a, b]: [u64; 2] = unsafe { core::mem::transmute(*self) };
        [a, b ^ (kind as u64) << 48]
    }
}

impl FlowKey6 {
    /// As the words that the index hashes.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 5] {
        // SAFETY: plain integers without padding, of the same size.
        unsafe { core::mem::transmute(Self { peer_zone: 0, ..*self }) }
    }
}
