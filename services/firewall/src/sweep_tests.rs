//! Passes over tables in real maps. Needs root.

use std::time::Instant;

use portcullis_datapath_abi::{
    flow::{FIN, LIMITED, NO_MAPPING, PASSED, RST},
    policy::XDP_TRANSMIT,
};

use super::*;
use crate::datapath::scratch::{Scratch, mapping, tcp};

/// One whole pass at a time in ticks, and what ended in it.
fn pass(sweeper: &mut Sweeper, table: &mut FlowTable, now: u32) -> (Swept, Vec<(u32, EndReason)>) {
    pass_under(sweeper, table, now, Pressure::NONE)
}

fn pass_under(
    sweeper: &mut Sweeper,
    table: &mut FlowTable,
    now: u32,
    pressure: Pressure,
) -> (Swept, Vec<(u32, EndReason)>) {
    let timeouts = Timeouts::default();
    let terms = Terms { now, timeouts: &timeouts, pressure };
    let mut ended = Vec::new();
    let mut on_end = |end: &Ended<'_>| ended.push((end.number, end.reason));
    loop {
        let step = sweeper.step(table, &terms, &mut on_end);
        if let Some(swept) = step.unwrap_or_else(|error| panic!("{error}")) {
            return (swept, ended);
        }
    }
}

fn number_of(table: &FlowTable, record: &FlowRecord) -> u32 {
    table
        .flows()
        .find_map(|(number, known)| (known.ends == record.ends).then_some(number))
        .unwrap_or_else(|| panic!("not in the table"))
}

/// Numbers that the packet path could take now, in order.
fn free(table: &mut FlowTable) -> Vec<u32> {
    std::iter::from_fn(|| table.take_flow()).collect()
}

#[test]
fn an_old_flow_ends_and_its_number_is_free_one_pass_later() {
    let mut scratch = Scratch::new(16);
    let table = &mut scratch.table;
    let young = FlowRecord { last_seen: 50_000, ..tcp(1) };
    assert!(table.adopt(&tcp(0), None) && table.adopt(&young, None));
    let number = number_of(table, &tcp(0));
    let mut sweeper = Sweeper::default();

    let (swept, ended) = pass(&mut sweeper, table, 50_001);
    assert_eq!(ended, [(number, EndReason::Idle)]);
    assert_eq!((swept.kept, swept.ended), (1, 1));
    assert!(table.number_of(&tcp(0)).is_none() && table.number_of(&young).is_some());
    assert_eq!(table.glance(number).map(|glance| glance.state), Some(CLEARED));

    // Packets that saw it in the index have long passed when the next pass begins.
    let (_, ended) = pass(&mut sweeper, table, 50_002);
    assert_eq!(ended, []);
    assert_eq!(table.glance(number).map(|glance| glance.state), Some(FREE));
    let free = free(table);
    assert_eq!(free.iter().filter(|free| **free == number).count(), 1, "{free:?}");
    assert_eq!(free.len(), 15);
}

#[test]
fn a_flow_whose_packets_pass_the_entry_stays_and_ages_from_the_next_pass_on() {
    let timeout = Timeouts::default().tcp_established_s;
    for direction in 0..2 {
        let mut scratch = Scratch::new(16);
        let table = &mut scratch.table;
        let mut marked = tcp(0);
        let Some(side) = marked.sides.get_mut(direction) else { panic!("two sides") };
        side.link = XDP_TRANSMIT | PASSED;
        assert!(table.adopt(&marked, None));
        let number = number_of(table, &marked);
        let mut sweeper = Sweeper::default();
        // However old it looks: the service may have been away.
        let noted = marked.last_seen + timeout * 2;
        let (swept, ended) = pass(&mut sweeper, table, noted);
        assert_eq!((swept.kept, ended), (1, vec![]));
        let record = table.record(number).unwrap_or_else(|| panic!("a record"));
        assert_eq!(record.last_seen, noted);
        assert!(record.sides.iter().all(|side| side.link & PASSED == 0));
        assert_eq!(record.sides.get(direction).map(|side| side.link), Some(XDP_TRANSMIT));
        // No packet has passed since.
        let (swept, _) = pass(&mut sweeper, table, noted + timeout / 2);
        assert_eq!(swept.kept, 1);
        let record = table.record(number).unwrap_or_else(|| panic!("a record"));
        assert_eq!(record.last_seen, noted);
        let (_, ended) = pass(&mut sweeper, table, noted + timeout);
        assert_eq!(ended, [(number, EndReason::Idle)]);
    }
}

#[test]
fn reasons_are_told_apart() {
    let mut scratch = Scratch::new(64);
    let table = &mut scratch.table;
    let mut closed = tcp(1);
    for side in &mut closed.sides {
        side.seen |= FIN;
    }
    let mut reset = tcp(2);
    let [original, _] = &mut reset.sides;
    original.seen |= RST;
    let mut opening = FlowRecord { last_seen: 1090, ..tcp(3) };
    for side in &mut opening.sides {
        side.seen = 0;
    }
    let established = FlowRecord { last_seen: 1000, ..tcp(4) };
    for record in [&closed, &reset, &opening, &established] {
        assert!(table.adopt(record, None));
    }
    let of = |table: &FlowTable, record| number_of(table, record);
    let [closed, reset, opening] = [&closed, &reset, &opening].map(|record| of(table, record));
    let mut sweeper = Sweeper::default();
    let (swept, ended) = pass(&mut sweeper, table, 1300);
    assert_eq!(ended, [(closed, EndReason::Closed), (reset, EndReason::Closed)]);
    assert_eq!(swept.kept, 2);
    let full = Pressure::of(64, 64, true);
    let (swept, ended) = pass_under(&mut sweeper, table, 1300, full);
    assert_eq!(ended, [(opening, EndReason::Resources)]);
    assert_eq!(swept.kept, 1, "the established flow stays, however full the table is");
}

