//! From the document to rules without names: zones as bits, sets filled in, prefixes of interfaces
//! put before the hosts behind them, schedules compared with the clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use portcullis_datapath_abi::{
    classifier::Dimension,
    policy::{MAX_ZONES, NO_RULE, ROUTER},
};
use portcullis_model::{
    Action, Label, Name,
    firewall::{AddressRanges, IcmpMatch, Protocol, RateLimit, Rule, Sets, ZoneMatch},
    part::FirewallPart,
};

use crate::{Intervals, schedule};

/// What the document does not say.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Ids of the zones, 1 to 31.
    pub zones: BTreeMap<Name, u8>,
    /// Addresses of each interface now, with prefix length.
    pub addresses: BTreeMap<Name, Vec<IpNet>>,
    /// Interface of the default route, if there is one. Only [`crate::explain()`] asks for it.
    pub default_route: Option<Name>,
    /// The time, seconds since 1970.
    pub unix_s: u64,
    /// Numbers that rules have already, by name: they keep them.
    pub numbers: BTreeMap<Label, u16>,
}

/// A rule without names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResolvedRule {
    /// What reports call it.
    pub name: Label,
    /// What flows and events call it.
    pub number: u16,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Whether it is enabled and its schedule holds.
    pub active: bool,
    /// The schedule that it has, if any.
    pub schedule: Option<Name>,
    /// Ids of the zones that flows come from, a bit for each.
    pub from: u32,
    /// Ids of the zones that they go to; bit 0 is the router.
    pub to: u32,
    /// What it asks of each [`Dimension`]; `None` for nothing.
    pub fields: [Option<Intervals>; 5],
    /// What happens.
    pub action: Action,
    /// Whether it is logged.
    pub log: bool,
    /// Whether mappings are open to anybody.
    pub full_cone: bool,
    /// New flows a second.
    pub rate_limit: Option<RateLimit>,
    /// Flows of one source.
    pub connections: Option<u32>,
}

/// What happens between two zones where no rule decides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PairDefault {
    /// What happens.
    pub action: Action,
    /// Whether it is logged.
    pub log: bool,
}

impl Default for PairDefault {
    fn default() -> Self {
        Self { action: Action::Deny, log: false }
    }
}

/// Rules in order, and what happens without them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Resolved {
    /// The rules, inactive ones too, in the order in which they are asked.
    pub rules: Vec<ResolvedRule>,
    /// Defaults by ids of the zones; others are refused.
    pub pairs: BTreeMap<(u8, u8), PairDefault>,
    /// Zone ids are below this.
    pub zones: u8,
}

/// A packet as rules see it: a number in each dimension.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Point {
    /// Id of the zone that it comes from.
    pub from: u8,
    /// Id of the zone that it goes to.
    pub to: u8,
    /// By [`Dimension`].
    pub values: [u128; 5],
}

impl ResolvedRule {
    /// Whether it fits a packet.
    pub fn fits(&self, point: &Point) -> bool {
        self.zones(point.from, point.to)
            && self.fields.iter().zip(&point.values).all(|(field, value)| {
                field.as_ref().is_none_or(|intervals| intervals.contains(*value))
            })
    }

    /// Whether it is for flows between two zones.
    pub fn zones(&self, from: u8, to: u8) -> bool {
        let has = |mask: u32, id: u8| mask.checked_shr(id.into()).unwrap_or(0) & 1 == 1;
        has(self.from, from) && has(self.to, to)
    }

    /// What it asks of a dimension.
    pub fn field(&self, dimension: Dimension) -> Option<&Intervals> {
        self.fields.get(dimension as usize)?.as_ref()
    }

    /// Whether no packet fits it.
    pub fn is_empty(&self) -> bool {
        self.from == 0 || self.to == 0 || self.fields.iter().flatten().any(Intervals::is_empty)
    }
}

impl Resolved {
    /// What happens between two zones where no rule decides.
    pub fn default_of(&self, from: u8, to: u8) -> PairDefault {
        self.pairs.get(&(from, to)).copied().unwrap_or_default()
    }
}

