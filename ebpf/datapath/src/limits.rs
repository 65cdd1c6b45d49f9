//! How many flows a rule lets in: a second, and at the same time from one source.

use core::sync::atomic::Ordering;

use portcullis_datapath_abi::{
    classifier::{LIMITED, Line, OVER_CONNECTIONS, OVER_RATE, RATED, SOURCE_RATED, SourceKey},
    guard::Limit,
};

use crate::{
    classify::{Action, PolicyTables, Ruling},
    guard::conforms,
};

/// `ruling` if it keeps within the limits of its rule, whose line is given; else a refusal. Where a
/// limit cannot be kept for want of memory, it counts as reached.
#[inline(always)]
pub(crate) fn limit<T: PolicyTables>(
    tables: &T,
    line: &Line,
    source: &[u32; 4],
    ruling: Ruling,
) -> Ruling {
    if ruling.flags & (RATED | SOURCE_RATED | LIMITED) == 0 {
        return ruling;
    }
    let key = SourceKey { rule: u32::from(ruling.rule), source: *source };
    // Flows first: what they refuse shall not use up the rate.
    if ruling.flags & LIMITED != 0 && !count(tables, &key, line.high(0)) {
        return refused(ruling, OVER_CONNECTIONS);
    }
    if ruling.flags & (RATED | SOURCE_RATED) != 0 && !in_rate(tables, line, &key, ruling.flags) {
        if ruling.flags & LIMITED != 0 {
            release(tables, ruling.rule, source);
        }
        return refused(ruling, OVER_RATE);
    }
    ruling
}

#[inline(always)]
const fn refused(ruling: Ruling, why: u8) -> Ruling {
    let flags = (ruling.flags & !LIMITED) | why;
    Ruling { action: Action::Deny, flags, rule: ruling.rule }
}

#[inline(always)]
fn in_rate<T: PolicyTables>(tables: &T, line: &Line, key: &SourceKey, flags: u8) -> bool {
    let limit = Limit { interval_ns: u64::from(line.low(1)), tolerance_ns: line.word(2) };
    let now = tables.policy_clock();
    if flags & SOURCE_RATED == 0 {
        return conforms(line.rate(), now, &limit);
    }
    match tables.rule_rate(key) {
        Some(state) => conforms(state, now, &limit),
        None => false,
    }
}

/// Counts one more flow of a source if it has fewer than `most`.
#[inline(always)]
fn count<T: PolicyTables>(tables: &T, key: &SourceKey, most: u32) -> bool {
    let Some(flows) = tables.connections(key) else {
        return false;
    };
    if flows.fetch_add(1, Ordering::SeqCst) < most {
        return true;
    }
    flows.fetch_sub(1, Ordering::SeqCst);
    false
}

/// Takes back a flow that was counted and has not come to be.
#[inline(always)]
pub fn release<T: PolicyTables>(tables: &T, rule: u16, source: &[u32; 4]) {
    let key = SourceKey { rule: u32::from(rule), source: *source };
    if let Some(flows) = tables.connections(&key)
        && flows.fetch_sub(1, Ordering::SeqCst) == 0
    {
        // The service has recounted meanwhile.
        flows.fetch_add(1, Ordering::SeqCst);
    }
}
