//! Translation of destinations: port forwards and 1:1.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use portcullis_model::firewall::{AddressRanges, ForwardProtocol, PortForward, PortRange};

use super::{
    Compiler,
    matches::{Family, MARK_BACK, MARK_FORWARD, TCP, UDP, protocol, rule},
};
use crate::ruleset::{
    Address, ChainType, Field, Hook, Nat, NatKind, Port, Rule, Set, Statement, Type, Value,
};

/// `NF_IP_PRI_NAT_DST`.
const PRIORITY: i32 = -100;

impl Compiler<'_> {
    pub(super) fn port_forwards_and_static(&mut self) {
        let firewall = self.firewall;
        let mut rules = Vec::new();
        for forward in firewall.port_forwards.iter().filter(|forward| forward.enabled) {
            rules.extend(self.port_forward(forward));
        }
        // Where the zone has no device nothing is to be seen of it, but hosts of other zones may
        // know the address.
        let entries: Vec<(Value, Value)> = firewall
            .static_nat
            .iter()
            .map(|entry| (Value::Ipv4(entry.external), Value::Ipv4(entry.internal)))
            .collect();
        if !entries.is_empty() {
            let map = Set::map("static.inward".to_owned(), Type::Ipv4, Type::Ipv4, once(entries));
            let map = self.pool.named(map);
            // The map decides; the mark is for what it has.
            let known = self.static_externals();
            let nat = Nat {
                kind: NatKind::Destination,
                address: Address::Map(Field::Destination4, map),
                port: None,
            };
            let mut statements = vec![Family::V4.statement()];
            statements.extend(known);
            statements.push(Statement::ConnectionMark(MARK_BACK));
            rules.push(rule(statements, [Statement::Nat(nat)]));
        }
        if !rules.is_empty() {
            self.base("destination", ChainType::Nat, Hook::Prerouting, PRIORITY, rules);
        }
    }

    fn static_externals(&mut self) -> Vec<Statement> {
        let externals = self.firewall.static_nat.iter().map(|entry| Value::Ipv4(entry.external));
        let name = || "static.externals".to_owned();
        self.pool.among(Field::Destination4, Type::Ipv4, externals, name).into_iter().collect()
    }

    /// The external addresses of a port forward.
    pub(super) fn externals(&self, forward: &PortForward) -> Vec<Ipv4Addr> {
        if !forward.addresses.is_empty() {
            return forward.addresses.clone();
        }
        let interfaces = self.site.interfaces.iter().filter(|one| one.zone == forward.zone);
        interfaces
            .flat_map(|one| &one.addresses)
            .filter_map(|net| match net {
                IpNet::V4(net) => Some(net.addr()),
                IpNet::V6(_) => None,
            })
            .collect()
    }

    fn port_forward(&mut self, forward: &PortForward) -> Vec<Rule> {
        let name = &forward.name;
        let externals = self.externals(forward);
        let mut ends = vec![Family::V4.statement()];
        let values = externals.into_iter().map(Value::Ipv4);
        let set = || format!("port-forward.{name}.addresses");
        let Some(destination) = self.pool.among(Field::Destination4, Type::Ipv4, values, set)
        else {
            // No address at the moment.
            return Vec::new();
        };
        ends.push(destination);
        if !forward.sources.is_empty() {
            let sources: AddressRanges = self.resolved.addresses(&forward.sources);
            let set = || format!("port-forward.{name}.sources");
            match self.addresses(Field::Source4, Family::V4, &sources, set) {
                Some(matches) => ends.extend(matches),
                None => return Vec::new(),
            }
        }
        let ports =
            forward.ports.iter().map(|one| (Value::Port(one.first()), Value::Port(one.last())));
        let set = || format!("port-forward.{name}.ports");
        let Some(ports) =
            self.pool.within(Field::DestinationPort, Type::Port, ports.collect(), set)
        else {
            return Vec::new();
        };
        let nat = Nat {
            kind: NatKind::Destination,
            address: Address::One(IpAddr::V4(forward.to)),
            port: self.new_port(forward),
        };
        // From its own zone it passes where no rule decides; from others only back into theirs.
        let mut ways = Vec::new();
        if let Some(own) = self.arrives_by(&forward.zone) {
            ways.push((Some(own), MARK_FORWARD));
        }
        if forward.hairpin {
            ways.push((None, MARK_BACK));
        }
        let protocols: &[u8] = match forward.protocol {
            ForwardProtocol::Tcp => &[TCP],
            ForwardProtocol::Udp => &[UDP],
            ForwardProtocol::Both => &[TCP, UDP],
        };
        let mut rules = Vec::new();
        for (way, mark) in ways {
            for transport in protocols {
                let mut matched: Vec<Statement> = way.iter().cloned().collect();
                matched.extend(ends.iter().cloned());
                matched.push(protocol(*transport));
                matched.extend(ports.iter().cloned());
                if forward.log {
                    let log = self.log(format!("port-forward {name} "));
                    rules.push(rule(matched.clone(), log));
                }
                let translated = [Statement::ConnectionMark(mark), Statement::Nat(nat.clone())];
                rules.push(rule(matched, translated));
            }
        }
        rules
    }

    /// The port inside: the same, another, or one for each of a range.
    fn new_port(&mut self, forward: &PortForward) -> Option<Port> {
        let to = forward.to_port?;
        let range: PortRange = *forward.ports.first()?;
        if range.first() == to {
            return None;
        }
        if range.first() == range.last() {
            return Some(Port::One(to));
        }
        let entries = (range.first()..=range.last())
            .zip(to..=u16::MAX)
            .map(|(outside, inside)| (Value::Port(outside), Value::Port(inside)));
        let name = format!("port-forward.{}.to", forward.name);
        let map = self.pool.named(Set::map(name, Type::Port, Type::Port, entries));
        Some(Port::Map(Field::DestinationPort, map))
    }
}

/// Of entries with the same key the first.
fn once(entries: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
    let mut seen = std::collections::BTreeSet::new();
    entries.into_iter().filter(|(key, _)| seen.insert(key.clone())).collect()
}
