//! Making the flow of a first packet that the policy lets pass.

use portcullis_datapath_abi::{
    Config, Counter, FlowKey, classifier,
    flow::{FROM_ROUTER, ICMP, NO_MAPPING, TCP, TO_ROUTER, UDP},
    policy::MASQUERADE,
};

use super::candidate::{Candidate, IPV6, PLAIN, RESOLVED};
use crate::{
    Edit, FlowRef, Hook, Hop, Kind, L4, NextHop, Stage, Tables, Verdict,
    flow::{New4, New6, Terms, create4 as make4, create6 as make6, find4, find6},
    limits,
    nat::{outbound, release},
    verdict::{Answer, AnswerKind, Drop},
};

/// Stage [`Stage::Create4`] of a hook. The source that the flow has on the way out is found, and the flow
/// made.
#[inline(always)]
pub fn create4<'a, T: Tables>(tables: &'a T, hook: Hook) -> Verdict<'a> {
    let (Some(config), Some(candidate)) = (tables.config(), tables.candidate()) else {
        return Verdict::Drop(Drop::from(Counter::DropStage, Drop::UNKNOWN));
    };
    let key = candidate.key.get();
    let full_cone = candidate.ruling.get() & classifier::FULL_CONE != 0;
    let source = match outbound(tables, config, &key, &candidate.exit.get(), full_cone) {
        Ok(source) => source,
        Err(reason) => return failed(tables, candidate, hook, reason),
    };
    let [.., host] = candidate.destination.get();
    // What the other end answers. An echo reply has the query id where the request had none.
    let reverse = FlowKey {
        source: host,
        destination: source.address,
        source_port: candidate.port.get(),
        // What has no ports (ESP, GRE) is not told apart by that of its mapping: one host inside can speak
        // it to one outside at a time.
        destination_port: if has_ports(key.protocol) { source.port } else { 0 },
        protocol: key.protocol,
        zone: candidate.to.get(),
        reserved: 0,
    };
    let terms = candidate.terms(config, source.mapping, tables.now());
    let made = make4(
        tables,
        config,
        &New4 { forward: &key, reverse: &reverse, terms, hop: candidate.known_hop() },
    );
    match made {
        Ok(number) => {
            candidate.started(tables, config, number);
            if candidate.facts.get() & PLAIN != 0 {
                return send(tables, candidate, number);
            }
            Verdict::Next(candidate.again())
        }
        Err(reason) => {
            release(tables, source.mapping);
            // If another CPU made it meanwhile, that one stays.
            if find4(tables, config, &key).is_some() {
                forget(tables, candidate);
                return Verdict::Next(Stage::Entry);
            }
            failed(tables, candidate, hook, reason)
        }
    }
}

/// Sends the packet on: whatever the entry asks of a packet has been asked before its flow was made.
#[inline(always)]
fn send<'a, T: Tables>(tables: &'a T, candidate: &Candidate, number: u32) -> Verdict<'a> {
    let Some(record) = tables.record(number) else {
        return Verdict::Next(Stage::Entry);
    };
    // SAFETY: map memory stays valid while the program runs, and the flow was made a moment ago.
    let flow = unsafe { FlowRef::new(record, number, 0) };
    let edit = Edit {
        flow,
        kind: Kind::Udp,
        ttl: candidate.ttl.get(),
        protocol: 0,
        plain: true,
        ipv6: false,
        length: 0,
        transport: L4 as u16,
        mss: 0,
    };
    let NextHop { egress, link, .. } = candidate.hop.get();
    Verdict::Forward(Counter::Forwarded, edit, Hop { egress, link, cached: true, next_hop: [0; 4] })
}

/// Stage [`Stage::Create6`].
#[inline(always)]
pub fn create6<'a, T: Tables>(tables: &'a T) -> Verdict<'a> {
    let (Some(config), Some(candidate)) = (tables.config(), tables.candidate()) else {
        return Verdict::Drop(Drop::from(Counter::DropStage, Drop::UNKNOWN));
    };
    let key = candidate.key6();
    let terms = candidate.terms(config, NO_MAPPING, tables.now());
    match make6(tables, config, &New6 { key: &key, terms, hop: candidate.known_hop() }) {
        Ok(record) => {
            candidate.started(tables, config, record);
            Verdict::Next(Stage::Entry)
        }
        Err(reason) => {
            if find6(tables, config, &key).is_some() {
                forget(tables, candidate);
                return Verdict::Next(Stage::Entry);
            }
            // Of IPv6 nobody is told, at no hook.
            failed(tables, candidate, Hook::Tcx, reason)
        }
    }
}

/// Ports, or query ids in their place.
#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | ICMP)
}

impl Candidate {
    /// Where a packet starts over that has its flow now. The entry would hand a SYN on.
    #[inline(always)]
    fn again(&self) -> Stage {
        let arrived = self.flags.get() & FROM_ROUTER == 0;
        if arrived && self.key.get().protocol == TCP { Stage::Flow4 } else { Stage::Entry }
    }

    #[inline(always)]
    fn terms(&self, config: &Config, mapping: u32, now: u32) -> Terms {
        Terms {
            flags: self.flags.get(),
            rule: self.rule.get(),
            mapping,
            now,
            generation: config.generation,
            counted: if self.facts.get() & PLAIN != 0 {
                (self.segments.get(), self.bytes.get())
            } else {
                (0, 0)
            },
        }
    }

    /// Whether it is of a host inside, and leaves with another address. (IPv6 and what the router itself
    /// sends or receives is not.)
    #[inline(always)]
    fn leaves_translated(&self) -> bool {
        self.exit.get().flags & MASQUERADE != 0
            && self.facts.get() & IPV6 == 0
            && self.flags.get() & (FROM_ROUTER | TO_ROUTER) == 0
    }

    #[inline(always)]
    fn known_hop(&self) -> Option<NextHop> {
        if self.facts.get() & RESOLVED != 0 { Some(self.hop.get()) } else { None }
    }
}

#[inline(always)]
fn failed<'a, T: Tables>(
    tables: &T,
    candidate: &Candidate,
    hook: Hook,
    reason: Counter,
) -> Verdict<'a> {
    forget(tables, candidate);
    let drop = Drop::between(reason, candidate.from(), candidate.to.get());
    // Who is let out, but not now, is told (RFC 5508 REQ-8). Not who comes in: under a flood these are
    // forged.
    if candidate.leaves_translated() && matches!(reason, Counter::DropPorts | Counter::DropFull) {
        if hook == Hook::Xdp {
            return candidate.leave(tables);
        }
        return Verdict::Answer(Answer { drop, kind: AnswerKind::Prohibited, mtu: 0 });
    }
    Verdict::Drop(drop)
}

/// The flow does not count for its source.
#[inline(always)]
fn forget<T: Tables>(tables: &T, candidate: &Candidate) {
    if candidate.ruling.get() & classifier::LIMITED != 0 {
        let source = candidate.source.get();
        limits::release(tables, candidate.rule.get(), &source);
    }
}
