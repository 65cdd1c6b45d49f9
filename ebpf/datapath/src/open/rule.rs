//! What the policy says about a first packet, of either family.

use portcullis_datapath_abi::{
    Counter, classifier,
    flow::{LIMITED, LOGGED, TCP, TO_ROUTER},
    policy::NO_RULE,
};

use super::candidate::{Candidate, IPV6, SERVICE};
use crate::{
    Hook, Stage, Tables, Verdict,
    classify::{Action, Ruling, classify, default_of},
    guard::must_prove,
    limits,
    nat::Inside,
    telemetry::rule_hit,
    verdict::{Answer, AnswerKind, Drop},
};

/// Stage [`Stage::Rule`] of a hook. What XDP cannot carry out it leaves to tcx, where the packet begins
/// anew: so nothing of it is counted or logged here.
#[inline(always)]
pub fn rule<'a, T: Tables>(tables: &'a T, hook: Hook) -> Verdict<'a> {
    let Some(candidate) = tables.candidate() else {
        return Verdict::Drop(Drop::from(Counter::DropStage, Drop::UNKNOWN));
    };
    let (from, to) = (candidate.from(), candidate.to.get());
    if hook == Hook::Xdp && unsendable(candidate, from, to).is_some() {
        // Before a limit of its rule counts it.
        return candidate.leave(tables);
    }
    let ruling = match default_of(tables, from, to) {
        Some(ruling) => ruling,
        None => {
            let (source, destination) = (candidate.source.get(), candidate.destination.get());
            classify(tables, &candidate.question(&source, &destination))
        }
    };
    // The router's services need no flows, so that a flood of queries cannot fill the table.
    if ruling.rule == NO_RULE && candidate.facts.get() & SERVICE != 0 {
        if hook == Hook::Xdp {
            return candidate.leave(tables);
        }
        return Verdict::Kernel(Counter::Service);
    }
    // A port forward or a mapping lets in what no rule decides about.
    let invited = ruling.rule == NO_RULE && is_invited(candidate.inside.get(), from, to);
    if !invited {
        if hook == Hook::Xdp && matches!(ruling.action, Action::Reject) {
            return candidate.leave(tables);
        }
        if ruling.flags & classifier::LOG != 0 {
            let (source, destination) = (candidate.source.get(), candidate.destination.get());
            let question = candidate.question(&source, &destination);
            rule_hit(tables, &question, &ruling, tables.now());
        }
        if let Some(verdict) = refusal(&ruling, from, to) {
            return verdict;
        }
    }
    if let Some(verdict) = unfit(tables, candidate, hook, from, to) {
        // The flow that the ruling let in was not made after all: it does not count for its source.
        if ruling.flags & classifier::LIMITED != 0 {
            limits::release(tables, ruling.rule, &candidate.source.get());
        }
        return verdict;
    }
    candidate.rule.set(ruling.rule);
    candidate.ruling.set(ruling.flags);
    let logged = if ruling.flags & classifier::LOG != 0 { LOGGED } else { 0 };
    let limited = if ruling.flags & classifier::LIMITED != 0 { LIMITED } else { 0 };
    candidate.flags.set(candidate.flags.get() | logged | limited);
    Verdict::Next(if candidate.facts.get() & IPV6 != 0 { Stage::Create6 } else { Stage::Create4 })
}

#[inline(always)]
fn is_invited(inside: u8, from: u8, to: u8) -> bool {
    if inside & Inside::PASSES != 0 {
        return true;
    }
    from == to && inside & Inside::PASSES_BACK != 0
}

/// What happens to a packet that the policy does not let pass; `None` if it does.
#[inline(always)]
fn refusal<'a>(ruling: &Ruling, from: u8, to: u8) -> Option<Verdict<'a>> {
    let drop = Drop::between(ruling.reason(), from, to);
    match ruling.action {
        Action::Allow => None,
        Action::Deny => Some(Verdict::Drop(drop)),
        Action::Reject => Some(Verdict::Answer(Answer { drop, kind: AnswerKind::Refused, mtu: 0 })),
    }
}

/// Why no flow comes of a packet that the policy lets pass.
#[inline(always)]
fn unfit<'a, T: Tables>(
    tables: &T,
    candidate: &Candidate,
    hook: Hook,
    from: u8,
    to: u8,
) -> Option<Verdict<'a>> {
    if candidate.key.get().protocol == TCP
        && must_prove(tables, from, &candidate.source.get(), || tables.now())
    {
        return Some(Verdict::Next(Stage::Challenge));
    }
    // At XDP it has gone by that already.
    if hook == Hook::Xdp { None } else { unsendable(candidate, from, to) }
}

/// Why a packet through the router is answered instead of sent on, whatever the policy says.
#[inline(always)]
fn unsendable<'a>(candidate: &Candidate, from: u8, to: u8) -> Option<Verdict<'a>> {
    if candidate.flags.get() & TO_ROUTER != 0 {
        return None;
    }
    // No flow comes of what the router answers itself.
    if candidate.ttl.get() <= 1 {
        let drop = Drop::between(Counter::DropTtl, from, to);
        return Some(Verdict::Answer(Answer { drop, kind: AnswerKind::TimeExceeded, mtu: 0 }));
    }
    let mtu = candidate.hop.get().mtu;
    if candidate.length.get() > u32::from(mtu) {
        let drop = Drop::between(Counter::DropTooBig, from, to);
        return Some(Verdict::Answer(Answer { drop, kind: AnswerKind::TooBig, mtu }));
    }
    None
}
