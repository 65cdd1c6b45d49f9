//! The compiled rules: what a first packet is classified with.
//!
//! Rules stand in order; each has a position. For every dimension of a packet ([`Dimension`]) its
//! value belongs to a class, and a class has a bit vector: which positions does this value fit? The
//! first position that is in the vectors of all dimensions and of the pair of zones decides.
//!
//! Vectors are cut into blocks of [`BLOCK_BITS`] positions. Only blocks that are not empty are
//! stored, and a summary of 64 bits says which these are, so that the summaries alone tell where
//! all dimensions may agree. Rules that do not ask for a dimension are in its vector "any"; a class
//! stores a block (with the bits of "any" in it) only where some rule asks for it.
//!
//! All of it stands in one array of lines of 32 bytes (`map::POLICY`), those of both banks by turns
//! ([`slot`]), and refers to lines by their number within the bank:
//!
//! | line | words |
//! |---|---|
//! | [`HEADER`] | 0; zones, line of the first rule (halves); nodes of [`Dimension::Service`], [`Dimension::SourcePort`] (halves); 0, number of rules (halves). Also the class of no bits |
//! | [`any`] | a class |
//! | a class | summary; first block |
//! | a block | 256 bits |
//! | [`pair`] | decision; summary; first block, dimensions asked for (halves); 0 |
//! | a rule | decision; interval in ns, hash of its name (halves); tolerance in ns; state of its rate |
//! | nodes | eight nodes, two a word |
//!
//! "Halves" are the lower and the upper 32 bits. A decision is a [`decision`].

use core::sync::atomic::Ordering;

use portcullis_flow_table::AtomicU64;

use crate::policy::MAX_ZONES;

/// One line of the policy.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct Line(pub [AtomicU64; 4]);

impl Line {
    /// A word; the number counts modulo 4.
    #[inline(always)]
    pub fn word(&self, number: usize) -> u64 {
        let [a, b, c, d] = &self.0;
        match number & 3 {
            0 => a.load(Ordering::Relaxed),
            1 => b.load(Ordering::Relaxed),
            2 => c.load(Ordering::Relaxed),
            _ => d.load(Ordering::Relaxed),
        }
    }

    /// The lower half of a word.
    #[inline(always)]
    pub fn low(&self, number: usize) -> u32 {
        self.word(number) as u32
    }

    /// The upper half of a word.
    #[inline(always)]
    pub fn high(&self, number: usize) -> u32 {
        (self.word(number) >> 32) as u32
    }

    /// Of a rule: the state of its rate.
    #[inline(always)]
    pub fn rate(&self) -> &AtomicU64 {
        let [_, _, _, state] = &self.0;
        state
    }
}

/// Lines of a bank at first, 512 KiB. A larger policy has the array made anew.
pub const LINES: u32 = 1 << 14;

/// Where a line stands in the array. By turns, so that programs need not know how long that is.
#[inline(always)]
pub const fn slot(bank: u32, number: u32) -> u32 {
    number << 1 | (bank & 1)
}

/// Positions of a block.
pub const BLOCK_BITS: u32 = 256;
/// Blocks at most, since a summary has 64 bits.
pub const BLOCKS: u32 = 64;

/// Number of the header's line.
pub const HEADER: u32 = 0;

/// What rules ask of a packet.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum Dimension {
    /// Protocol and destination port, or ICMP type and code.
    Service = 0,
    /// Source address.
    Source = 1,
    /// Destination address.
    Destination = 2,
    /// Source port.
    SourcePort = 3,
    /// Hardware address of the sender.
    Mac = 4,
}

impl Dimension {
    /// All, in the order of their number.
    pub const ALL: [Self; 5] =
        [Self::Service, Self::Source, Self::Destination, Self::SourcePort, Self::Mac];