/// Resolves the rules and policies of a valid part.
pub fn resolve(part: &FirewallPart, surroundings: &Surroundings) -> Resolved {
    let firewall = &part.firewall;
    let sets = Sets::of(firewall);
    let numbers = number(firewall.rules.iter().map(|rule| &rule.name), &surroundings.numbers);
    let all_zones = surroundings.zones.values().fold(0, |mask, id| mask | bit(*id));
    let resolver = Resolver { part, surroundings, sets, all_zones };
    let rules = firewall.rules.iter().filter_map(|rule| {
        // More rules than numbers is more than a document may have.
        numbers.get(&rule.name).map(|number| resolver.rule(rule, *number))
    });
    let id = |name: &Name| surroundings.zones.get(name).copied();
    let mut pairs = BTreeMap::new();
    for policy in &firewall.policies {
        if let (Some(from), Some(to)) = (id(&policy.from), id(&policy.to)) {
            // The first that fits decides.
            pairs
                .entry((from, to))
                .or_insert(PairDefault { action: policy.action, log: policy.log });
        }
    }
    let zones = surroundings.zones.values().max().copied().unwrap_or(0).saturating_add(1);
    Resolved { rules: rules.collect(), pairs, zones }
}

/// Numbers for all names: known ones keep theirs, the others get the lowest that are free.
fn number<'a>(
    names: impl Iterator<Item = &'a Label> + Clone,
    known: &BTreeMap<Label, u16>,
) -> BTreeMap<&'a Label, u16> {
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for name in names.clone() {
        if let Some(number) = known.get(name)
            && *number != NO_RULE
            && taken.insert(*number)
        {
            numbers.insert(name, *number);
        }
    }
    let mut free = (0..NO_RULE).filter(|number| !taken.contains(number));
    for name in names {
        if !numbers.contains_key(name)
            && let Some(number) = free.next()
        {
            numbers.insert(name, number);
        }
    }
    numbers
}

fn bit(id: u8) -> u32 {
    if u32::from(id) < MAX_ZONES { 1 << id } else { 0 }
}

struct Resolver<'a> {
    part: &'a FirewallPart,
    surroundings: &'a Surroundings,
    sets: Sets,
    all_zones: u32,
}

impl Resolver<'_> {
    fn rule(&self, rule: &Rule, number: u16) -> ResolvedRule {
        let scheduled = rule.schedule.as_ref().is_none_or(|name| {
            let schedule = self.part.firewall.schedules.get(name);
            schedule.is_some_and(|schedule| schedule::holds(schedule, self.surroundings.unix_s))
        });
        let addresses =
            |list: &[_]| (!list.is_empty()).then(|| address_intervals(&self.sets.addresses(list)));
        ResolvedRule {
            name: rule.name.clone(),
            number,
            enabled: rule.enabled,
            active: rule.enabled && scheduled,
            schedule: rule.schedule.clone(),
            from: self.zones(&rule.from),
            to: self.zones(&rule.to),
            fields: [
                self.services(rule),
                addresses(&rule.sources),
                self.destinations(rule),
                self.source_ports(rule),
                macs(rule),
            ]
            .map(|field| field.filter(|field| !is_everything(field))),
            action: rule.action,
            log: rule.log,
            full_cone: rule.full_cone,
            rate_limit: rule.rate_limit,
            connections: rule.connections_per_source,
        }
    }

    fn zones(&self, zones: &ZoneMatch) -> u32 {
        match zones {
            ZoneMatch::Any => self.all_zones,
            ZoneMatch::These(names) => names.iter().fold(0, |mask, name| {
                let id = match name.as_str() {
                    portcullis_model::firewall::ROUTER => Some(ROUTER),
                    _ => self.surroundings.zones.get(name).copied(),
                };
                mask | id.map_or(0, bit)
            }),
        }
    }

    fn destinations(&self, rule: &Rule) -> Option<Intervals> {
        if rule.destinations.is_empty() && rule.destination_hosts.is_empty() {
            return None;
        }
        let mut list: Vec<_> =
            address_intervals(&self.sets.addresses(&rule.destinations)).iter().collect();
        for host in &rule.destination_hosts {
            let networks = self.surroundings.addresses.get(&host.interface).into_iter().flatten();
            for network in networks {
                if let IpNet::V6(network) = network
                    && !network.addr().is_unicast_link_local()
                {
                    let address = number_of(host.suffix.within(network.addr()).into());
                    list.push((address, address));
                }
            }
        }
        Some(Intervals::of(list))
    }

    fn services(&self, rule: &Rule) -> Option<Intervals> {
        if rule.protocols.is_empty() {
            return None;
        }
        let ports = self.sets.ports(&rule.destination_ports);
        let mut list = Vec::new();
        for protocol in &rule.protocols {
            let service = |low: u16, high: u16| {
                (service_number(protocol.0, low), service_number(protocol.0, high))
            };
            if !rule.destination_ports.is_empty() {
                list.extend(ports.iter().map(|range| service(range.first(), range.last())));
            } else if !rule.icmp_types.is_empty() {
                list.extend(rule.icmp_types.iter().map(|kind| {
                    let (low, high) = icmp(*protocol, *kind);
                    service(low, high)
                }));
            } else {
                list.push(service(0, u16::MAX));
            }
        }
        Some(Intervals::of(list))
    }

    fn source_ports(&self, rule: &Rule) -> Option<Intervals> {
        if rule.source_ports.is_empty() {
            return None;
        }
        let ports = self.sets.ports(&rule.source_ports);
        let ends = |range: &portcullis_model::firewall::PortRange| {
            (u128::from(range.first()), u128::from(range.last()))
        };
        Some(Intervals::of(ports.iter().map(ends).collect()))
    }
}

