//! What user space compiles port forwards, 1:1 addresses, pools and reserved ports into, and the
//! counting of mappings. IPv4 only: IPv6 is not translated.
//!
//! Every table has two banks; [`bank()`] says which one is in force, and the service writes the
//! other.

use core::sync::atomic::Ordering;

use portcullis_flow_table::AtomicU32;

use crate::flow::MAPPING_CLOSED;

/// Names of the maps, as in the object file.
pub mod map {
    /// [`super::External`] by [`super::ExternalKey`], LPM trie.
    pub const ADDRESSES: &str = "NAT_ADDRESSES";
    /// [`super::ForwardList`] by [`super::ForwardKey`], LPM trie.
    pub const FORWARD_PORTS: &str = "NAT_PORTS";
    /// [`super::Forward`] by [`super::forward_index`], array.
    pub const FORWARDS: &str = "NAT_FORWARDS";
    /// 1 by [`super::ForwardSourceKey`], LPM trie.
    pub const FORWARD_SOURCES: &str = "NAT_SOURCES";
    /// The other address by [`super::StaticKey`], LPM trie.
    pub const STATIC: &str = "NAT_STATIC";
    /// [`super::Pool`] by [`super::PoolKey`], LPM trie.
    pub const POOLS: &str = "NAT_POOLS";
    /// [`super::PoolBlock`] by [`super::PoolBlockKey`], LPM trie.
    pub const POOL_BLOCKS: &str = "NAT_POOL_BLOCKS";
    /// Bits of ports by [`super::reserved_index`], array of u64.
    pub const RESERVED: &str = "NAT_RESERVED";
}

/// The bank of these tables that is in force, by [`crate::Config::bank`]: rules and translations
/// change independently, each has a bit there.
#[inline(always)]
pub const fn bank(config_bank: u32) -> u32 {
    config_bank >> 1 & 1
}

/// [`crate::Config::bank`] with another bank of these tables in force.
pub const fn with_bank(config_bank: u32, bank: u32) -> u32 {
    config_bank & !2 | (bank & 1) << 1
}

// Tries take memory for what is in them only, so their limits, of both banks, are generous.

/// Prefixes of external addresses.
pub const MAX_EXTERNALS: u32 = 1 << 17;
/// Port forwards in each bank; one with several ranges of ports takes a place for each.
pub const MAX_FORWARDS: u32 = 4096;
/// Prefixes of ports.
pub const MAX_FORWARD_PORTS: u32 = 1 << 18;
/// Prefixes of sources of port forwards.
pub const MAX_FORWARD_SOURCES: u32 = 1 << 18;
/// Entries of 1:1 addresses, two for each pair.
pub const MAX_STATIC: u32 = 1 << 15;
/// Prefixes of sources with a pool.
pub const MAX_POOLS: u32 = 1 << 18;
/// Blocks of addresses of pools.
pub const MAX_POOL_BLOCKS: u32 = 1 << 18;
/// Port forwards that may be in question for one external port.
pub const CHOICES: usize = 4;
/// Words of bits in each bank: 64 ports each, of TCP, then of UDP.
pub const RESERVED_WORDS: u32 = 2 * 1024;

/// An address by which hosts inside are known outside; the last bits may be left open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ExternalKey {
    /// Bank.
    pub bank: u32,
    /// The address.
    pub address: u32,
}

impl ExternalKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 32;
    /// Bits of a whole key.
    pub const BITS: u32 = Self::FIXED_BITS + 32;
}

/// What an external address is for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct External {
    /// Address that hosts inside appear with when they reach others by this one (hairpin): the
    /// primary one of its interface. 0 if the zone has none.
    pub masquerade: u32,
    /// Zone in which it is used.
    pub zone: u8,
    /// [`HAS_FORWARDS`], [`HAS_STATIC`], [`OF_INTERFACE`].
    pub flags: u8,
    /// Lower half of the zone's flags ([`crate::Zone::flags`]).
    pub zone_flags: u16,
}

