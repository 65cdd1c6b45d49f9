//! Walking the flow table: to forget what is old, and to show what is there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::Ipv4Addr,
};

use portcullis_bus::firewall::FlowRecord;
use portcullis_datapath_abi::{
    FlowEntry, FlowKey, TICK_SHIFT, address,
    flow::{ICMP, ORIGINAL, TCP},
    policy::ROUTER,
    port,
};
use portcullis_model::Timeouts;

use crate::{
    ageing::{self, Pressure},
    compile::name_text,
    datapath::{Maps, Result, Walk},
};

/// Entries without their other half are removed when they are older than this: their maker may be
/// about to add it.
const ORPHAN_TICKS: u32 = 3;

/// The time in the datapath's ticks.
pub fn now_ticks() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    time.map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let rest = u64::try_from(time.tv_nsec()).unwrap_or_default();
        ((seconds * 1_000_000_000 + rest) >> TICK_SHIFT) as u32
    })
}

/// Result of a part of a pass.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Flows that stay.
    pub kept: u64,
    /// Flows removed.
    pub removed: u64,
}

/// Forgets the old flows of the next part of the table; `None` at its end. The caller lets others
/// run between parts.
///
/// # Errors
/// What the kernel says.
pub fn sweep(
    maps: &mut Maps,
    walk: &mut Walk,
    timeouts: &Timeouts,
    pressure: Pressure,
) -> Result<Option<Swept>> {
    let Some(entries) = maps.walk(walk)? else {
        return Ok(None);
    };
    // Copied: removing borrows the maps again.
    let entries = entries.to_vec();
    let now = now_ticks();
    let shortest = if pressure.is_none() { ageing::shortest_s(timeouts) } else { 0 };
    let mut swept = Swept::default();
    for (key, entry) in entries {
        let idle = ageing::seconds_since(entry.last_seen, now);
        let original = entry.flags & ORIGINAL != 0;
        if idle <= shortest {
            swept.kept += u64::from(original);
            continue;
        }
        let peer_key = entry.peer_key(&key);
        match maps.flow(&peer_key)? {
            None => {
                if now.wrapping_sub(entry.last_seen) > ORPHAN_TICKS {
                    maps.remove_flow(&key)?;
                    swept.removed += u64::from(original);
                }
            }
            // The original direction decides for both.
            Some(_) if !original => {}
            Some(reply) => {
                if ageing::expired(key.protocol, &entry, &reply, timeouts, pressure, now) {
                    maps.remove_flow(&key)?;
                    maps.remove_flow(&peer_key)?;
                    swept.removed += 1;
                } else {
                    swept.kept += 1;
                }
            }
        }
    }
    Ok(Some(swept))
}

/// The most recently active flows, and how many there are.
///
/// # Errors
/// What the kernel says.
pub fn newest(maps: &Maps, timeouts: &Timeouts, limit: usize) -> Result<(u64, Vec<FlowRecord>)> {
    let mut total = 0;
    // Of the candidates the oldest is on top, to be replaced.
    let mut newest: BinaryHeap<Reverse<(u32, FlowKey)>> = BinaryHeap::new();
    let mut walk = Walk::default();
    while let Some(entries) = maps.walk(&mut walk)? {
        for (key, entry) in entries.iter().filter(|(_, entry)| entry.flags & ORIGINAL != 0) {
            total += 1;
            newest.push(Reverse((entry.last_seen, *key)));
            if newest.len() > limit {
                newest.pop();
            }
        }
    }
    let names: BTreeMap<u8, String> = (0_u8..)
        .zip(maps.zones()?)
        .map(|(id, zone)| {
            (id, if id == ROUTER { "router".to_owned() } else { name_text(&zone.name) })
        })
        .collect();
    let now = now_ticks();
    let mut records = Vec::new();
    for Reverse((_, key)) in newest.into_sorted_vec() {
        if let Some(original) = maps.flow(&key)?
            && let Some(reply) = maps.flow(&original.peer_key(&key))?
        {
            records.push(record(&key, &original, &reply, &names, timeouts, now));
        }
    }
    Ok((total, records))
}

fn record(
    key: &FlowKey,
    original: &FlowEntry,
    reply: &FlowEntry,
    zones: &BTreeMap<u8, String>,
    timeouts: &Timeouts,
    now: u32,
) -> FlowRecord {
    let zone = |id: u8| zones.get(&id).cloned().unwrap_or_default();
    let state = ageing::state(key.protocol, original, reply);
    // The router's DHCP client speaks from no address to all.
    let dhcp_client = key.zone == ROUTER && key.destination == 0;
    let (source, destination) = if dhcp_client {
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
    } else {
        (address(key.source), address(key.destination))
    };
    let translated = if dhcp_client { source } else { address(original.source) };
    FlowRecord {
        protocol: match key.protocol {
            TCP => "tcp",
            ICMP => "icmp",
            _ => "udp",
        }
        .to_owned(),
        source: format!("{source}:{}", port(key.source_port)),
        destination: format!("{destination}:{}", port(key.destination_port)),
        translated_source: format!("{translated}:{}", port(original.source_port)),
        from_zone: zone(key.zone),
        to_zone: zone(original.peer_zone),
        state: state.name().to_owned(),
        packets_out: original.packets,
        bytes_out: original.bytes,
        packets_in: reply.packets,
        bytes_in: reply.bytes,
        idle_s: ageing::seconds_since(original.last_seen, now)
            .min(ageing::seconds_since(reply.last_seen, now)),
        timeout_s: ageing::timeout_s(key.protocol, state, timeouts),
    }
}
