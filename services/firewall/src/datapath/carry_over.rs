//! Moving flows from one table into another of another size, while packets make new flows in
//! either.

use portcullis_datapath_abi::{Mapping, flow::NO_MAPPING};

use super::FlowTable;

/// Copies the flows of `old` that `new` does not have, with the mappings they use; a smaller table
/// takes what fits, the most recently active first. Returns how many.
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
        if new.knows(&record) {
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
            assert!(new.table.knows(&tcp(number)));
        }
        assert!(!new.table.knows(&tcp(4)));

        // The second look finds only what came meanwhile.
        assert!(old.table.adopt(&tcp(4), None));
        assert_eq!(carry_over(&mut new.table, &old.table), 1);
        assert_eq!(new.table.flows().count(), 5);
        let moved =
            new.table.find_mapping(&mapping(1)).and_then(|number| new.table.mapping(number));
        assert_eq!(moved.map(|mapping| mapping.references), Some(3));
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