/// Some ports of the address are forwarded.
pub const HAS_FORWARDS: u8 = 1;
/// The address stands for a host (1:1).
pub const HAS_STATIC: u8 = 2;
/// The address is one of an interface.
pub const OF_INTERFACE: u8 = 4;

/// An external port; the last bits, of the port, may be left open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ForwardKey {
    /// Bank.
    pub bank: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: u16,
    /// External address.
    pub address: u32,
    /// External port.
    pub port: u16,
    /// Zero, not looked at.
    pub tail: u16,
}

impl ForwardKey {
    /// Bits before the port.
    pub const FIXED_BITS: u32 = 64;
    /// Bits of a whole key.
    pub const BITS: u32 = Self::FIXED_BITS + 16;
}

/// Numbers of the port forwards for an external port, the first that fits decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForwardList(pub [u16; CHOICES]);

/// No further port forward.
pub const NO_FORWARD: u16 = u16::MAX;

/// A port forward, for one range of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forward {
    /// The host inside.
    pub to: u32,
    /// First external port, in host byte order.
    pub first_port: u16,
    /// Port of the host that it leads to, in host byte order.
    pub to_port: u16,
    /// Zone from which its flows come.
    pub zone: u8,
    /// [`HAIRPIN`], [`FROM_SOURCES`], [`LOG`].
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
}

/// Hosts of other zones reach the host by the external address, too.
pub const HAIRPIN: u8 = 1;
/// Only for the sources in [`map::FORWARD_SOURCES`].
pub const FROM_SOURCES: u8 = 2;
/// Its flows are logged.
pub const LOG: u8 = 4;

/// Place of a port forward in its array.
pub const fn forward_index(bank: u32, number: u16) -> u32 {
    (bank & 1) * MAX_FORWARDS + number as u32 % MAX_FORWARDS
}

/// A source of a port forward; the last bits, of the address, may be left open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ForwardSourceKey {
    /// Bank.
    pub bank: u8,
    /// Zero.
    pub reserved: u8,
    /// Number of the port forward.
    pub number: u16,
    /// Source address.
    pub source: u32,
}

impl ForwardSourceKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 32;
    /// Bits of a whole key.
    pub const BITS: u32 = Self::FIXED_BITS + 32;
}

/// One of the two addresses of a 1:1 translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StaticKey {
    /// The address.
    pub address: u32,
    /// Bank.
    pub bank: u8,
    /// Zone in which the external address is used.
    pub zone: u8,
    /// [`INWARD`] or [`OUTWARD`].
    pub direction: u8,
    /// Zero.
    pub reserved: u8,
}

impl StaticKey {
    /// Bits of a whole key.
    pub const BITS: u32 = 64;
}

/// The address is the external one, the value the internal one.
pub const INWARD: u8 = 0;
/// The address is the internal one, the value the external one.
pub const OUTWARD: u8 = 1;

/// A source that takes addresses of a pool; the last bits, of the address, may be left open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PoolKey {
    /// Bank.
    pub bank: u8,
    /// Zone that the flows leave by.
    pub zone: u8,
    /// Zero.
    pub reserved: u16,
    /// Source address.
    pub source: u32,
}

impl PoolKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 32;
    /// Bits of a whole key.
    pub const BITS: u32 = Self::FIXED_BITS + 32;
}

/// Addresses that flows take when they leave.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pool {
    /// Index of the first.
    pub first: u32,
    /// How many follow from there; 0 leaves the source as it is.
    pub count: u32,
}

/// Index of an address of a pool; the last bits, of the index, may be left open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PoolBlockKey {
    /// Bank.
    pub bank: u32,
    /// Index, see [`Pool`], in network byte order.
    pub index: u32,
}

impl PoolBlockKey {
    /// Bits before the index.
    pub const FIXED_BITS: u32 = 32;
    /// Bits of a whole key.
    pub const BITS: u32 = Self::FIXED_BITS + 32;
}

