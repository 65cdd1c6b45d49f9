//! Showing what connection tracking has.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
};

use ipnet::IpNet;
use portcullis_bus::{
    firewall::{FlowQuery, FlowRecord},
    network::InterfaceStatus,
};
use portcullis_model::{Firewall, Name, Timeouts, firewall::ROUTER};
use portcullis_nftables::conntrack::Flow;
use portcullis_policy::Packet;

use super::{place::zone_of, touches};
use crate::{
    listing::{MOST_SHOWN, net, protocol_name, protocol_number},
    reevaluate::{Outside, with_icmp_type},
};

/// The first packet of a flow as rules see it, and what it addressed if that was translated; none of
/// the router's own flows and of zones without an id.
pub fn first_packet(
    flow: &Flow,
    interfaces: &[InterfaceStatus],
    ids: &BTreeMap<Name, u8>,
) -> Option<(Packet, Option<Outside>)> {
    let (source, destination) = (flow.source, flow.translated_destination);
    let from = ids.get(zone_of(source.ip(), interfaces))?;
    let to = match zone_of(destination.ip(), interfaces) {
        ROUTER => &0,
        zone => ids.get(zone)?,
    };
    let packet = Packet {
        from: *from,
        to: *to,
        source: source.ip(),
        destination: destination.ip(),
        protocol: flow.protocol,
        source_port: source.port(),
        destination_port: destination.port(),
        mac: [0; 6],
    };
    let addressed = flow.destination;
    let outside = (addressed != destination)
        .then(|| Outside { address: addressed.ip(), port: addressed.port() });
    Some((with_icmp_type(packet), outside))
}

/// The most recently active flows of those that fit.
pub struct Newest<'a> {
    interfaces: &'a [InterfaceStatus],
    timeouts: &'a Timeouts,
    limit: usize,
    net: Option<IpNet>,
    port: Option<u16>,
    zone: Option<&'a str>,
    protocol: Option<u8>,
    total: u64,
    /// The longest idle one is on top, to be replaced.
    newest: BinaryHeap<Idle>,
}

struct Idle(u32, Flow);

impl PartialEq for Idle {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Idle {}

impl PartialOrd for Idle {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Idle {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<'a> Newest<'a> {
    /// For a query.
    ///
    /// # Errors
    /// Which field says nothing that could be looked for.
    pub fn of(
        query: &'a FlowQuery,
        interfaces: &'a [InterfaceStatus],
        firewall: &'a Firewall,
    ) -> Result<Self, String> {
        let wanted = |text: &'a str| (!text.is_empty()).then_some(text);
        let net = wanted(&query.host).map(|host| {
            net(host).ok_or_else(|| {
                format!("host: {host} is not an address or prefix like 192.168.1.0/24")
            })
        });
        let protocol = wanted(&query.protocol).map(|name| {
            protocol_number(name).ok_or_else(|| {
                format!("protocol: {name} is not tcp, udp, icmp, icmpv6 or 0 to 255")
            })
        });
        let zone = wanted(&query.zone).map(|name| {
            let known = name == ROUTER || firewall.zones.contains_key(name);
            known.then_some(name).ok_or_else(|| format!("zone: there is no {name}"))
        });
        Ok(Self {
            interfaces,
            timeouts: &firewall.timeouts,
            limit: (query.limit as usize).min(MOST_SHOWN),
            net: net.transpose()?,
            port: (query.port != 0).then_some(query.port),
            zone: zone.transpose()?,
            protocol: protocol.transpose()?,
            total: 0,
            newest: BinaryHeap::new(),
        })
    }

    /// Takes one.
    pub fn add(&mut self, flow: Flow) {
        self.total += 1;
        if !self.fits(&flow) {
            return;
        }
        self.newest.push(Idle(flow.idle_s(self.timeouts), flow));
        if self.newest.len() > self.limit {
            self.newest.pop();
        }
    }

    fn fits(&self, flow: &Flow) -> bool {
        let ends =
            [flow.source, flow.destination, flow.translated_source, flow.translated_destination];
        self.net.is_none_or(|net| touches(flow, &net))
            && self.protocol.is_none_or(|protocol| flow.protocol == protocol)
            && self.port.is_none_or(|port| ends.iter().any(|end| end.port() == port))
            && self.zone.is_none_or(|zone| {
                let (from, to) = self.zones(flow);
                from == zone || to == zone
            })
    }

    fn zones(&self, flow: &Flow) -> (&'a str, &'a str) {
        let zone = |end: std::net::SocketAddr| zone_of(end.ip(), self.interfaces);
        (zone(flow.source), zone(flow.translated_destination))
    }

    /// How many there are in all, and the newest that fit.
    pub fn finish(mut self) -> (u64, Vec<FlowRecord>) {
        let newest = std::mem::take(&mut self.newest).into_sorted_vec();
        (
            self.total,
            newest.into_iter().map(|Idle(idle_s, flow)| self.show(&flow, idle_s)).collect(),
        )
    }

    fn show(&self, flow: &Flow, idle_s: u32) -> FlowRecord {
        let (from_zone, to_zone) = self.zones(flow);
        FlowRecord {
            protocol: protocol_name(flow.protocol),
            source: flow.source.to_string(),
            destination: flow.destination.to_string(),
            translated_source: flow.translated_source.to_string(),
            from_zone: from_zone.to_owned(),
            to_zone: to_zone.to_owned(),
            state: flow.state.name().to_owned(),
            packets_out: flow.out.packets,
            bytes_out: flow.out.bytes,
            packets_in: flow.back.packets,
            bytes_in: flow.back.bytes,
            idle_s,
            timeout_s: flow.timeout_s(self.timeouts),
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_model::Document;

    use super::*;

    #[test]
    fn what_cannot_be_looked_for_is_named_as_with_the_other_datapath() {
        let document = Document::parse("").unwrap_or_else(|error| panic!("{error}"));
        let asked = |query: &FlowQuery| {
            Newest::of(query, &[], &document.firewall).map(|newest| newest.limit)
        };
        let zone = |name: &str| FlowQuery { zone: name.to_owned(), ..FlowQuery::default() };
        assert_eq!(asked(&zone("dmz")), Err("zone: there is no dmz".to_owned()));
        assert_eq!(asked(&zone("lan")), Ok(0));
        assert_eq!(asked(&zone("router")), Ok(0));
        let all = FlowQuery { limit: u32::MAX, ..FlowQuery::default() };
        assert_eq!(asked(&all), Ok(MOST_SHOWN));
    }
}
