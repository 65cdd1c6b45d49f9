//! Interfaces by slot.

use std::collections::BTreeMap;

use portcullis_datapath_abi::{Interface, policy::XDP_TRANSMIT};

use crate::{
    compile::Desired,
    datapath::{Maps, Result},
};

/// Writes the interfaces.
pub(super) fn install(maps: &mut Maps, desired: &Desired) -> Result<bool> {
    let changes = changes(&maps.interfaces()?, &desired.interfaces);
    for (slot, interface) in &changes {
        maps.set_interface(*slot, interface)?;
    }
    Ok(!changes.is_empty())
}

fn changes(actual: &[Interface], wanted: &BTreeMap<u32, Interface>) -> Vec<(u32, Interface)> {
    let mut changes = Vec::new();
    for (slot, actual) in (0_u32..).zip(actual) {
        let mut wanted = wanted.get(&slot).copied().unwrap_or_default();
        if wanted.index == actual.index {
            // Known after the programs are attached only: `Datapath::attach` writes it.
            wanted.flags |= actual.flags & XDP_TRANSMIT;
        }
        if *actual == wanted {
            continue;
        }
        let empty = Interface::default();
        if actual.index != wanted.index && *actual != empty && wanted != empty {
            // Never half one interface and half another.
            changes.push((slot, empty));
        }
        changes.push((slot, wanted));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_changes_hands_by_way_of_nobody_and_keeps_what_attaching_found() {
        let interface =
            |index, zone, flags| Interface { index, zone, flags, ..Interface::default() };
        let actual = [
            interface(0, 0, 0),
            interface(1, 1, XDP_TRANSMIT),
            interface(2, 1, XDP_TRANSMIT),
            interface(3, 1, 0),
            interface(4, 1, 0),
        ];
        let wanted = [(1, interface(1, 1, 0)), (2, interface(1026, 1, 0)), (3, interface(3, 2, 0))];
        assert_eq!(
            changes(&actual, &wanted.into()),
            [
                (2, Interface::default()),
                (2, interface(1026, 1, 0)),
                (3, interface(3, 2, 0)),
                (4, Interface::default()),
            ]
        );
    }
}
