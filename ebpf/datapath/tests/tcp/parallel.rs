//! Two CPUs that carry packets of one connection in the same direction.

use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, Ordering},
};

use portcullis_datapath_abi::flow::{ACK, SYN, Side};

use crate::gate::{self, Gate, Sent, plain};

const ROUNDS: u32 = 300_000;

/// What both of them note at the same time, round by round; how often `holds` did not after it.
fn together(gate: &Gate, sent: impl Fn(u32) -> Sent + Sync, holds: impl Fn(u32) -> bool) -> usize {
    let (begun, done) = (AtomicU32::new(0), AtomicU32::new(0));
    let wait = |number: &AtomicU32, until: u32| {
        let mut looks = 0_u32;
        while number.load(Ordering::SeqCst) < until {
            looks += 1;
            // Both at the same instant, where there are two processors.
            if looks.is_multiple_of(10_000) { std::thread::yield_now() } else { spin_loop() }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let first = plain(&sent(2 * round));
                wait(&begun, round + 1);
                gate.enters(0, &first);
                done.store(round + 1, Ordering::SeqCst);
            }
        });
        let failed = |round: &u32| {
            let last = 2 * round + 1;
            let second = plain(&sent(last));
            begun.store(round + 1, Ordering::SeqCst);
            gate.enters(0, &second);
            wait(&done, round + 1);
            !holds(last)
        };
        (0..ROUNDS).filter(failed).count()
    })
}

/// A connection with the largest windows there are.
fn wide() -> Gate {
    let side = Side {
        seen: SYN | ACK,
        scale: 14,
        window: u16::MAX,
        max_end: u32::from(u16::MAX) << 14,
        ..Side::default()
    };
    Gate::at([side, side])
}

/// If what was sent fell back, the acknowledgment of all of it would be refused, and refused again
/// each time that it is repeated: a download stands still for good.
#[test]
fn what_was_sent_does_not_fall_back() {
    let gate = wide();
    let data = |number| Sent { flags: gate::ACK, sequence: number, length: 1, ..Sent::default() };
    let holds = |last| gate.sides()[0].end == last + 1;
    assert_eq!(together(&gate, data, holds), 0);
}

#[test]
fn what_may_be_sent_does_not_fall_back() {
    let gate = wide();
    let all = Sent { flags: gate::ACK, length: 1 << 20, ..Sent::default() };
    assert!(gate.passes_entry(1, &all));
    let acknowledgment = |number| Sent {
        flags: gate::ACK,
        acknowledgment: number,
        window: u16::MAX,
        ..Sent::default()
    };
    let reach = u32::from(u16::MAX) << 14;
    let holds = |last| gate.sides()[1].max_end == last + reach;
    assert_eq!(together(&gate, acknowledgment, holds), 0);
}