#[test]
fn the_last_flow_of_a_mapping_takes_it_along() {
    let mut scratch = Scratch::new(16);
    let table = &mut scratch.table;
    let shared = table.adopt_mapping(&mapping(5)).unwrap_or_else(|| panic!("room"));
    let young = FlowRecord { last_seen: 9_000, ..tcp(1) };
    for record in [&tcp(0), &young] {
        assert!(table.join_mapping(shared) && table.adopt(record, Some(shared)));
    }
    let mut sweeper = Sweeper::default();
    let (swept, _) = pass(&mut sweeper, table, 9_001);
    assert_eq!(swept.mappings, 1);
    assert_eq!(table.mapping(shared).map(|mapping| mapping.references), Some(1));
    assert_eq!(table.find_mapping(&mapping(5)), Some(shared));

    let (swept, _) = pass(&mut sweeper, table, 30_000);
    assert_eq!((swept.kept, swept.mappings), (0, 0));
    assert_eq!(table.find_mapping(&mapping(5)), None);
    assert!(!table.join_mapping(shared), "closed");
    pass(&mut sweeper, table, 30_001);
    let again = table.adopt_mapping(&mapping(6)).and_then(|_| table.adopt_mapping(&mapping(5)));
    assert!(again.is_some());
    let numbers: Vec<u32> = std::iter::from_fn(|| table.take_mapping()).collect();
    assert_eq!(numbers.iter().filter(|number| **number == shared).count(), 1);
}

#[test]
fn a_process_that_is_killed_at_any_step_loses_no_number_and_reports_no_end_twice() {
    // Before it marked the record, after it, after it gave up what the flow held.
    for steps in 0..3 {
        let mut scratch = Scratch::new(8);
        let table = &mut scratch.table;
        let shared = table.adopt_mapping(&mapping(1)).unwrap_or_else(|| panic!("room"));
        assert!(table.join_mapping(shared) && table.adopt(&tcp(0), Some(shared)));
        let record = FlowRecord { flags: LIMITED, mapping: shared, ..tcp(0) };
        let number = number_of(table, &record);
        if steps > 0 {
            assert!(table.end(number, &record));
        }
        if steps > 1 {
            let cleared = table.clear(number);
            assert_eq!(cleared.map(|record| record.mapping), Some(shared));
            assert_eq!(table.record(number).map(|record| record.mapping), Some(NO_MAPPING));
            assert!(table.clear(number).is_none());
        }
        let mut table = scratch.reopen();
        let mut sweeper = Sweeper::default();
        let (_, ended) = pass(&mut sweeper, &mut table, 50_000);
        assert_eq!(ended.len(), usize::from(steps < 2), "after {steps} steps");
        let (_, ended) = pass(&mut sweeper, &mut table, 50_001);
        assert_eq!(ended, []);
        pass(&mut sweeper, &mut table, 50_002);
        let mut numbers = free(&mut table);
        numbers.sort_unstable();
        assert_eq!(numbers, (0..8).collect::<Vec<_>>(), "after {steps} steps");
        let mut numbers: Vec<u32> = std::iter::from_fn(|| table.take_mapping()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..8).collect::<Vec<_>>(), "after {steps} steps");
    }
}

#[test]
fn flows_end_on_demand_between_two_slices_and_are_counted_once() {
    let mut scratch = Scratch::new(64);
    let table = &mut scratch.table;
    for number in 0..32 {
        assert!(table.adopt(&tcp(number), None));
    }
    let odd = |record: &FlowRecord| {
        let [key, _] = record.ends4().keys;
        key.source_port % 2 == 1
    };
    let mut sweeper = Sweeper::default();
    let timeouts = Timeouts::default();
    let terms = Terms { now: 1001, timeouts: &timeouts, pressure: Pressure::NONE };
    let mut ends = 0;
    let step = sweeper.step(table, &terms, &mut |_| ends += 1);
    assert!(step.is_ok_and(|swept| swept.is_none()));
    assert_eq!(sweeper.end_where(table, odd, &mut |_| ends += 1), 16);
    assert_eq!(sweeper.end_where(table, odd, &mut |_| ends += 1), 0);
    let (swept, ended) = pass(&mut sweeper, table, 1002);
    assert_eq!((swept.kept, ended.len(), ends), (16, 0, 16));
    pass(&mut sweeper, table, 1003);
    let mut free = free(table);
    free.sort_unstable();
    free.dedup();
    assert_eq!(free.len(), 48);
}

/// A whole table, as large as they are configured. What a pass takes is printed, not judged: that
/// is for the benchmark.
#[test]
fn a_pass_over_a_million_flows_keeps_them_all() {
    let mut scratch = Scratch::new(1 << 20);
    let table = &mut scratch.table;
    for number in 0..1 << 20 {
        assert!(table.adopt(&tcp(number), None), "flow {number}");
    }
    let mut sweeper = Sweeper::default();
    let begun = Instant::now();
    let (swept, _) = pass(&mut sweeper, table, 1001);
    println!("a pass over {} flows: {:?}", swept.kept, begun.elapsed());
    assert_eq!(swept.kept, 1 << 20);
}
