//! What the stages of a first packet hand on to each other.

use core::cell::Cell;

use portcullis_datapath_abi::{
    Config, FlowKey, FlowKey6,
    flow::{ICMP, ICMPV6, TCP, UDP},
    guard::FloodClass,
    policy::{EVENTS, NO_RULE},
};

use super::path::Path;
use crate::{
    FlowTables, NextHop, Tables, Verdict,
    classify::{Action, Question, Ruling},
    guard::{Visitor, uncount},
    nat::Exit,
    telemetry::flow_started,
};

/// Where the candidate of this CPU is. A packet's stages follow each other on one CPU, and no other
/// packet comes between them.
pub trait CandidateTables: FlowTables {
    /// The candidate.
    fn candidate(&self) -> Option<&Candidate>;
    /// A place for a path, of this CPU too; `None` if `slot` is not below [`super::path::PATHS`].
    fn path(&self, slot: u32) -> Option<&Path>;
}

/// A flow that may come to be.
#[derive(Debug, Default)]
pub struct Candidate {
    /// Source, IPv4 as ::ffff:a.b.c.d.
    pub source: Cell<[u32; 4]>,
    /// Destination that the packet is really for, likewise.
    pub destination: Cell<[u32; 4]>,
    /// IPv4: packets of the initiator, as they arrive. IPv6: ports and zone of these.
    pub key: Cell<FlowKey>,
    /// IPv4: where its source comes from on the way out.
    pub exit: Cell<Exit>,
    /// The way out, if `RESOLVED`.
    pub hop: Cell<NextHop>,
    /// Length of the largest packet that leaves, in bytes.
    pub length: Cell<u32>,
    /// Of a `PLAIN` packet: segments that were aggregated into it.
    pub segments: Cell<u32>,
    /// Of a `PLAIN` packet: bytes from the IP header on.
    pub bytes: Cell<u32>,
    /// Ports as the policy is asked about them: of ICMP, type and code in the place of the second.
    pub asked: Cell<[u16; 2]>,
    /// Port of the destination that the packet is really for.
    pub port: Cell<u16>,
    /// Rule that decided.
    pub rule: Cell<u16>,
    /// Link-layer source.
    pub mac: Cell<[u8; 6]>,
    /// Zone that it goes to.
    pub to: Cell<u8>,
    /// TTL or hop limit.
    pub ttl: Cell<u8>,
    /// `IPV6` and so on.
    pub facts: Cell<u8>,
    /// Flags of the record.
    pub flags: Cell<u8>,
    /// [`crate::nat::Inside`]'s flags.
    pub inside: Cell<u8>,
    /// Flags of the ruling.
    pub ruling: Cell<u8>,
}

/// In [`Candidate::facts`]: family.
pub(crate) const IPV6: u8 = 1;
/// In [`Candidate::facts`]: the neighbour of the next hop is known.
pub(crate) const RESOLVED: u8 = 2;
/// In [`Candidate::facts`]: for a service of the router that its zone may reach unless a rule says
/// otherwise.
pub(crate) const SERVICE: u8 = 4;
/// In [`Candidate::facts`]: a whole UDP datagram over IPv4, to be sent on by the resolved next hop as soon
/// as it has its flow.
pub(crate) const PLAIN: u8 = 8;

impl Candidate {
    /// Zone that it comes from.
    #[inline(always)]
    pub(crate) fn from(&self) -> u8 {
        self.key.get().zone
    }

    /// Packets of the initiator of an IPv6 flow.
    #[inline(always)]
    pub(crate) fn key6(&self) -> FlowKey6 {
        let FlowKey { source_port, destination_port, protocol, zone, .. } = self.key.get();
        FlowKey6 {
            source: self.source.get(),
            destination: self.destination.get(),
            source_port,
            destination_port,
            protocol,
            zone,
            peer_zone: self.to.get(),
            reserved: 0,
        }
    }

    /// The question to the policy; the addresses are copies of this candidate's.
    #[inline(always)]
    pub(crate) fn question<'q>(
        &self,
        source: &'q [u32; 4],
        destination: &'q [u32; 4],
    ) -> Question<'q> {
        let [source_port, destination_port] = self.asked.get();
        let FlowKey { protocol, zone, .. } = self.key.get();
        Question {
            from: zone,
            to: self.to.get(),
            source,
            destination,
            protocol,
            source_port,
            destination_port,
            mac: self.mac.get(),
        }
    }

    /// From XDP to tcx, which asks about it as if nobody had: it counts there.
    #[inline(always)]
    pub(crate) fn leave<'a, T: Tables>(&self, tables: &T) -> Verdict<'a> {
        let (source, destination) = (self.source.get(), self.destination.get());
        let class = match self.key.get().protocol {
            TCP => Some(FloodClass::Syn),
            UDP => Some(FloodClass::Udp),
            ICMP | ICMPV6 => Some(FloodClass::Icmp),
            _ => None,
        };
        let (source, destination) = (&source, &destination);
        uncount(tables, &Visitor { zone: self.from(), source, destination, class });
        Verdict::Defer
    }

    /// No rule has decided about it.
    #[inline(always)]
    pub(crate) fn unruled(&self) {
        self.rule.set(NO_RULE);
        self.ruling.set(0);
    }

    /// Tells that it has become a flow, if anybody listens.
    #[inline(always)]
    pub(crate) fn started<T: Tables>(&self, tables: &T, config: &Config, record: u32) {
        if config.flags & EVENTS == 0 {
            return;
        }
        let (source, destination) = (self.source.get(), self.destination.get());
        let ruling =
            Ruling { action: Action::Allow, rule: self.rule.get(), flags: self.ruling.get() };
        flow_started(tables, &self.question(&source, &destination), &ruling, record);
    }
}
