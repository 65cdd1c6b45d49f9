//! What the core tells of rules and flows.

#![allow(clippy::indexing_slicing, reason = "tests")]

use portcullis_datapath::{
    classify::{Action, Question, Ruling},
    mapped,
    simulation::Simulation,
    telemetry::{dropped, flow_started, rule_hit},
};
use portcullis_datapath_abi::{
    Counter,
    event::{DropKey, FLOW_START, HITS_PER_TICK, NO_RECORD, RULE_HIT, UNKNOWN_ZONE},
    flow::TCP,
};

const SOURCE: [u32; 4] = mapped(u32::from_ne_bytes([192, 168, 77, 5]));
const DESTINATION: [u32; 4] = mapped(u32::from_ne_bytes([198, 51, 100, 7]));

fn question() -> Question<'static> {
    Question {
        from: 1,
        to: 2,
        source: &SOURCE,
        destination: &DESTINATION,
        protocol: TCP,
        source_port: 5000_u16.to_be(),
        destination_port: 443_u16.to_be(),
        mac: [0; 6],
    }
}

const RULING: Ruling = Ruling { action: Action::Reject, flags: 0, rule: 7 };

#[test]
fn events_say_all_that_the_policy_was_asked() {
    let router = Simulation::default();
    rule_hit(&router, &question(), &RULING, 100);
    flow_started(&router, &question(), &RULING, 42);
    let events = router.telemetry.events.borrow();
    let [hit, start] = &events[..] else { panic!("{events:?}") };
    assert_eq!((hit.kind, hit.record), (RULE_HIT, NO_RECORD));
    assert_eq!((start.kind, start.record), (FLOW_START, 42));
    for event in [hit, start] {
        assert_eq!((event.source, event.destination), (SOURCE, DESTINATION));
        assert_eq!(
            (event.source_port, event.destination_port),
            (5000_u16.to_be(), 443_u16.to_be())
        );
        assert_eq!((event.protocol, event.from, event.to), (TCP, 1, 2));
        assert_eq!((event.rule, event.action, event.untold), (7, 2, 0));
    }
}

#[test]
fn a_flood_of_hits_is_told_in_part_and_counted_whole() {
    let router = Simulation::default();
    for _ in 0..1000 {
        rule_hit(&router, &question(), &RULING, 100);
    }
    let told = || {
        let events = router.telemetry.events.borrow();
        (events.len(), events.iter().map(|event| event.untold).sum::<u32>())
    };
    let budget = HITS_PER_TICK as usize;
    assert_eq!(told(), (budget, 0));
    rule_hit(&router, &question(), &RULING, 101);
    assert_eq!(told(), (budget + 1, 1000 - HITS_PER_TICK));
    rule_hit(&router, &question(), &RULING, 101);
    assert_eq!(told(), (budget + 2, 1000 - HITS_PER_TICK), "told once");
}

#[test]
fn drops_are_added_up_by_reason_and_zones() {
    let router = Simulation::default();
    dropped(&router, Counter::DropPolicy, (2, 0), 1, 60);
    dropped(&router, Counter::DropPolicy, (2, 0), 3, 4000);
    dropped(&router, Counter::DropPolicy, (2, UNKNOWN_ZONE), 1, 70);
    let drops = router.telemetry.drops.borrow();
    let of = |to| {
        let count = drops[&DropKey { reason: Counter::DropPolicy as u16, from: 2, to }];
        (count.packets, count.bytes)
    };
    assert_eq!((of(0), of(UNKNOWN_ZONE)), ((4, 4060), (1, 70)));
}
