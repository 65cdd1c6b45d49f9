//! What the core needs of its surroundings: the settings, the routing table, time and chance. Maps of
//! one concern are in the trait of that concern.

use portcullis_datapath_abi::{Config, Interface, Zone};

use crate::{
    answer::AnswerTables,
    classify::PolicyTables,
    flow::{FlowTables, NextHop},
    fragments::FragmentTables,
    guard::GuardTables,
    nat::NatTables,
    open::CandidateTables,
    telemetry::TelemetryTables,
};

/// What to look a route up for; the packet as it arrived, with the destination after translation.
/// IPv4 addresses stand as ::ffff:a.b.c.d.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    /// Interface that the packet came in by.
    pub interface: u32,
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// IP protocol.
    pub protocol: u8,
    /// Type of service; 0 for IPv6.
    pub tos: u8,
    /// Family.
    pub ipv6: bool,
}

/// A way out.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Device to leave by.
    pub egress: u32,
    /// MTU of that device in bytes.
    pub mtu: u16,
    /// Whether the neighbour is known.
    pub resolved: bool,
    /// If so, Ethernet destination and source.
    pub macs: [u32; 3],
    /// Next hop: a gateway or the destination itself.
    pub next_hop: [u32; 4],
}

impl Route {
    /// What a flow keeps of it, if its neighbour is known.
    #[inline(always)]
    pub(crate) fn hop(&self, egress: &Interface) -> NextHop {
        NextHop { egress: self.egress, mtu: self.mtu, macs: self.macs, link: egress.flags }
    }
}

/// Settings, routes, clock and chance, and all maps.
pub trait Tables:
    FlowTables
    + CandidateTables
    + NatTables
    + PolicyTables
    + FragmentTables
    + AnswerTables
    + GuardTables
    + TelemetryTables
{
    /// The same packet again, by way of memory. For the kernel's verifier, which would follow every
    /// way through a parser to the end of the program: behind this it cannot tell them apart.
    #[inline(always)]
    fn settled<'p, P: Copy>(&'p self, packet: &'p P) -> &'p P {
        packet
    }
    /// The settings; `None` only if the map is not there.
    fn config(&self) -> Option<&Config>;
    /// An interface by its kernel index.
    fn interface(&self, index: u32) -> Option<&Interface>;
    /// A zone by its id.
    fn zone(&self, id: u8) -> Option<&Zone>;
    /// Whether an IPv4 address is the router's own.
    fn is_local(&self, address: u32) -> bool;
    /// Whether an IPv4 address is all hosts of a subnet that the router is in; [`Self::is_local`] says so of
    /// these too.
    fn is_broadcast(&self, address: u32) -> bool;
    /// Whether an IPv6 address is the router's own.
    fn is_local6(&self, address: &[u32; 4]) -> bool;
    /// Looks a route up. `None`: there is none, or the destination is not to be forwarded to.
    fn route(&self, query: &RouteQuery) -> Option<Route>;
    /// MTU of an interface in bytes; 0 if it is not there.
    fn device_mtu(&self, interface: u32) -> u16;
    /// Coarse time in ticks.
    fn now(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;
}

/// An IPv4 address among IPv6 ones (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), address]
}
