//! Rules: for which pairs of zones they stand, what they match, and what they do.

use std::collections::BTreeSet;

use portcullis_model::{
    Action, Name,
    firewall::{AddressRanges, IcmpMatch, Protocol, ROUTER, Rule as Model, ZoneMatch},
};

use super::{
    Compiler,
    bodies::Pair,
    matches::{Family, ICMP, ICMPV6, goto, is, jump, protocol, ranges4, ranges6, rule, within},
};
use crate::ruleset::{Field, Rule, Statement, Type, Value};

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// Rules one after the other that are for the same zones.
pub(super) struct Group<'a> {
    from: BTreeSet<&'a Name>,
    /// Zones; the router as itself.
    to: BTreeSet<&'a str>,
    /// Whether they stand in a chain of their own.
    chain: Option<String>,
    rules: Vec<Ready>,
}

/// A rule that is ready but for the pair of zones.
struct Ready {
    /// What it matches, each on its own.
    variants: Vec<Vec<Statement>>,
    then: Then,
}

enum Then {
    /// An action alone.
    Action(Action),
    /// The chain where more is done.
    Chain(String),
}

/// All rules in force, in order.
pub(super) fn groups<'a>(compiler: &mut Compiler<'a>) -> Vec<Group<'a>> {
    let firewall = compiler.firewall;
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (model, number) in firewall.rules.iter().zip(1_u32..) {
        let off =
            model.schedule.as_ref().is_some_and(|name| !compiler.site.schedules.contains(name));
        if !model.enabled || off {
            continue;
        }
        if model.full_cone {
            compiler.problems.push(format!(
                "rule {}: full_cone: nftables filters by address and port; the rule works without it",
                model.name
            ));
        }
        let variants = compiler.variants(model, number);
        if variants.is_empty() {
            continue;
        }
        let then = compiler.then(model, number);
        let ready = Ready { variants, then };
        let from = compiler.origins(&model.from);
        let to = compiler.targets(&model.to);
        match groups.last_mut() {
            Some(group) if group.from == from && group.to == to => group.rules.push(ready),
            _ => groups.push(Group { from, to, chain: None, rules: vec![ready] }),
        }
    }
    for (group, number) in groups.iter_mut().zip(1_u32..) {
        let pairs = group.from.len() * group.to.len();
        let size: usize = group.rules.iter().map(|ready| ready.variants.len()).sum();
        // A jump costs as much as a rule.
        if pairs > 1 && size > 1 {
            let name = format!("rules.{number}");
            let rules = group.rules.iter().flat_map(|one| one.rules(compiler, None)).collect();
            compiler.chain(&name, rules);
            group.chain = Some(name);
        }
    }
    groups
}

impl Group<'_> {
    /// Its rules for a pair of zones.
    pub(super) fn rules(&self, compiler: &mut Compiler<'_>, pair: Pair<'_>) -> Vec<Rule> {
        let (from, to) = pair;
        let concerned = self.to.contains(to) && self.from.iter().any(|name| name.as_str() == from);
        if !concerned {
            return Vec::new();
        }
        match &self.chain {
            Some(chain) => vec![rule([jump(chain)], [])],
            None => self.rules.iter().flat_map(|one| one.rules(compiler, Some(pair))).collect(),
        }
    }
}

impl Ready {
    fn rules(&self, compiler: &mut Compiler<'_>, pair: Option<Pair<'_>>) -> Vec<Rule> {
        let then = match &self.then {
            Then::Action(action) => compiler.verdict(*action, pair),
            Then::Chain(chain) => vec![goto(chain)],
        };
        self.variants.iter().map(|one| rule(one.iter().cloned(), then.iter().cloned())).collect()
    }
}

