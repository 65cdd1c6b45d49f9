//! Short forms of statements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::ruleset::{Field, Match, Operand, Rule, Statement, Type, Value, Verdict};

/// Protocols.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Connections of port forwards, from the zone that they are for: they pass where no rule decides.
pub(super) const MARK_FORWARD: u32 = 1;
/// Connections whose destination was translated otherwise: they pass where no rule decides, if they
/// go back into their zone.
pub(super) const MARK_BACK: u32 = 2;

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn source(self) -> Field {
        match self {
            Self::V4 => Field::Source4,
            Self::V6 => Field::Source6,
        }
    }

    /// What sets of its addresses hold.
    pub(super) const fn addresses(self) -> Type {
        match self {
            Self::V4 => Type::Ipv4,
            Self::V6 => Type::Ipv6,
        }
    }

    /// 4 or 6, for names.
    pub(super) const fn digit(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    pub(super) const fn statement(self) -> Statement {
        let number = match self {
            Self::V4 => 2,
            Self::V6 => 10,
        };
        is(Field::Family, Value::Byte(number))
    }
}

pub(super) const fn matching(field: Field, operand: Operand) -> Statement {
    Statement::Match(Match { field, negated: false, operand })
}

pub(super) const fn is(field: Field, value: Value) -> Statement {
    matching(field, Operand::Value(value))
}

pub(super) const fn is_not(field: Field, operand: Operand) -> Statement {
    Statement::Match(Match { field, negated: true, operand })
}

pub(super) const fn within(field: Field, set: String) -> Statement {
    matching(field, Operand::Set(set))
}

pub(super) const fn protocol(number: u8) -> Statement {
    is(Field::Protocol, Value::Byte(number))
}

pub(super) const fn state(bits: u32) -> Statement {
    matching(Field::State, Operand::Bits(bits))
}

pub(super) const fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

pub(super) const fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

pub(super) fn jump(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.to_owned()))
}

pub(super) fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.to_owned()))
}

/// A rule of some statements before others.
pub(super) fn rule(
    first: impl IntoIterator<Item = Statement>,
    then: impl IntoIterator<Item = Statement>,
) -> Rule {
    first.into_iter().chain(then).collect()
}

pub(super) fn ranges4(ranges: &[(Ipv4Addr, Ipv4Addr)]) -> Vec<(Value, Value)> {
    ranges.iter().map(|(first, last)| (Value::Ipv4(*first), Value::Ipv4(*last))).collect()
}

pub(super) fn ranges6(ranges: &[(Ipv6Addr, Ipv6Addr)]) -> Vec<(Value, Value)> {
    ranges.iter().map(|(first, last)| (Value::Ipv6(*first), Value::Ipv6(*last))).collect()
}

/// A network as a range of its family.
pub(super) fn net_range(net: &IpNet) -> (Value, Value) {
    (address(net.network()), address(net.broadcast()))
}

pub(super) const fn address(address: IpAddr) -> Value {
    match address {
        IpAddr::V4(address) => Value::Ipv4(address),
        IpAddr::V6(address) => Value::Ipv6(address),
    }
}
