//! The table's counters by the names of the eBPF datapath's.

use std::{cmp::Reverse, collections::BTreeMap};

use portcullis_bus::firewall::{Counter as CounterRecord, DropCount};
use portcullis_datapath_abi::Counter;
use portcullis_nftables::{compile::reason_and_pair, ruleset::Counter as Counted};

/// All counters, summed over the pairs of zones.
pub fn counters(counted: &[Counted]) -> Vec<CounterRecord> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for one in counted {
        let (packets, bytes) = sums.entry(reason_and_pair(&one.name).0).or_default();
        *packets += one.packets;
        *bytes += one.bytes;
    }
    let record = |counter: &Counter| {
        let (packets, bytes) = sums.get(counter.name()).copied().unwrap_or_default();
        CounterRecord {
            name: counter.name().to_owned(),
            description: counter.description().to_owned(),
            packets,
            bytes,
        }
    };
    Counter::ALL.iter().map(record).collect()
}

/// Drops by reason and zones, most packets first.
pub fn drops(counted: &[Counted]) -> Vec<DropCount> {
    let record = |one: &Counted| {
        let (reason, pair) = reason_and_pair(&one.name);
        let known = Counter::ALL.iter().find(|counter| counter.name() == reason)?;
        let (from, to) = pair.unwrap_or_default();
        (reason.starts_with("drop.") && one.packets != 0).then(|| DropCount {
            reason: reason.to_owned(),
            description: known.description().to_owned(),
            from_zone: from.to_owned(),
            to_zone: to.to_owned(),
            packets: one.packets,
            bytes: one.bytes,
        })
    };
    let mut drops: Vec<DropCount> = counted.iter().filter_map(record).collect();
    drops.sort_by_key(|drop| Reverse(drop.packets));
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(name: &str, packets: u64) -> Counted {
        Counted { name: name.to_owned(), packets, bytes: packets * 100 }
    }

    #[test]
    fn pairs_are_summed_for_counters_and_told_apart_for_drops() {
        let all = [
            counted("drop.policy/lan/wan", 2),
            counted("drop.policy/wan/router", 5),
            counted("drop.policy", 1),
            counted("forwarded", 7),
            counted("drop.icmp", 0),
        ];
        let counters = counters(&all);
        assert_eq!(counters.len(), Counter::ALL.len());
        let packets =
            |name: &str| counters.iter().find(|one| one.name == name).map(|one| one.packets);
        assert_eq!((packets("drop.policy"), packets("forwarded")), (Some(8), Some(7)));
        let drops: Vec<_> = drops(&all)
            .into_iter()
            .map(|one| (one.from_zone, one.to_zone, one.packets, one.bytes))
            .collect();
        let zones = |from: &str, to: &str, packets| {
            (from.to_owned(), to.to_owned(), packets, packets * 100)
        };
        assert_eq!(drops, [zones("wan", "router", 5), zones("lan", "wan", 2), zones("", "", 1)]);
    }
}