    /// Its bit in the dimensions that a pair's rules ask for.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Line of the class "any" of a dimension: the rules that do not ask for it.
pub const fn any(dimension: Dimension) -> u32 {
    1 + dimension as u32
}

/// Line of the first pair of zones.
const PAIRS: u32 = 1 + Dimension::ALL.len() as u32;

/// Line of a pair, of `zones` zones (one more than the highest id); the header's if an id is too
/// high.
#[inline(always)]
pub const fn pair(zones: u32, from: u8, to: u8) -> u32 {
    if from as u32 >= zones || to as u32 >= zones || zones > MAX_ZONES {
        HEADER
    } else {
        PAIRS + from as u32 * zones + to as u32
    }
}

/// Number of the first line behind the pairs.
pub const fn after_pairs(zones: u32) -> u32 {
    PAIRS + zones * zones
}

/// A node of the tables of ports with this bit is the first of [`NODE_LINES`] lines with 256 nodes,
/// one for each value of the next byte; without it, it is the line of a class.
pub const NODE: u32 = 1 << 31;
/// Lines of 256 nodes.
pub const NODE_LINES: u32 = 32;

/// Who decides and how: number of the rule, action, flags, and flows that one source may have at the
/// same time (0 for any number).
pub const fn decision(rule: u16, action: u8, flags: u8, connections: u32) -> u64 {
    rule as u64 | (action as u64) << 16 | (flags as u64) << 24 | (connections as u64) << 32
}

/// The flow is logged.
pub const LOG: u8 = 1;
/// Anybody may send to the external end of the flow's mapping.
pub const FULL_CONE: u8 = 2;
/// The flow counts for its source ([`crate::flow::LIMITED`]).
pub const LIMITED: u8 = 4;
/// The rule has a rate.
pub const RATED: u8 = 8;
/// The rule has a rate for each source.
pub const SOURCE_RATED: u8 = 16;
/// In a ruling: refused because there are too many flows a second.
pub const OVER_RATE: u8 = 32;
/// In a ruling: refused because its source has too many flows.
pub const OVER_CONNECTIONS: u8 = 64;

/// Key of the tries of addresses (`map::CLASSES`), whose values are lines of classes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClassKey {
    /// See [`class_space`].
    pub space: u32,
    /// Address as it stands in the packet; an IPv4 or hardware address in front and zeros behind it.
    pub address: [u32; 4],
}

impl ClassKey {
    /// Of an IP address in a bank; IPv4 as ::ffff:a.b.c.d. IPv4 has a space of its own, in which the
    /// address is in front: the trie compares eight bytes at a time, and so needs one comparison at each of
    /// its nodes.
    #[inline(always)]
    pub const fn of(bank: u32, dimension: Dimension, address: [u32; 4]) -> Self {
        let space = class_space(bank, dimension);
        match address {
            [0, 0, MAPPED, address] => Self { space: space | IPV4, address: [address, 0, 0, 0] },
            address => Self { space, address },
        }
    }

    /// Bits of an address that [`Self::of`] leaves out in front.
    #[inline(always)]
    pub const fn bits_left_out(&self) -> u32 {
        if self.space & IPV4 != 0 { 96 } else { 0 }
    }
}

/// In [`ClassKey::space`]: an IPv4 address.
const IPV4: u32 = 1 << 7;
/// Third word of an IPv4 address among IPv6 ones.
const MAPPED: u32 = 0xffff_u32.to_be();

/// Bits of a [`ClassKey`] in front of the address.
pub const SPACE_BITS: u32 = 32;

/// Keeps banks and dimensions apart.
#[inline(always)]
pub const fn class_space(bank: u32, dimension: Dimension) -> u32 {
    bank << 8 | dimension as u32
}

/// The bank of a [`ClassKey::space`].
pub const fn space_bank(space: u32) -> u32 {
    space >> 8
}

/// Entries of the tries at most; they take memory as they are made.
pub const MAX_CLASSES: u32 = 1 << 20;

/// A source under a rule: key of `map::SOURCE_RATES` and `map::CONNECTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceKey {
    /// Number of the rule.
    pub rule: u32,
    /// Source address, as in [`ClassKey::address`].
    pub source: [u32; 4],
}

/// Sources whose rates are known; the one not seen for longest makes room.
pub const RATED_SOURCES: u32 = 4096;
/// Sources with counted flows; they take memory as they are made.
pub const COUNTED_SOURCES: u32 = 65_536;
