//! Keys and values of the datapath's maps: what the packet core ([`flow`], [`policy`],
//! [`counter`]) and user space agree on. Plain data, `no_std`, no padding that is not named.
//!
//! Addresses and ports stand in these types exactly as in the packet (network byte order read as
//! a native integer), so that the packet path never swaps bytes; user space converts with
//! [`address`] and [`port`].
//!
//! Maps outlive the process that made them (they are pinned), so their layout is a contract with
//! past and future versions: [`LAYOUT`] changes whenever a size, an offset or [`VERSION`] does, and
//! maps of another layout are not adopted.

#![no_std]

pub mod capture;
pub mod classifier;
pub mod counter;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod nat;
pub mod policy;
pub mod stage;

use core::net::Ipv4Addr;

pub use counter::Counter;
pub use flow::{FlowKey, FlowKey6, FlowRecord, Mapping};
pub use fragment::{Datagram, FragmentKey, HeldFrame};
pub use policy::{Config, Interface, Zone};

/// Meaning of the maps; to be raised when values mean something else at the same offsets.
pub const VERSION: u32 = 3;

/// Length of one unit of coarse time: 2^30 nanoseconds of `CLOCK_MONOTONIC`, 1.07 s. A shift
/// instead of a division in the packet path.
pub const TICK_SHIFT: u32 = 30;

/// Mark on packets that the datapath forwards; what the kernel forwards without it is refused at
/// the egress hook, so that nothing passes around the policy.
pub const FORWARD_MARK: u32 = 0x7063_6677;

/// Names of the maps, as in the object file.
pub mod map {
    /// Buckets of the flow index (`portcullis-flow-table`), array in mappable memory.
    pub const INDEX: &str = "INDEX";
    /// Locks of the index, array of u32 in mappable memory: the service inserts too, when it carries
    /// flows over into a table of another size.
    pub const LOCKS: &str = "LOCKS";
    /// [`crate::FlowRecord`] by number, array in mappable memory.
    pub const FLOWS: &str = "FLOWS";
    /// [`crate::Mapping`] by number, array in mappable memory.
    pub const MAPPINGS: &str = "MAPPINGS";
    /// How many flow records and mappings were ever taken, and how many wait in the queues to be used
    /// again ([`crate::flow::taken`]), array of u32 in mappable memory.
    pub const TAKEN: &str = "TAKEN";
    /// Numbers of flow records to be used again, queue.
    pub const FREE_FLOWS: &str = "FREE_FLOWS";
    /// Numbers of mappings to be used again, queue.
    pub const FREE_MAPPINGS: &str = "FREE_MAPPINGS";
    /// [`crate::Datagram`] by [`crate::FragmentKey`], LRU hash.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// [`crate::HeldFrame`] by [`crate::fragment::held_index`], array.
    pub const HELD: &str = "HELD";
    /// Frames ever held in a row, array of u32.
    pub const HELD_COUNTS: &str = "HELD_COUNTS";
    /// Rates of the router's answers, array of u64.
    pub const ANSWER_RATES: &str = "ANSWER_RATES";
    /// Lines of the compiled rules, both banks ([`crate::classifier`]), array in mappable memory.
    pub const POLICY: &str = "POLICY";
    /// Lines of classes by [`crate::classifier::ClassKey`], trie of longest prefixes.
    pub const CLASSES: &str = "CLASSES";
    /// States of rates by [`crate::classifier::SourceKey`], LRU hash of u64.
    pub const SOURCE_RATES: &str = "SOURCE_RATES";
    /// Numbers of flows by [`crate::classifier::SourceKey`], hash of u32.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// One [`crate::Config`], array.
    pub const CONFIG: &str = "CONFIG";
    /// [`crate::Interface`] by `index % INTERFACE_SLOTS`, array.
    pub const INTERFACES: &str = "INTERFACES";
    /// [`crate::Zone`] by zone id, array.
    pub const ZONES: &str = "ZONES";
    /// Verdict by [`crate::policy::pair_index`], array.
    pub const PAIRS: &str = "PAIRS";
    /// The router's own IPv4 addresses, to the index of their interface, hash.
    pub const ADDRESSES: &str = "ADDRESSES";
    /// The router's own IPv6 addresses, as in packets, to the index of their interface, hash.
    pub const ADDRESSES6: &str = "ADDRESSES6";
    /// [`crate::counter::Count`] by [`crate::Counter`], per-CPU array.
    pub const COUNTERS: &str = "COUNTERS";
    /// [`crate::counter::Count`] by [`crate::event::DropKey`], per-CPU hash.
    pub const DROPS: &str = "DROPS";
    /// One [`crate::guard::Guard`], array.
    pub const GUARD: &str = "GUARD";
    /// Flags of prefixes ([`crate::guard::BLOCKED`] and so on), longest prefix match.
    pub const PREFIXES: &str = "PREFIXES";
    /// Rates by [`crate::guard::FloodKey`], LRU hash of u64.
    pub const FLOOD_RATES: &str = "FLOOD_RATES";
    /// Rates by [`crate::guard::FloodClass`], array of u64.
    pub const FLOOD_TOTALS: &str = "FLOOD_TOTALS";
    /// Until when, in ticks, an address has proven that it exists, LRU hash.
    pub const VERIFIED: &str = "VERIFIED";
    /// [`crate::event::Event`]s, ring buffer.
    pub const EVENTS: &str = "EVENTS";
    /// [`crate::event::HitBudget`], per-CPU array.
    pub const HIT_BUDGET: &str = "HIT_BUDGET";
    /// One [`crate::capture::CaptureFilter`], array.
    pub const CAPTURE: &str = "CAPTURE";
    /// Packets behind [`crate::capture::CaptureHeader`]s, ring buffer.
    pub const PACKETS: &str = "PACKETS";
    /// One [`crate::capture::Captured`], where it is put together, per-CPU array.
    pub const CAPTURED: &str = "CAPTURED";
}

