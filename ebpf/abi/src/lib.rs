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

pub mod counter;
pub mod flow;
pub mod policy;

use core::net::Ipv4Addr;

pub use counter::Counter;
pub use flow::{FlowEntry, FlowKey, FragmentKey, FragmentPorts};
pub use policy::{Config, Interface, Zone};

/// Meaning of the maps; to be raised when values mean something else at the same offsets.
pub const VERSION: u32 = 1;

/// Length of one unit of coarse time: 2^30 nanoseconds of `CLOCK_MONOTONIC`, 1.07 s. A shift
/// instead of a division in the packet path.
pub const TICK_SHIFT: u32 = 30;

/// Mark on packets that the datapath forwards; what the kernel forwards without it is refused at
/// the egress hook, so that nothing passes around the policy.
pub const FORWARD_MARK: u32 = 0x7063_6677;

/// Names of the maps, as in the object file.
pub mod map {
    /// Flows: [`crate::FlowKey`] to [`crate::FlowEntry`], hash.
    pub const FLOWS: &str = "FLOWS";
    /// Ports of datagrams whose first fragment was seen, LRU hash.
    pub const FRAGMENTS: &str = "FRAGMENTS";
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
    /// [`crate::counter::Count`] by [`crate::Counter`], per-CPU array.
    pub const COUNTERS: &str = "COUNTERS";
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
    let facts = [
        VERSION as usize,
        size_of::<FlowKey>(),
        offset_of!(FlowKey, destination),
        offset_of!(FlowKey, source_port),
        offset_of!(FlowKey, protocol),
        offset_of!(FlowKey, zone),
        size_of::<FlowEntry>(),
        offset_of!(FlowEntry, source),
        offset_of!(FlowEntry, source_port),
        offset_of!(FlowEntry, address_delta),
        offset_of!(FlowEntry, egress),
        offset_of!(FlowEntry, last_seen),
        offset_of!(FlowEntry, macs),
        offset_of!(FlowEntry, flags),
        offset_of!(FlowEntry, peer_zone),
        size_of::<FragmentKey>(),
        size_of::<FragmentPorts>(),
        size_of::<Config>(),
        size_of::<Interface>(),
        offset_of!(Interface, nat_address),
        size_of::<Zone>(),
        policy::INTERFACE_SLOTS as usize,
        policy::MAX_ZONES as usize,
        counter::COUNT,
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
    use super::{Config, FlowEntry, FlowKey, FragmentKey, FragmentPorts, Interface, Zone, counter};

    macro_rules! pod {
        ($($Type:ty),*) => { $(
            // SAFETY: `repr(C)`, integers only, and every byte belongs to a named field.
            unsafe impl aya::Pod for $Type {}
        )* };
    }
    pod!(FlowKey, FlowEntry, FragmentKey, FragmentPorts, Config, Interface, Zone, counter::Count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_sizes_that_the_design_counts_with() {
        assert_eq!(size_of::<FlowKey>(), 16);
        assert_eq!(size_of::<FlowEntry>(), 64, "one cache line");
    }

    #[test]
    fn addresses_and_ports_stand_as_in_a_packet() {
        let address_in_packet = u32::from_ne_bytes([192, 168, 77, 1]);
        assert_eq!(from_address(Ipv4Addr::new(192, 168, 77, 1)), address_in_packet);
        assert_eq!(address(address_in_packet), Ipv4Addr::new(192, 168, 77, 1));
        assert_eq!(port(u16::from_ne_bytes([0, 53])), 53);
    }
}
