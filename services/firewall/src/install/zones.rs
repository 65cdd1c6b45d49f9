//! Zones by id.

use portcullis_datapath_abi::Zone;

use crate::{
    compile::Desired,
    datapath::{Maps, Result},
    purge::Gone,
};

/// Writes the zones; those that lose their id are `gone`.
pub(super) fn install(maps: &mut Maps, desired: &Desired, gone: &mut Gone) -> Result<bool> {
    let changes = changes(&maps.zones()?, &desired.zones, gone);
    for (id, zone) in &changes {
        maps.set_zone(*id, zone)?;
    }
    Ok(!changes.is_empty())
}

fn changes(actual: &[Zone], wanted: &[Zone], gone: &mut Gone) -> Vec<(u32, Zone)> {
    let mut changes = Vec::new();
    for (id, (actual, wanted)) in (0_u32..).zip(actual.iter().zip(wanted)) {
        if actual != wanted {
            if actual.name != Zone::default().name && actual.name != wanted.name {
                gone.zones.insert(id as u8);
            }
            changes.push((id, *wanted));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::name_bytes;

    #[test]
    fn only_an_id_that_loses_its_zone_makes_flows_go() {
        let zone = |name: &str, services| Zone { name: name_bytes(name), services, flags: 0 };
        let actual = [Zone::default(), zone("lan", 1), zone("guest", 0), Zone::default()];
        let wanted = [Zone::default(), zone("lan", 2), zone("dmz", 0), zone("iot", 0)];
        let mut gone = Gone::default();
        let changes = changes(&actual, &wanted, &mut gone);
        assert_eq!(changes.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(gone.zones, [2].into());
    }
}
