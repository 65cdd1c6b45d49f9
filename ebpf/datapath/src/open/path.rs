//! Ways through the router that were found before: a host opens many flows to the same server, and
//! what only its addresses decide about need not be looked up for each.
//!
//! A path answers exactly the question that the routing table was asked (interface, addresses, type
//! of service, protocol), so rules of policy routing and equal ways decide as they would again. It is
//! of one generation, like the next hops of flows: whatever changes a route, a neighbour, an address,
//! a zone or the translations raises that
//! ([`portcullis_datapath_abi::Config::generation`]).

use core::cell::Cell;

use super::candidate::{Candidate, RESOLVED};
use crate::{Arrival, NextHop, Packet, nat::Exit};

/// Paths that a CPU keeps, a power of two. One takes the place of another.
pub const PATHS: u32 = 256;

/// A path of IPv4 packets through the router, whose ends are neither its own addresses nor external
/// ones of hosts inside, by a next hop that is resolved.
#[derive(Debug, Default)]
pub struct Path {
    addresses: Cell<u64>,
    circumstances: Cell<u64>,
    generation: Cell<u32>,
    egress: Cell<u32>,
    // The hop and the exit field by field: from one cell to another the compiler moves a structure byte by
    // byte, lest they overlap.
    macs: [Cell<u32>; 3],
    mtu: Cell<u16>,
    link: Cell<u8>,
    zone: Cell<u8>,
    address: Cell<u32>,
    flags: Cell<u32>,
}

/// What a path depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PathKey {
    addresses: u64,
    circumstances: u64,
    /// Read before anything is looked up, so that a path that is outdated meanwhile is not kept.
    generation: u32,
}

impl PathKey {
    #[inline(always)]
    pub(crate) fn of(packet: &Packet, arrival: &Arrival, generation: u32) -> Self {
        let kind = u32::from(packet.protocol) | u32::from(packet.tos) << 8;
        Self {
            addresses: u64::from(packet.source) | u64::from(packet.destination) << 32,
            circumstances: u64::from(arrival.interface) | u64::from(kind) << 32,
            generation,
        }
    }

    /// Its place among [`PATHS`].
    #[inline(always)]
    pub(crate) const fn slot(&self) -> u32 {
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        ((self.addresses ^ self.circumstances).wrapping_mul(SPREAD) >> 32) as u32 & (PATHS - 1)
    }
}

impl Path {
    /// Puts what is known down in the candidate. False if this is another path, or outdated.
    #[inline(always)]
    pub(crate) fn take(&self, key: &PathKey, candidate: &Candidate) -> bool {
        // A place that was never used is of no interface.
        if self.generation.get() != key.generation
            || self.addresses.get() != key.addresses
            || self.circumstances.get() != key.circumstances
        {
            return false;
        }
        let (zone, [a, b, c]) = (self.zone.get(), &self.macs);
        candidate.to.set(zone);
        candidate.exit.set(Exit { address: self.address.get(), flags: self.flags.get(), zone });
        candidate.hop.set(NextHop {
            egress: self.egress.get(),
            mtu: self.mtu.get(),
            macs: [a.get(), b.get(), c.get()],
            link: self.link.get(),
        });
        candidate.facts.set(RESOLVED);
        true
    }

    /// Keeps what was found for the candidate.
    #[inline(always)]
    pub(crate) fn keep(&self, key: &PathKey, candidate: &Candidate) {
        self.addresses.set(key.addresses);
        self.circumstances.set(key.circumstances);
        self.generation.set(key.generation);
        let NextHop { egress, mtu, macs, link } = candidate.hop.get();
        let Exit { address, flags, zone } = candidate.exit.get();
        self.egress.set(egress);
        for (cell, word) in self.macs.iter().zip(macs) {
            cell.set(word);
        }
        self.mtu.set(mtu);
        self.link.set(link);
        self.zone.set(zone);
        self.address.set(address);
        self.flags.set(flags);
    }
}