/// Addresses of a pool in a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PoolBlock {
    /// Index of the first, in host byte order.
    pub index: u32,
    /// The first address, as a number in host byte order.
    pub address: u32,
}

/// Place of a port's word among the reserved ports; the bit is `port % 64`. `port` in host byte
/// order.
pub const fn reserved_index(bank: u32, udp: bool, port: u16) -> u32 {
    (bank & 1) * RESERVED_WORDS + (udp as u32) * (RESERVED_WORDS / 2) + port as u32 / 64
}

/// Setting of a zone for the MSS: none of its own, but what the MTUs allow.
pub const MSS_BY_MTU: u16 = u16::MAX;

/// Largest MSS for connections through a zone, from its flags ([`crate::Zone::flags`]): 0 to leave
/// it, [`MSS_BY_MTU`], or bytes.
pub const fn mss(zone_flags: u32) -> u16 {
    (zone_flags >> 16) as u16
}

/// The bits of [`crate::Zone::flags`] that [`mss`] reads.
pub const fn mss_flags(mss: u16) -> u32 {
    (mss as u32) << 16
}

/// The flows that use a mapping, counted ([`crate::Mapping::references`]). The datapath adds and,
/// when a flow could not be made after all, takes away; the service takes away for flows that have
/// ended. Only the service closes.
#[derive(Clone, Copy, Debug)]
pub struct References<'a>(pub &'a AtomicU32);

impl References<'_> {
    /// One flow more; false if the mapping is going away.
    #[inline(always)]
    pub fn acquire(self) -> bool {
        if self.0.fetch_add(1, Ordering::SeqCst) & MAPPING_CLOSED == 0 {
            return true;
        }
        self.0.fetch_sub(1, Ordering::SeqCst);
        false
    }

    /// One flow less.
    #[inline(always)]
    pub fn release(self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// Flows now.
    #[inline(always)]
    pub fn count(self) -> u32 {
        self.0.load(Ordering::Relaxed) & !MAPPING_CLOSED
    }

    /// Lets no flow use it any more, if none does; false if one does. Who gets true takes the
    /// mapping out of the index.
    #[inline(always)]
    pub fn close(self) -> bool {
        self.0.compare_exchange(0, MAPPING_CLOSED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_mapping_takes_no_flow_and_a_used_one_is_not_closed() {
        let word = AtomicU32::new(0);
        let references = References(&word);
        assert!(references.acquire());
        assert!(!references.close());
        references.release();
        assert!(references.close());
        assert!(!references.acquire());
        assert_eq!(references.count(), 0);
        assert!(!references.close(), "closed once");
    }

    #[test]
    fn keys_have_no_hidden_padding_and_prefixes_count_all_their_bits() {
        assert_eq!(size_of::<ForwardKey>(), 12);
        assert_eq!(ForwardKey::BITS as usize, core::mem::offset_of!(ForwardKey, tail) * 8);
        assert_eq!(ForwardSourceKey::BITS as usize, size_of::<ForwardSourceKey>() * 8);
        assert_eq!(PoolKey::BITS as usize, size_of::<PoolKey>() * 8);
        assert_eq!(StaticKey::BITS as usize, size_of::<StaticKey>() * 8);
        assert_eq!(ExternalKey::BITS as usize, size_of::<ExternalKey>() * 8);
        assert_eq!(PoolBlockKey::BITS as usize, size_of::<PoolBlockKey>() * 8);
        assert_eq!(size_of::<External>(), 8);
        assert_eq!(size_of::<Forward>(), 12);
    }

    #[test]
    fn places_of_banks_and_protocols_do_not_overlap() {
        assert_eq!(reserved_index(0, false, u16::MAX) + 1, reserved_index(0, true, 0));
        assert_eq!(reserved_index(0, true, u16::MAX) + 1, reserved_index(1, false, 0));
        assert_eq!(reserved_index(1, true, u16::MAX) + 1, 2 * RESERVED_WORDS);
        assert_eq!(forward_index(0, 4095) + 1, forward_index(1, 0));
    }
}
