//! Moving flows from one table into another of another size, while packets make new flows in
//! either. It is done twice: right before the programs change to the new table, and after that, for
//! what was changed in the old one in between.

use portcullis_datapath_abi::{Mapping, flow::NO_MAPPING};

use super::FlowTable;

/// Copies the flows of `old` that `new` does not have, with the mappings they use, and brings those
/// that it has up to date; a smaller table takes what fits, the most recently active first. Returns
/// how many were copied.
pub(super) fn carry_over(new: &mut FlowTable, old: &FlowTable) -> u64 {
    let mut numbers: Vec<(u32, u32)> = Vec::new();
    for number in 0..old.flows_used() {
        if let Some(glance) = old.glance(number) {
            numbers.push((glance.last_seen, number));
        }
    }
    if old.capacity() > new.capacity() {
        numbers.sort_unstable_by(|one, other| other.cmp(one));
    }
    let mut copied = 0;
    for (_, number) in numbers {
        let Some(record) = old.flow(number) else { continue };
        if let Some(known) = new.number_of(&record) {
            new.catch_up(known, &record);
            continue;
        }
        let mapping = match record.mapping {
            NO_MAPPING => None,
            mapping => {
                // Without its mapping a flow would lose its external port to another.
                let Some(mapping) = old.mapping(mapping).and_then(|m| mapping_in(new, &m)) else {
                    continue;
                };
                if !new.join_mapping(mapping) {
                    continue;
                }
                Some(mapping)
            }
        };
        if new.adopt(&record, mapping) {
            copied += 1;
        } else if let Some(mapping) = mapping {
            new.forsake_mapping(mapping);
        }
    }
    copied
}

/// Number of the same mapping in another table.
fn mapping_in(new: &mut FlowTable, mapping: &Mapping) -> Option<u32> {
    new.find_mapping(mapping).or_else(|| new.adopt_mapping(mapping))
}

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::FlowRecord;

    use super::*;
    use crate::datapath::scratch::{Scratch, mapping, tcp};

    #[test]
    fn flows_and_their_shared_mappings_move_into_a_larger_table() {
        let mut old = Scratch::new(64);
        let shared = old.table.adopt_mapping(&mapping(1)).unwrap_or_else(|| panic!("room"));
        for number in 0..3 {
            assert!(old.table.join_mapping(shared));
            assert!(old.table.adopt(&tcp(number), Some(shared)));
        }
        assert!(old.table.adopt(&tcp(9), None));

        let mut new = Scratch::new(128);
        assert_eq!(carry_over(&mut new.table, &old.table), 4);
        let moved =
            new.table.find_mapping(&mapping(1)).and_then(|number| new.table.mapping(number));
        assert_eq!(moved.map(|mapping| mapping.references), Some(3));
        for number in [0, 1, 2, 9] {
            assert!(new.table.number_of(&tcp(number)).is_some());
        }
        assert!(new.table.number_of(&tcp(4)).is_none());

        // The second look finds only what came meanwhile.
        assert!(old.table.adopt(&tcp(4), None));
        assert_eq!(carry_over(&mut new.table, &old.table), 1);
        assert_eq!(new.table.flows().count(), 5);
        let moved =
            new.table.find_mapping(&mapping(1)).and_then(|number| new.table.mapping(number));
        assert_eq!(moved.map(|mapping| mapping.references), Some(3));
    }

    #[test]
    fn what_a_connection_did_meanwhile_is_caught_up_with() {
        let mut old = Scratch::new(16);
        let mut new = Scratch::new(32);
        let with = |end: u32, max_end: u32, window: u16| {
            let mut record = tcp(0);
            for side in &mut record.sides {
                (side.end, side.max_end, side.window) = (end, max_end, window);
            }
            record
        };
        // It goes on in the old table, across the end of the sequence space.
        assert!(new.table.adopt(&with(u32::MAX - 5, u32::MAX, 100), None));
        assert!(old.table.adopt(&with(20, 4000, 200), None));
        assert_eq!(carry_over(&mut new.table, &old.table), 0);
        let sides = |table: &FlowTable| {
            let flow = table.flows().next().map(|(_, record)| record.sides);
            flow.unwrap_or_default().map(|side| (side.end, side.max_end, side.window))
        };
        assert_eq!(sides(&new.table), [(20, 4000, 200); 2]);
        // What the new one knows better stays.
        assert_eq!(carry_over(&mut old.table, &new.table), 0);
        let mut old = Scratch::new(16);
        assert!(old.table.adopt(&with(10, 3000, 150), None));
        assert_eq!(carry_over(&mut new.table, &old.table), 0);
        assert_eq!(sides(&new.table), [(20, 4000, 200); 2]);
    }

    #[test]
    fn a_smaller_table_keeps_the_flows_that_were_active_last() {
        let mut old = Scratch::new(64);
        for number in 0..64 {
            let record = FlowRecord { last_seen: 1000 + number, ..tcp(number) };
            assert!(old.table.adopt(&record, None));
        }
        let mut new = Scratch::new(16);
        assert_eq!(carry_over(&mut new.table, &old.table), 16);
        let kept: Vec<u32> = new.table.flows().map(|(_, record)| record.last_seen).collect();
        assert!(kept.iter().all(|last_seen| *last_seen >= 1048), "{kept:?}");
    }
}