/// An address as it stands in packets and maps.
pub const fn from_address(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// The address that stands in a packet or map as `raw`.
pub const fn address(raw: u32) -> Ipv4Addr {
    let [a, b, c, d] = raw.to_ne_bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// The port (or ICMP query id) that stands in a packet or map as `raw`; its own inverse.
pub const fn port(raw: u16) -> u16 {
    u16::from_be(raw)
}

/// Fingerprint of the layout of all map types.
pub const LAYOUT: u32 = {
    use core::mem::{offset_of, size_of};

    use flow::Side;
    let facts = [
        VERSION as usize,
        size_of::<FlowKey>(),
        offset_of!(FlowKey, destination),
        offset_of!(FlowKey, source_port),
        offset_of!(FlowKey, protocol),
        offset_of!(FlowKey, zone),
        size_of::<FlowKey6>(),
        size_of::<FlowRecord>(),
        offset_of!(FlowRecord, packets),
        offset_of!(FlowRecord, sides),
        offset_of!(FlowRecord, last_seen),
        offset_of!(FlowRecord, mapping),
        offset_of!(FlowRecord, state),
        size_of::<Side>(),
        offset_of!(Side, macs),
        offset_of!(Side, end),
        offset_of!(Side, seen),
        size_of::<Mapping>(),
        offset_of!(Mapping, references),
        flow::taken::COUNT as usize,
        size_of::<FragmentKey>(),
        size_of::<Datagram>(),
        size_of::<HeldFrame>(),
        size_of::<Config>(),
        size_of::<classifier::Line>(),
        size_of::<classifier::ClassKey>(),
        size_of::<classifier::SourceKey>(),
        classifier::LINES as usize,
        size_of::<Interface>(),
        offset_of!(Interface, nat_address),
        size_of::<Zone>(),
        policy::INTERFACE_SLOTS as usize,
        policy::MAX_ZONES as usize,
        counter::COUNT,
        size_of::<event::DropKey>(),
        size_of::<event::Event>(),
        offset_of!(event::Event, record),
        offset_of!(event::Event, rule),
        size_of::<capture::CaptureFilter>(),
        offset_of!(capture::CaptureFilter, port),
        size_of::<capture::CaptureHeader>(),
        offset_of!(capture::CaptureHeader, reason),
        size_of::<guard::Guard>(),
        size_of::<guard::FloodKey>(),
        size_of::<nat::External>(),
        size_of::<nat::ForwardKey>(),
        offset_of!(nat::ForwardKey, port),
        size_of::<nat::Forward>(),
        offset_of!(nat::Forward, flags),
        size_of::<nat::StaticKey>(),
        size_of::<nat::Pool>(),
        size_of::<nat::PoolBlock>(),
        nat::CHOICES,
        nat::MAX_FORWARDS as usize,
        nat::RESERVED_WORDS as usize,
    ];
    // FNV-1a.
    let mut hash = 0x811c_9dc5_u32;
    let mut rest: &[usize] = &facts;
    while let [fact, tail @ ..] = rest {
        hash = (hash ^ *fact as u32).wrapping_mul(0x0100_0193);
        rest = tail;
    }
    hash
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        Config, Datagram, FlowKey, FlowRecord, FragmentKey, Interface, Mapping, Zone, capture,
        classifier, counter, event, guard, nat,
    };

    macro_rules! pod {
        ($($Type:ty),*) => { $(
            // SAFETY: `repr(C)`, integers only, and every byte belongs to a named field.
            unsafe impl aya::Pod for $Type {}
        )* };
    }
    pod!(
        FlowKey,
        FlowRecord,
        Mapping,
        FragmentKey,
        Datagram,
        Config,
        Interface,
        Zone,
        guard::Guard,
        guard::FloodKey,
        classifier::ClassKey,
        classifier::SourceKey,
        counter::Count,
        event::DropKey,
        event::Event,
        event::HitBudget,
        capture::CaptureFilter,
        capture::CaptureHeader,
        nat::ExternalKey,
        nat::External,
        nat::ForwardKey,
        nat::ForwardList,
        nat::Forward,
        nat::ForwardSourceKey,
        nat::StaticKey,
        nat::PoolKey,
        nat::Pool,
        nat::PoolBlockKey,
        nat::PoolBlock
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_sizes_that_the_design_counts_with() {
        assert_eq!(size_of::<FlowKey>(), 16);
        assert_eq!(size_of::<FlowKey6>(), 40);
        assert_eq!(size_of::<flow::Ends4>(), 40);
        assert_eq!(size_of::<FlowRecord>(), 160);
        assert_eq!(size_of::<Mapping>(), 32);
        assert_eq!(size_of::<event::Event>(), 64);
        assert_eq!(size_of::<capture::CaptureFilter>(), 56);
        assert_eq!(size_of::<capture::CaptureHeader>(), 32);
    }

    #[test]
    fn addresses_and_ports_stand_as_in_a_packet() {
        let address_in_packet = u32::from_ne_bytes([192, 168, 77, 1]);
        assert_eq!(from_address(Ipv4Addr::new(192, 168, 77, 1)), address_in_packet);
        assert_eq!(address(address_in_packet), Ipv4Addr::new(192, 168, 77, 1));
        assert_eq!(port(u16::from_ne_bytes([0, 53])), 53);
    }
}
