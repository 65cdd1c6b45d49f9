//! Showing the flow table.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use portcullis_bus::firewall::{FlowQuery, FlowRecord as Shown};
use portcullis_datapath_abi::{
    FlowKey, FlowKey6, FlowRecord, Zone, address,
    flow::{ICMP, ICMPV6, IPV6, LIVE, TCP, UDP},
    policy::ROUTER,
    port,
};
use portcullis_model::Timeouts;

use crate::{
    ageing,
    compile::name_text,
    datapath::FlowTable,
    purge::{bytes6, touches},
};

/// Most flows that are shown at once. Each takes a few hundred bytes here and on the bus, and who asks
/// may be a service that faces the network.
pub const MOST_SHOWN: usize = 1 << 16;

/// Which flows to show.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    net: Option<IpNet>,
    port: Option<u16>,
    zone: Option<u8>,
    protocol: Option<u8>,
}

impl Filter {
    /// Of a query; `zones` are those of the maps.
    ///
    /// # Errors
    /// Which field says nothing that could be looked for.
    pub fn of(query: &FlowQuery, zones: &[Zone]) -> Result<Self, String> {
        let net = match query.host.as_str() {
            "" => None,
            host => Some(net(host).ok_or_else(|| {
                format!("host: {host} is not an address or prefix like 192.168.1.0/24")
            })?),
        };
        let zone = match query.zone.as_str() {
            "" => None,
            name => Some(zone_id(name, zones).ok_or_else(|| format!("zone: there is no {name}"))?),
        };
        let protocol = match query.protocol.as_str() {
            "" => None,
            name => Some(protocol_number(name).ok_or_else(|| {
                format!("protocol: {name} is not tcp, udp, icmp, icmpv6 or 0 to 255")
            })?),
        };
        Ok(Self { net, port: (query.port != 0).then_some(query.port), zone, protocol })
    }

    fn is_none(&self) -> bool {
        let Self { net, port, zone, protocol } = self;
        net.is_none() && port.is_none() && zone.is_none() && protocol.is_none()
    }

    fn fits(&self, record: &FlowRecord) -> bool {
        let ends = Ends::of(record);
        self.net.is_none_or(|net| touches(record, &net))
            && self.protocol.is_none_or(|protocol| ends.protocol == protocol)
            && self.zone.is_none_or(|zone| ends.from == zone || ends.to == zone)
            && self.port.is_none_or(|port| {
                let [a, b, c] = [ends.source, ends.destination, ends.translated];
                a.port() == port
                    || b.port() == port
                    || c.port() == port
                    || ends.translated_destination.port() == port
            })
    }
}

/// An address or prefix of either family.
pub fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn zone_id(name: &str, zones: &[Zone]) -> Option<u8> {
    if name == "router" {
        return Some(ROUTER);
    }
    let named = (0_u8..).zip(zones).skip(1).find(|(_, zone)| name_text(&zone.name) == name);
    named.map(|(id, _)| id)
}

/// A protocol by its name or number.
pub fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(TCP),
        "udp" => Some(UDP),
        "icmp" => Some(ICMP),
        "icmpv6" => Some(ICMPV6),
        number => number.parse().ok(),
    }
}

/// Name of a protocol, or its number.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP => "icmp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

/// The most recently active flows of those that fit, at most [`MOST_SHOWN`], and how many flows there
/// are in all.
pub fn newest(
    table: &FlowTable,
    zones: &[Zone],
    timeouts: &Timeouts,
    filter: &Filter,
    limit: usize,
    now: u32,
) -> (u64, Vec<Shown>) {
    let limit = limit.min(MOST_SHOWN);
    let mut total = 0;
    // Of the candidates the oldest is on top, to be replaced.
    let mut newest: BinaryHeap<Reverse<(u32, u32)>> = BinaryHeap::new();
    for number in 0..table.flows_used() {
        let Some(glance) = table.glance(number).filter(|glance| glance.state == LIVE) else {
            continue;
        };
        total += 1;
        if newest.len() == limit
            && newest.peek().is_none_or(|Reverse((oldest, _))| glance.last_seen < *oldest)
        {
            continue;
        }
        if filter.is_none() || table.flow(number).is_some_and(|record| filter.fits(&record)) {
            newest.push(Reverse((glance.last_seen, number)));
            if newest.len() > limit {
                newest.pop();
            }
        }
    }
    let names: BTreeMap<u8, String> = (0_u8..)
        .zip(zones)
        .map(|(id, zone)| {
            (id, if id == ROUTER { "router".to_owned() } else { name_text(&zone.name) })
        })
        .collect();
    let shown = newest
        .into_sorted_vec()
        .into_iter()
        .filter_map(|Reverse((_, number))| table.flow(number))
        .map(|record| show(&record, &names, timeouts, now))
        .collect();
    (total, shown)
}

