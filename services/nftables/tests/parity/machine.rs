//! What a table does with the first packet of a connection: its rules, taken literally.

use std::net::IpAddr;

use portcullis_nftables::ruleset::*;
use portcullis_policy::Packet;

/// Fate of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    Accepted,
    Dropped,
    Rejected(Reject),
}

/// Runs a packet through the chain `base`.
pub fn run(table: &Table, base: &str, packet: &Packet, devices: (&str, &str)) -> Fate {
    let machine = Machine { table, packet, devices };
    match machine.chain(base) {
        Step::Ended(fate) => fate,
        Step::Returned => Fate::Dropped,
    }
}

struct Machine<'a> {
    table: &'a Table,
    packet: &'a Packet,
    devices: (&'a str, &'a str),
}

enum Step {
    Ended(Fate),
    Returned,
}

impl Machine<'_> {
    fn chain(&self, name: &str) -> Step {
        let chain = self.table.chains.iter().find(|chain| chain.name == name).expect(name);
        for rule in &chain.rules {
            if let Some(step) = self.rule(rule) {
                return step;
            }
        }
        Step::Returned
    }

    /// What a rule decides, if anything.
    fn rule(&self, rule: &Rule) -> Option<Step> {
        for statement in &rule.0 {
            match statement {
                // Our packets have no routing header: neither equal nor unequal.
                Statement::Match(Match {
                    field: Field::RoutingType | Field::SegmentsLeft, ..
                }) => return None,
                Statement::Match(comparison) => {
                    if self.fits(comparison) == comparison.negated {
                        return None;
                    }
                }
                Statement::Counter(name) => {
                    assert!(self.table.counters.iter().any(|one| one.name == *name), "{name}");
                }
                Statement::Limit(_) | Statement::Log(_) => {}
                Statement::Reject(answer) => return Some(Step::Ended(Fate::Rejected(*answer))),
                Statement::Verdict(verdict) => return self.verdict(verdict),
                Statement::VerdictMap(field, map) => {
                    let key = self.field(*field);
                    let set = self.set(map);
                    let verdict = set.elements.iter().find_map(|element| match element {
                        Element::Verdict(value, verdict) if *value == key => Some(verdict),
                        _ => None,
                    })?;
                    return self.verdict(verdict);
                }
                other => panic!("{other:?} decides nothing here"),
            }
        }
        None
    }

    fn verdict(&self, verdict: &Verdict) -> Option<Step> {
        match verdict {
            Verdict::Accept => Some(Step::Ended(Fate::Accepted)),
            Verdict::Drop => Some(Step::Ended(Fate::Dropped)),
            Verdict::Return => Some(Step::Returned),
            Verdict::Goto(chain) => Some(self.chain(chain)),
            Verdict::Jump(chain) => match self.chain(chain) {
                Step::Returned => None,
                ended => Some(ended),
            },
        }
    }

    fn set(&self, name: &str) -> &Set {
        self.table.sets.iter().find(|set| set.name == name).expect(name)
    }

    fn fits(&self, comparison: &Match) -> bool {
        let value = self.field(comparison.field);
        match &comparison.operand {
            Operand::Value(other) => value == *other,
            Operand::Range(first, last) => *first <= value && value <= *last,
            Operand::Prefix(address, length) => {
                let bits = |value: &Value| {
                    let bytes = value.bytes();
                    let all: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
                    all[..usize::from(*length)].to_owned()
                };
                bits(&value) == bits(address)
            }
            Operand::Set(name) => self.set(name).elements.iter().any(|element| match element {
                Element::Value(other) => value == *other,
                Element::Range(first, last) => *first <= value && value <= *last,
                other => panic!("{other:?}"),
            }),
            Operand::Bits(bits) => match value {
                Value::Host(number) => number & bits != 0,
                other => panic!("{other:?}"),
            },
            Operand::Masked(..) => panic!("no rule of the policy masks"),
        }
    }

    fn field(&self, field: Field) -> Value {
        let Packet { source, destination, protocol, .. } = self.packet;
        let [kind, code] = self.packet.destination_port.to_be_bytes();
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Value::Ipv4(*address),
            IpAddr::V6(_) => panic!("an IPv4 address is asked of IPv6"),
        };
        let v6 = |address: &IpAddr| match address {
            IpAddr::V6(address) => Value::Ipv6(*address),
            IpAddr::V4(_) => panic!("an IPv6 address is asked of IPv4"),
        };
        let of = |wanted: &[u8], value| {
            assert!(wanted.contains(protocol), "{field:?} is asked of protocol {protocol}");
            value
        };
        match field {
            Field::InputName => Value::Name(self.devices.0.to_owned()),
            Field::OutputName => Value::Name(self.devices.1.to_owned()),
            Field::InputType => Value::Host16(1),
            Field::Family => Value::Byte(if source.is_ipv4() { 2 } else { 10 }),
            Field::Protocol => Value::Byte(*protocol),
            Field::Source4 => v4(source),
            Field::Destination4 => v4(destination),
            Field::Source6 => v6(source),
            Field::Destination6 => v6(destination),
            Field::SourceMac => Value::Mac(self.packet.mac),
            Field::SourcePort => of(&[6, 17], Value::Port(self.packet.source_port)),
            Field::DestinationPort => of(&[6, 17], Value::Port(self.packet.destination_port)),
            Field::IcmpType => of(&[1], Value::Byte(kind)),
            Field::IcmpCode => of(&[1], Value::Byte(code)),
            Field::Icmpv6Type => of(&[58], Value::Byte(kind)),
            Field::Icmpv6Code => of(&[58], Value::Byte(code)),
            Field::State => Value::Host(ct_state::NEW),
            Field::Mark => Value::Host(0),
            Field::Cast => Value::Byte(0),
            other => panic!("{other:?} is no part of a policy"),
        }
    }
}
