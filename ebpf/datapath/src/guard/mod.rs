//! What a first packet is asked before any policy: whether its source is one that nobody should talk
//! to, comes too often, or (under attack) exists at all. In that order, cheapest answer first.
//!
//! Packets of known flows are not asked, so that established traffic pays nothing for it; the
//! service ends the flows of an address that comes onto a blocklist.

mod gcra;
mod syn_cookie;

use portcullis_datapath_abi::{
    Counter,
    guard::{
        BLOCKED, BLOCKLIST, BOGON, EXEMPT, EXEMPTIONS, FLOOD_CLASSES, FloodClass, FloodKey, Guard,
        Limit, MALFORMED, VERIFIED_TICKS,
    },
};

use portcullis_flow_table::AtomicU64;

pub use gcra::conforms;
use gcra::take_back;
pub use syn_cookie::{Challenge, Connection, challenge, write_challenge};

/// Maps and helpers of the guard.
pub trait GuardTables {
    /// The settings.
    fn guard(&self) -> Option<&Guard>;
    /// Flags of the longest known prefix that has the address; 0 for none.
    fn prefix_flags(&self, address: &[u32; 4]) -> u32;
    /// Rate of a source, made if there is none; `None` if there is no room.
    fn source_rate(&self, key: &FloodKey) -> Option<&AtomicU64>;
    /// Rate of all sources together, by [`FloodClass`].
    fn total_rate(&self, class: FloodClass) -> Option<&AtomicU64>;
    /// Until when, in ticks, the address counts as one that receives what is sent to it.
    fn verified_until(&self, address: &[u32; 4]) -> Option<u32>;
    /// Notes such an address.
    fn verify(&self, address: &[u32; 4], until: u32);
    /// Time in nanoseconds.
    fn nanoseconds(&self) -> u64;
    /// The kernel's SYN cookie for a connection whose initial sequence number is 0.
    fn make_cookie(&self, connection: &Connection<'_>) -> Option<u32>;
    /// Whether a number is a cookie that [`Self::make_cookie`] gave in the last minutes.
    fn check_cookie(&self, connection: &Connection<'_>, cookie: u32) -> bool;
}

/// A first packet.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// Zone that it comes from.
    pub zone: u8,
    /// Source; IPv4 as ::ffff:a.b.c.d.
    pub source: &'a [u32; 4],
    /// Destination, likewise.
    pub destination: &'a [u32; 4],
    /// What it counts as; `None` for other protocols.
    pub class: Option<FloodClass>,
}

/// Answer of the guard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// On to the policy.
    Admitted,
    /// Dropped without an answer.
    Refused(Counter),
}

const ADMITTED: Admission = Admission::Admitted;

/// Decides about a first packet.
#[inline(always)]
pub fn admit<T: GuardTables>(tables: &T, visitor: &Visitor<'_>) -> Admission {
    let Some(guard) = tables.guard() else {
        return ADMITTED;
    };
    let zone = 1_u32 << (visitor.zone & 31);
    let bogons = guard.bogon_zones & zone != 0;
    let blocklist = guard.flags & BLOCKLIST != 0;
    let limited = guard.flood_zones & zone != 0;
    let mut flags = 0;
    if bogons || guard.flags & (BLOCKLIST | EXEMPTIONS) != 0 {
        flags = tables.prefix_flags(visitor.source);
        if flags & BLOCKED != 0 {
            return Admission::Refused(Counter::DropBlocked);
        }
        if bogons && flags & BOGON != 0 {
            return Admission::Refused(Counter::DropBogon);
        }
    }
    if guard.flags & MALFORMED != 0 && visitor.source == visitor.destination {
        return Admission::Refused(Counter::DropMalformed);
    }
    // From inside nobody is to reach them either.
    if blocklist && tables.prefix_flags(visitor.destination) & BLOCKED != 0 {
        return Admission::Refused(Counter::DropBlocked);
    }
    if !limited || flags & EXEMPT != 0 {
        return ADMITTED;
    }
    match visitor.class {
        Some(class) => rate(tables, guard, visitor.source, class),
        None => ADMITTED,
    }
}

