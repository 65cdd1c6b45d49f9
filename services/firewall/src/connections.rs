//! Flows counted for their source (`connections_per_source` of a rule). The datapath counts them when
//! they begin; that they end is found by counting again, in every pass over the flow table.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData, MapError};
use portcullis_datapath_abi::{
    FlowRecord,
    classifier::SourceKey,
    flow::{IPV6, LIMITED},
    map,
};

use crate::datapath::{DatapathError, Maps, Result};

/// What of a flow is counted; `None` if it is not.
pub fn key(record: &FlowRecord) -> Option<SourceKey> {
    if record.flags & LIMITED == 0 {
        return None;
    }
    let source = if record.flags & IPV6 != 0 {
        record.ends6().source
    } else {
        let [original, _] = record.ends4().keys;
        [0, 0, 0xffff_u32.to_be(), original.source]
    };
    Some(SourceKey { rule: record.rule.into(), source })
}

/// Flows of these sources under these rules. Others are not counted: a flood of made-up sources may
/// have a flow for each, but the datapath counts for no more of them than its table has room for.
fn count<'a>(
    keys: impl Iterator<Item = &'a SourceKey>,
    flows: impl Iterator<Item = FlowRecord>,
) -> BTreeMap<SourceKey, u32> {
    let mut counts: BTreeMap<SourceKey, u32> = keys.map(|key| (*key, 0)).collect();
    for key in flows.filter_map(|record| key(&record)) {
        if let Some(count) = counts.get_mut(&key) {
            *count += 1;
        }
    }
    counts
}

/// Brings the counts to what the flow table has. Those that the packet path changes meanwhile are left
/// to the next time, and so is a flow that was counted but is not in the table yet: for a pass its
/// source may have one too many.
///
/// # Errors
/// What the kernel says.
pub fn recount(maps: &mut Maps) -> Result<()> {
    let mut connections: HashMap<MapData, SourceKey, u32> = maps.map(map::CONNECTIONS)?;
    let before: BTreeMap<SourceKey, u32> =
        connections.iter().collect::<std::result::Result<_, _>>().map_err(failed)?;
    let counted = count(before.keys(), maps.flows().flows().map(|(_, record)| record));
    for (key, known) in before {
        let right = counted.get(&key).copied().unwrap_or(0);
        if known == right {
            continue;
        }
        match connections.get(&key, 0) {
            Ok(now) if now != known => {}
            Ok(_) if right == 0 => connections.remove(&key).map_err(failed)?,
            Ok(_) => connections.insert(key, right, 0).map_err(failed)?,
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn failed(source: MapError) -> DatapathError {
    DatapathError::Map { name: map::CONNECTIONS, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::{FlowKey, FlowKey6, flow::Ends4};

    use super::*;

    #[test]
    fn a_flow_is_counted_for_the_source_that_began_it() {
        let source = u32::from_ne_bytes([192, 168, 77, 5]);
        let original = FlowKey { source, destination: 7, ..FlowKey::default() };
        let mut four = FlowRecord { rule: 3, ..FlowRecord::default() };
        four.set_ends4(&Ends4 { keys: [original, FlowKey::default()], ..Ends4::default() });
        assert_eq!(key(&four), None);
        four.flags = LIMITED;
        let mapped = std::net::Ipv4Addr::new(192, 168, 77, 5).to_ipv6_mapped();
        let expected = crate::purge::words6(mapped);
        assert_eq!(key(&four), Some(SourceKey { rule: 3, source: expected }));

        let mut six = FlowRecord { rule: 3, flags: LIMITED | IPV6, ..FlowRecord::default() };
        six.set_ends6(&FlowKey6 { source: [1, 2, 3, 4], ..FlowKey6::default() });
        assert_eq!(key(&six), Some(SourceKey { rule: 3, source: [1, 2, 3, 4] }));
        let keys = [&four, &six].map(|record| key(record).unwrap_or_default());
        let unknown = FlowRecord { rule: 4, ..four };
        let counts =
            count(keys.iter(), [four, six, four, FlowRecord::default(), unknown].into_iter());
        assert_eq!(keys.map(|key| counts.get(&key).copied()), [Some(2), Some(1)]);
        assert_eq!(counts.len(), 2, "nothing is kept of what nobody asks for");
    }
}