fn macs(rule: &Rule) -> Option<Intervals> {
    if rule.macs.is_empty() {
        return None;
    }
    let number = |mac: &portcullis_model::MacAddress| {
        let number = mac_number(mac.0);
        (number, number)
    };
    Some(Intervals::of(rule.macs.iter().map(number).collect()))
}

/// Types and codes as one number, `type << 8 | code`.
fn icmp(protocol: Protocol, kind: IcmpMatch) -> (u16, u16) {
    match kind {
        IcmpMatch::EchoRequest => {
            let kind: u16 = if protocol == Protocol::ICMPV6 { 128 } else { 8 };
            (kind << 8, kind << 8 | 0xff)
        }
        IcmpMatch::Type { kind, code: None } => (u16::from(kind) << 8, u16::from(kind) << 8 | 0xff),
        IcmpMatch::Type { kind, code: Some(code) } => {
            let both = u16::from(kind) << 8 | u16::from(code);
            (both, both)
        }
    }
}

/// All addresses of both families are the same as none asked for.
fn is_everything(field: &Intervals) -> bool {
    field.covers(&Intervals::of(vec![(0, u128::MAX)]))
}

/// First and last number of IPv4 addresses among those of IPv6 (::ffff:0:0/96).
const MAPPED: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// An address as a number: IPv4 as ::ffff:a.b.c.d.
pub fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => MAPPED.0 | u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address that a number stands for.
pub fn address_of(number: u128) -> IpAddr {
    if (MAPPED.0..=MAPPED.1).contains(&number) {
        Ipv4Addr::from_bits((number & 0xffff_ffff) as u32).into()
    } else {
        Ipv6Addr::from_bits(number).into()
    }
}

/// Protocol and destination port (or ICMP type and code) as a number.
pub fn service_number(protocol: u8, port: u16) -> u128 {
    u128::from(protocol) << 16 | u128::from(port)
}

/// A hardware address as a number.
pub fn mac_number(mac: [u8; 6]) -> u128 {
    mac.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn address_intervals(ranges: &AddressRanges) -> Intervals {
    let number = |address: IpAddr| number_of(address);
    let v4 = ranges.v4.iter().map(|(low, high)| (number((*low).into()), number((*high).into())));
    let v6 = ranges.v6.iter().map(|(low, high)| (low.to_bits(), high.to_bits()));
    // IPv4 addresses are no part of ::/0.
    let v6 = Intervals::of(v6.collect()).without(&Intervals::of(vec![MAPPED]));
    Intervals::of(v4.chain(v6.iter()).collect())
}