/// A flow as people know it.
struct Ends {
    protocol: u8,
    from: u8,
    to: u8,
    source: SocketAddr,
    destination: SocketAddr,
    /// Source as the destination sees it.
    translated: SocketAddr,
    /// Destination as the network behind us sees it.
    translated_destination: SocketAddr,
}

impl Ends {
    fn of(record: &FlowRecord) -> Self {
        if record.flags & IPV6 != 0 {
            Self::of6(&record.ends6())
        } else {
            let [original, reply] = record.ends4().keys;
            Self::of4(&original, &reply)
        }
    }

    fn of4(original: &FlowKey, reply: &FlowKey) -> Self {
        // The router's DHCP client speaks from no address to all.
        let dhcp_client = original.zone == ROUTER && original.destination == 0;
        let end = |raw, raw_port| SocketAddr::new(IpAddr::V4(address(raw)), port(raw_port));
        let mut ends = Self {
            protocol: original.protocol,
            from: original.zone,
            to: reply.zone,
            source: end(original.source, original.source_port),
            destination: end(original.destination, original.destination_port),
            translated: end(reply.destination, reply.destination_port),
            translated_destination: end(reply.source, reply.source_port),
        };
        if dhcp_client {
            ends.source.set_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            ends.destination.set_ip(IpAddr::V4(Ipv4Addr::BROADCAST));
            ends.translated = ends.source;
        }
        ends
    }

    fn of6(key: &FlowKey6) -> Self {
        let end = |raw, raw_port| {
            SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes6(raw))), port(raw_port))
        };
        let source = end(key.source, key.source_port);
        let destination = end(key.destination, key.destination_port);
        Self {
            protocol: key.protocol,
            from: key.zone,
            to: key.peer_zone,
            source,
            destination,
            translated: source,
            translated_destination: destination,
        }
    }
}

fn show(record: &FlowRecord, zones: &BTreeMap<u8, String>, timeouts: &Timeouts, now: u32) -> Shown {
    let zone = |id: u8| zones.get(&id).cloned().unwrap_or_default();
    let state = ageing::state(record);
    let ends = Ends::of(record);
    let [packets_out, packets_in] = record.packets;
    let [bytes_out, bytes_in] = record.bytes;
    Shown {
        protocol: protocol_name(ends.protocol),
        source: ends.source.to_string(),
        destination: ends.destination.to_string(),
        translated_source: ends.translated.to_string(),
        from_zone: zone(ends.from),
        to_zone: zone(ends.to),
        state: state.name().to_owned(),
        packets_out,
        bytes_out,
        packets_in,
        bytes_in,
        idle_s: ageing::seconds_since(record.last_seen, now),
        timeout_s: ageing::timeout_s(ends.protocol, state, timeouts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::scratch::{Scratch, tcp};

    #[test]
    fn no_more_is_shown_at_once_than_memory_is_for() {
        let most = MOST_SHOWN as u32;
        let mut scratch = Scratch::new(most + 100);
        for number in 0..most + 100 {
            let record = FlowRecord { last_seen: number, ..tcp(number) };
            assert!(scratch.table.adopt(&record, None));
        }
        let (timeouts, filter) = (Timeouts::default(), Filter::default());
        let (total, shown) =
            newest(&scratch.table, &[], &timeouts, &filter, u32::MAX as usize, most + 100);
        assert_eq!((total, shown.len()), (u64::from(most) + 100, MOST_SHOWN));
    }
}