impl<'a> Compiler<'a> {
    fn origins(&self, zones: &'a ZoneMatch) -> BTreeSet<&'a Name> {
        match zones {
            ZoneMatch::Any => self.zones.keys().copied().collect(),
            ZoneMatch::These(names) => {
                names.iter().filter(|name| self.zones.contains_key(name)).collect()
            }
        }
    }

    fn targets(&self, zones: &'a ZoneMatch) -> BTreeSet<&'a str> {
        match zones {
            ZoneMatch::Any => self.zones.keys().map(|name| name.as_str()).collect(),
            ZoneMatch::These(names) => names
                .iter()
                .filter(|name| name.as_str() == ROUTER || self.zones.contains_key(name))
                .map(Name::as_str)
                .collect(),
        }
    }

    /// Makes the chain of a rule that does more than decide.
    fn then(&mut self, model: &Model, number: u32) -> Then {
        let chain = format!("rule.{number}");
        let mut rules = self.limits(&chain, model);
        if model.log {
            let action = match model.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Reject => "reject",
            };
            rules.push(rule(self.log(format!("rule {} {action} ", model.name)), []));
        }
        if rules.is_empty() {
            return Then::Action(model.action);
        }
        rules.push(rule(self.verdict(model.action, None), []));
        self.chain(&chain, rules);
        Then::Chain(chain)
    }

    /// What a rule matches: any of these. Addresses and ICMP are of one family each, so a rule can
    /// need several.
    fn variants(&mut self, model: &Model, number: u32) -> Vec<Vec<Statement>> {
        let sources = self.resolved.addresses(&model.sources);
        let mut destinations = self.resolved.addresses(&model.destinations);
        let hosts = self.hosts(model);
        destinations.v6.extend(hosts.v6);
        let any_source = model.sources.is_empty();
        let any_destination = model.destinations.is_empty() && model.destination_hosts.is_empty();
        let Some(link) = self.macs(model, number) else { return Vec::new() };
        let mut variants = Vec::new();
        for (family, protocols) in self.protocols(model, number) {
            let families: &[Option<Family>] = match family {
                Some(Family::V4) => &[Some(Family::V4)],
                Some(Family::V6) => &[Some(Family::V6)],
                None if any_source && any_destination => &[None],
                None => &[Some(Family::V4), Some(Family::V6)],
            };
            for family in families {
                let mut statements = link.clone();
                if let Some(family) = family {
                    statements.push(family.statement());
                    let source = (any_source, &sources, "sources");
                    let destination = (any_destination, &destinations, "destinations");
                    let ends = [source, destination].into_iter().zip(end_fields(*family));
                    let mut fits = true;
                    for ((any, ranges, what), field) in ends {
                        if any {
                            continue;
                        }
                        let name = || format!("rule.{number}.{what}{}", family.digit());
                        match self.addresses(field, *family, ranges, name) {
                            Some(matches) => statements.extend(matches),
                            None => fits = false,
                        }
                    }
                    if !fits {
                        continue;
                    }
                }
                statements.extend(protocols.iter().cloned());
                variants.push(statements);
            }
        }
        variants
    }

    pub(super) fn addresses(
        &mut self,
        field: Field,
        family: Family,
        ranges: &AddressRanges,
        name: impl FnOnce() -> String,
    ) -> Option<Vec<Statement>> {
        let ranges = match family {
            Family::V4 => ranges4(&ranges.v4),
            Family::V6 => ranges6(&ranges.v6),
        };
        self.pool.within(field, family.addresses(), ranges, name)
    }

    /// The addresses that hosts behind changing prefixes have now.
    fn hosts(&self, model: &Model) -> AddressRanges {
        let mut ranges = AddressRanges::default();
        for host in &model.destination_hosts {
            let interfaces = self.site.interfaces.iter().filter(|one| one.name == host.interface);
            for net in interfaces.flat_map(|one| &one.addresses) {
                if let ipnet::IpNet::V6(net) = net
                    && !net.addr().is_unicast_link_local()
                {
                    let address = host.suffix.within(net.addr());
                    ranges.v6.push((address, address));
                }
            }
        }
        ranges
    }

    /// Hardware addresses; none to match if the rule names none.
    fn macs(&mut self, model: &Model, number: u32) -> Option<Vec<Statement>> {
        if model.macs.is_empty() {
            return Some(Vec::new());
        }
        let values = model.macs.iter().map(|mac| Value::Mac(mac.0));
        let name = || format!("rule.{number}.macs");
        let matched = self.pool.among(Field::SourceMac, Type::Mac, values, name)?;
        Some(vec![is(Field::InputType, Value::Host16(ETHERNET)), matched])
    }

    /// Protocols with ports or ICMP messages, each with the family that it is of.
    fn protocols(&mut self, model: &Model, number: u32) -> Vec<(Option<Family>, Vec<Statement>)> {
        if !model.icmp_types.is_empty() {
            return self.messages(model, number);
        }
        if model.protocols.is_empty() {
            return vec![(None, Vec::new())];
        }
        let values = model.protocols.iter().map(|protocol| Value::Byte(protocol.0));
        let name = || format!("rule.{number}.protocols");
        let matched = self.pool.among(Field::Protocol, Type::Protocol, values, name);
        let mut statements: Vec<Statement> = matched.into_iter().collect();
        for (ports, field, what) in [
            (&model.source_ports, Field::SourcePort, "source-ports"),
            (&model.destination_ports, Field::DestinationPort, "destination-ports"),
        ] {
            if ports.is_empty() {
                continue;
            }
            let ranges = self.resolved.ports(ports);
            let ranges =
                ranges.iter().map(|one| (Value::Port(one.first()), Value::Port(one.last())));
            let name = || format!("rule.{number}.{what}");
            match self.pool.within(field, Type::Port, ranges.collect(), name) {
                Some(matches) => statements.extend(matches),
                // A set without ports.
                None => return Vec::new(),
            }
        }
        vec![(None, statements)]
    }

    /// ICMP messages: types together, those with a code each on its own.
    fn messages(&mut self, model: &Model, number: u32) -> Vec<(Option<Family>, Vec<Statement>)> {
        let mut variants = Vec::new();
        for (icmp, family, kind, code, key) in [
            (ICMP, Family::V4, Field::IcmpType, Field::IcmpCode, Type::IcmpType),
            (ICMPV6, Family::V6, Field::Icmpv6Type, Field::Icmpv6Code, Type::Icmpv6Type),
        ] {
            if !model.protocols.contains(&Protocol(icmp)) {
                continue;
            }
            let echo = if family == Family::V4 { 8 } else { 128 };
            let whole = model.icmp_types.iter().filter_map(|message| match message {
                IcmpMatch::EchoRequest => Some(echo),
                IcmpMatch::Type { kind, code: None } => Some(*kind),
                IcmpMatch::Type { .. } => None,
            });
            let values = whole.map(Value::Byte);
            let name = || format!("rule.{number}.types{}", family.digit());
            if let Some(matched) = self.pool.among(kind, key, values, name) {
                variants.push((Some(family), vec![protocol(icmp), matched]));
            }
            for message in &model.icmp_types {
                if let IcmpMatch::Type { kind: value, code: Some(of) } = message {
                    let statements = vec![
                        protocol(icmp),
                        is(kind, Value::Byte(*value)),
                        is(code, Value::Byte(*of)),
                    ];
                    variants.push((Some(family), statements));
                }
            }
        }
        variants
    }

    /// Whether a packet came by a zone; `None` if the zone has no device.
    pub(super) fn arrives_by(&mut self, zone: &Name) -> Option<Statement> {
        self.devices(zone).map(|set| within(Field::InputName, set))
    }

    /// Whether a packet leaves by a zone; `None` if the zone has no device.
    pub(super) fn leaves_by(&mut self, zone: &Name) -> Option<Statement> {
        self.devices(zone).map(|set| within(Field::OutputName, set))
    }
}

const fn end_fields(family: Family) -> [Field; 2] {
    match family {
        Family::V4 => [Field::Source4, Field::Destination4],
        Family::V6 => [Field::Source6, Field::Destination6],
    }
}
