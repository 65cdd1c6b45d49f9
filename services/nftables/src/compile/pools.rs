//! Translation of sources: hairpin, 1:1, pools, masquerade.

use std::net::{IpAddr, Ipv4Addr};

use portcullis_model::{Name, firewall::SourceNat};

use super::{
    Compiler,
    matches::{Family, matching, rule, within},
};
use crate::ruleset::{
    Address, ChainType, Field, Hook, Nat, NatKind, Operand, Rule, Set, Statement, Type, Value,
    ct_status,
};

/// `NF_IP_PRI_NAT_SRC`.
const PRIORITY: i32 = 100;

impl Compiler<'_> {
    pub(super) fn sources(&mut self) {
        let firewall = self.firewall;
        let mut rules = self.hairpins();
        let all = self.all_devices();
        for (name, zone) in &firewall.zones {
            let Some(leaving) = self.leaves_by(name) else { continue };
            // Not what the router itself sends: that has come by no device.
            let through =
                vec![within(Field::InputName, all.clone()), leaving, Family::V4.statement()];
            rules.extend(self.static_sources(name, &through));
            for (entry, number) in firewall.source_nat.iter().zip(1_u32..) {
                if entry.zone == *name {
                    rules.extend(self.pool_of(entry, number, &through));
                }
            }
            if zone.masquerade {
                rules.push(rule(through, [Statement::Masquerade]));
            }
        }
        if !rules.is_empty() {
            self.base("source", ChainType::Nat, Hook::Postrouting, PRIORITY, rules);
        }
    }

    /// A flow that goes back into the zone that it came from must have its answers come by the
    /// router: it takes the address that it was sent to (RFC 4787 REQ-9).
    fn hairpins(&mut self) -> Vec<Rule> {
        let firewall = self.firewall;
        let forwards = firewall.port_forwards.iter().filter(|one| one.enabled && one.hairpin);
        let mut externals: Vec<Ipv4Addr> = forwards.flat_map(|one| self.externals(one)).collect();
        externals.extend(firewall.static_nat.iter().map(|entry| entry.external));
        externals.sort();
        externals.dedup();
        if externals.is_empty() {
            return Vec::new();
        }
        let same = externals.into_iter().map(|one| (Value::Ipv4(one), Value::Ipv4(one)));
        let map = Set::map("hairpin".to_owned(), Type::Ipv4, Type::Ipv4, same);
        let map = self.pool.named(map);
        let zones: Vec<&Name> = self.zones.keys().copied().collect();
        let mut rules = Vec::new();
        for zone in zones {
            let (Some(from), Some(to)) = (self.arrives_by(zone), self.leaves_by(zone)) else {
                continue;
            };
            let nat = Nat {
                kind: NatKind::Source,
                address: Address::Map(Field::OriginalDestination4, map.clone()),
                port: None,
            };
            let translated = matching(Field::Status, Operand::Bits(ct_status::DNAT));
            rules.push(rule([from, to, Family::V4.statement(), translated], [Statement::Nat(nat)]));
        }
        rules
    }

    fn static_sources(&mut self, zone: &Name, through: &[Statement]) -> Option<Rule> {
        let entries = self.firewall.static_nat.iter().filter(|entry| entry.zone == *zone);
        let entries: Vec<(Value, Value)> = entries
            .map(|entry| (Value::Ipv4(entry.internal), Value::Ipv4(entry.external)))
            .collect();
        if entries.is_empty() {
            return None;
        }
        let name = format!("static.outward.{zone}");
        let map = self.pool.named(Set::map(name, Type::Ipv4, Type::Ipv4, entries));
        let address = Address::Map(Field::Source4, map);
        let nat = Nat { kind: NatKind::Source, address, port: None };
        Some(rule(through.iter().cloned(), [Statement::Nat(nat)]))
    }

    /// A pool. One of several ranges is chosen by the last bits of the source, so that a host keeps
    /// its address.
    fn pool_of(&mut self, entry: &SourceNat, number: u32, through: &[Statement]) -> Vec<Rule> {
        let mut matched = through.to_vec();
        if !entry.sources.is_empty() {
            let sources = self.resolved.addresses(&entry.sources);
            let name = || format!("source-nat.{number}.sources");
            match self.addresses(Field::Source4, Family::V4, &sources, name) {
                Some(matches) => matched.extend(matches),
                None => return Vec::new(),
            }
        }
        // Addresses that stand for one host are not for others.
        let statics = self.firewall.static_nat.iter().map(|entry| entry.external).collect();
        let ranges = self.resolved.addresses(&entry.addresses).v4_without(&statics);
        if ranges.is_empty() {
            self.problems.push(format!("source_nat {number}: there is no address to take"));
            return Vec::new();
        }
        let classes = u32::try_from(ranges.len().next_power_of_two()).unwrap_or(1);
        let mask = classes - 1;
        let mut rules = Vec::new();
        for (class, (first, last)) in (0..classes).zip(ranges.iter().cycle()) {
            let address = if first == last {
                Address::One(IpAddr::V4(*first))
            } else {
                Address::Range(IpAddr::V4(*first), IpAddr::V4(*last))
            };
            let mut statements = matched.clone();
            if mask != 0 {
                let bits = |bits: u32| Value::Ipv4(Ipv4Addr::from_bits(bits));
                let operand = Operand::Masked(bits(mask), bits(class));
                statements.push(matching(Field::Source4, operand));
            }
            let nat = Nat { kind: NatKind::Source, address, port: None };
            rules.push(rule(statements, [Statement::Nat(nat)]));
        }
        rules
    }
}
