//! What is dropped before anything else is asked: blocklist, bogons, floods.

use std::{collections::BTreeSet, net::Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use portcullis_model::{
    Name,
    firewall::{AddressRanges, FloodLimit},
};

use super::{
    Compiler,
    forward::{MANGLE, pass_known},
    matches::{
        Family, ICMP, ICMPV6, TCP, UDP, drop, is_not, jump, net_range, protocol, ranges4, ranges6,
        rule, within,
    },
};
use crate::ruleset::{
    ChainType, Field, Hook, Meter, Operand, Rate, Rule, Set, Statement, Type, Value,
};

/// fe80::/10
const LINK_LOCAL: IpNet =
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));

impl Compiler<'_> {
    pub(super) fn guard(&mut self) {
        let mut rules = self.blocklist();
        let mut of_first = self.bogons();
        of_first.extend(self.floods());
        if !of_first.is_empty() {
            // What is known has passed here before.
            rules.push(pass_known());
            rules.extend(of_first);
        }
        if !rules.is_empty() {
            self.base("guard", ChainType::Filter, Hook::Prerouting, MANGLE, rules);
        }
    }

    /// All packets are asked: connections of an address that comes onto the list end.
    fn blocklist(&mut self) -> Vec<Rule> {
        let list = self.resolved.addresses(&self.firewall.protection.blocklist);
        let refused = [self.count("drop.blocklist", None), drop()];
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let (key, ranges) = by_family(family, &list);
            if ranges.is_empty() {
                continue;
            }
            let set = Set::intervals(format!("blocklist{}", family.digit()), key, ranges);
            let set = self.pool.named(set);
            let destination = match family {
                Family::V4 => Field::Destination4,
                Family::V6 => Field::Destination6,
            };
            for field in [family.source(), destination] {
                let matched = [family.statement(), within(field, set.clone())];
                rules.push(rule(matched, refused.iter().cloned()));
            }
        }
        rules
    }

    /// Sources that cannot be on the internet, but for the networks of the zone itself, its links
    /// among them: there are routers behind routers.
    fn bogons(&mut self) -> Vec<Rule> {
        let firewall = self.firewall;
        let zones = firewall.zones.iter().filter(|(_, zone)| zone.bogons);
        let zones: BTreeSet<&Name> = zones.map(|(name, _)| name).collect();
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let is_family = |net: &&IpNet| net.addr().is_ipv4() == (family == Family::V4);
            let bogons: Vec<(Value, Value)> =
                self.site.bogons.iter().filter(is_family).map(net_range).collect();
            if bogons.is_empty() {
                continue;
            }
            let key = family.addresses();
            let set = Set::intervals(format!("bogons{}", family.digit()), key, bogons);
            for zone in &zones {
                let Some(from) = self.arrives_by(zone) else { continue };
                let interfaces = self.site.interfaces.iter().filter(|one| one.zone == **zone);
                let own: Vec<IpNet> = interfaces
                    .flat_map(|one| &one.addresses)
                    .map(IpNet::trunc)
                    .chain([LINK_LOCAL])
                    .collect();
                let own = own.iter().filter(is_family).map(net_range);
                let except = Set::intervals(format!("own{}.{zone}", family.digit()), key, own);
                let refused = [self.count("drop.bogon", Some((zone.as_str(), ""))), drop()];
                let mut matched = vec![
                    from,
                    family.statement(),
                    within(family.source(), self.pool.named(set.clone())),
                ];
                if !except.elements.is_empty() {
                    let except = Operand::Set(self.pool.named(except.clone()));
                    matched.push(is_not(family.source(), except));
                }
                rules.push(rule(matched, refused));
            }
        }
        rules
    }

    /// Limits of first packets: of each source (of the /64 for IPv6), then of all.
    fn floods(&mut self) -> Vec<Rule> {
        let firewall = self.firewall;
        let protection = &firewall.protection;
        let zones: BTreeSet<&Name> = match &protection.zones {
            Some(zones) => zones.iter().collect(),
            None => {
                let outside = firewall.zones.iter().filter(|(_, zone)| zone.masquerade);
                outside.map(|(name, _)| name).collect()
            }
        };
        let names = zones.iter().filter_map(|zone| self.zones.get(*zone)).flatten();
        let names: Vec<Value> = names.map(|device| Value::Name((*device).to_owned())).collect();
        let name = || "flood.devices".to_owned();
        let Some(from) = self.pool.among(Field::InputName, Type::InterfaceName, names, name) else {
            return Vec::new();
        };
        let exempt = self.resolved.addresses(&protection.exempt);
        let mut rules = Vec::new();
        for (class, limit, protocols) in [
            ("syn", protection.syn, [(TCP, Family::V4), (TCP, Family::V6)]),
            ("udp", protection.udp, [(UDP, Family::V4), (UDP, Family::V6)]),
            ("icmp", protection.icmp, [(ICMP, Family::V4), (ICMPV6, Family::V6)]),
        ] {
            let total = self.total(class, limit);
            for (transport, family) in protocols {
                let mut matched = vec![from.clone(), protocol(transport), family.statement()];
                let (key, ranges) = by_family(family, &exempt);
                if !ranges.is_empty() {
                    let name = format!("flood.exempt{}", family.digit());
                    let set = self.pool.named(Set::intervals(name, key, ranges));
                    matched.push(is_not(family.source(), Operand::Set(set)));
                }
                rules.extend(self.flood(class, limit, family, &matched));
                rules
                    .extend(total.iter().map(|chain| rule(matched.iter().cloned(), [jump(chain)])));
            }
        }
        rules
    }

    fn flood(
        &mut self,
        class: &str,
        limit: FloodLimit,
        family: Family,
        matched: &[Statement],
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        if limit.per_source != 0 {
            let name = format!("flood.{class}{}", family.digit());
            let set = self.pool.accounts(name, family, false);
            let key = match family {
                Family::V4 => Field::Source4,
                Family::V6 => Field::SourceNetwork6,
            };
            let meter = Meter::Rate(per_second(limit.per_source));
            let refused = [self.count("drop.flood-source", None), drop()];
            let beyond = matched.iter().cloned().chain([Statement::Meter { set, key, meter }]);
            rules.push(rule(beyond, refused));
        }
        rules
    }

    /// The chain with the limit of all senders of both families together.
    fn total(&mut self, class: &str, limit: FloodLimit) -> Option<String> {
        if limit.total == 0 {
            return None;
        }
        let chain = format!("flood.{class}");
        let refused = [self.count("drop.flood-total", None), drop()];
        self.chain(&chain, vec![rule([Statement::Over(per_second(limit.total))], refused)]);
        Some(chain)
    }
}

const fn per_second(per_second: u32) -> Rate {
    Rate { per_second, burst: per_second }
}

fn by_family(family: Family, ranges: &AddressRanges) -> (Type, Vec<(Value, Value)>) {
    let of_family = match family {
        Family::V4 => ranges4(&ranges.v4),
        Family::V6 => ranges6(&ranges.v6),
    };
    (family.addresses(), of_family)
}