#[inline(always)]
fn rate<T: GuardTables>(
    tables: &T,
    guard: &Guard,
    source: &[u32; 4],
    class: FloodClass,
) -> Admission {
    let index = class as usize % FLOOD_CLASSES;
    let (Some(per_source), Some(total)) = (guard.per_source.get(index), guard.total.get(index))
    else {
        return ADMITTED;
    };
    let now = tables.nanoseconds();
    // The source's own limit first: what one source has too much does not count against all.
    if *per_source != Limit::NONE
        && let Some(cell) =
            tables.source_rate(&FloodKey { source: network(source), class: class as u32 })
        && !conforms(cell, now, per_source)
    {
        return Admission::Refused(Counter::DropFloodSource);
    }
    if *total != Limit::NONE
        && let Some(cell) = tables.total_rate(class)
        && !conforms(cell, now, total)
    {
        return Admission::Refused(Counter::DropFloodTotal);
    }
    ADMITTED
}

/// Takes back that [`admit`] has counted a packet: another hook will ask about it again.
#[inline(always)]
pub fn uncount<T: GuardTables>(tables: &T, visitor: &Visitor<'_>) {
    let (Some(guard), Some(class)) = (tables.guard(), visitor.class) else {
        return;
    };
    if guard.flood_zones & 1 << (visitor.zone & 31) == 0
        || guard.flags & EXEMPTIONS != 0 && tables.prefix_flags(visitor.source) & EXEMPT != 0
    {
        return;
    }
    let index = class as usize % FLOOD_CLASSES;
    if let Some(limit) = guard.per_source.get(index)
        && *limit != Limit::NONE
        && let Some(cell) =
            tables.source_rate(&FloodKey { source: network(visitor.source), class: class as u32 })
    {
        take_back(cell, limit);
    }
    if let Some(limit) = guard.total.get(index)
        && *limit != Limit::NONE
        && let Some(cell) = tables.total_rate(class)
    {
        take_back(cell, limit);
    }
}

/// The whole IPv4 address, the /64 of an IPv6 one.
#[inline(always)]
const fn network(address: &[u32; 4]) -> [u32; 4] {
    let [a, b, c, d] = *address;
    if a == 0 && b == 0 && c == MAPPED { [a, b, c, d] } else { [a, b, 0, 0] }
}

/// Third word of an IPv4 address among IPv6 ones.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Whether a zone's sources must prove that they exist, so that a RST may be a proof.
#[inline(always)]
pub fn asks_proof<T: GuardTables>(tables: &T, zone: u8) -> bool {
    tables.guard().is_some_and(|guard| guard.cookie_zones & 1 << (zone & 31) != 0)
}

/// Whether the source of a SYN must prove first that it receives what is sent to it.
#[inline(always)]
pub fn must_prove<T: GuardTables>(
    tables: &T,
    zone: u8,
    source: &[u32; 4],
    now: impl FnOnce() -> u32,
) -> bool {
    if !asks_proof(tables, zone) {
        return false;
    }
    match tables.verified_until(source) {
        // Signed, because ticks wrap.
        Some(until) => until.wrapping_sub(now()) as i32 <= 0,
        None => true,
    }
}

/// Takes a RST as proof, if it answers a challenge of ours. Returns whether it does.
#[inline(always)]
pub fn prove<T: GuardTables>(
    tables: &T,
    zone: u8,
    connection: &Connection<'_>,
    sequence: u32,
    now: u32,
) -> bool {
    if !asks_proof(tables, zone) || !tables.check_cookie(connection, sequence) {
        return false;
    }
    tables.verify(connection.source, now.wrapping_add(VERIFIED_TICKS));
    true
}
