//! Protection against floods and unwanted sources: what first packets are asked before any policy.
//! Packets of known flows are not asked.

/// What protects the router. One entry.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Guard {
    /// For one source, by [`FloodClass`].
    pub per_source: [Limit; FLOOD_CLASSES],
    /// For all sources together, by [`FloodClass`].
    pub total: [Limit; FLOOD_CLASSES],
    /// Zones (a bit for each id) whose first packets count towards the limits.
    pub flood_zones: u32,
    /// Zones in which [`BOGON`] sources are refused.
    pub bogon_zones: u32,
    /// Zones whose sources must prove that they receive what is sent to them before a connection of
    /// theirs takes a place in the flow table. The service sets and clears it, by how full that is.
    pub cookie_zones: u32,
    /// [`BLOCKLIST`] and so on.
    pub flags: u32,
}

/// In [`Guard::flags`]: there are [`BLOCKED`] prefixes.
pub const BLOCKLIST: u32 = 1;
/// In [`Guard::flags`]: there are [`EXEMPT`] prefixes.
pub const EXEMPTIONS: u32 = 2;
/// In [`Guard::flags`]: packets from an address to itself are refused.
pub const MALFORMED: u32 = 4;

/// A rate as the generic cell rate algorithm (ITU-T I.371) counts it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limit {
    /// Nanoseconds for one packet; 0: no limit.
    pub interval_ns: u64,
    /// How far ahead of time packets may come, in nanoseconds: burst times interval.
    pub tolerance_ns: u64,
}

impl Limit {
    /// No limit.
    pub const NONE: Self = Self { interval_ns: 0, tolerance_ns: 0 };

    /// `per_second` packets, and up to `burst` at once. None if `per_second` is 0.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        if per_second == 0 {
            return Self::NONE;
        }
        let interval_ns = 1_000_000_000 / per_second as u64;
        Self { interval_ns, tolerance_ns: interval_ns * burst as u64 }
    }
}

/// Kinds of first packets that are limited apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum FloodClass {
    /// TCP SYN.
    Syn = 0,
    /// UDP.
    Udp = 1,
    /// ICMP and ICMPv6.
    Icmp = 2,
}

/// How many there are.
pub const FLOOD_CLASSES: usize = 3;

/// A source in the table of rates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FloodKey {
    /// Address; IPv4 as ::ffff:a.b.c.d, IPv6 cut to its /64 (a host has all of it).
    pub source: [u32; 4],
    /// A [`FloodClass`].
    pub class: u32,
}

/// Flag of a prefix: on a blocklist.
pub const BLOCKED: u32 = 1;
/// Flag of a prefix: not for use on the internet (RFC 6890, RFC 5735).
pub const BOGON: u32 = 2;
/// Flag of a prefix: its rates are not limited.
pub const EXEMPT: u32 = 4;

/// Sources whose rate is known at the same time.
pub const FLOOD_SOURCES: u32 = 16_384;
/// Sources that have proven to receive, at the same time.
pub const VERIFIED_SOURCES: u32 = 16_384;
/// How long a proof holds, in ticks.
pub const VERIFIED_TICKS: u32 = 300;
/// Prefixes with flags, at most.
pub const MAX_PREFIXES: u32 = 524_288;

/// Length of the prefix under which an IPv4 address stands in a table of 128-bit addresses.
pub const MAPPED_LENGTH: u32 = 96;
