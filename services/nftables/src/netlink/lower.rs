//! From statements to expressions, as nft does it: load into register 1, compare.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    EncodeError,
    expression::{Comparison, Expression, Header, Register, SetName},
};
use crate::ruleset::{
    Address, Field, Match, Meter, Nat, NatKind, Operand, Port, Rate, Reject, Rule, SegmentSize,
    Statement, Value,
};

/// `LOG_INFO` of syslog.
const LOG_LEVEL: u32 = 6;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const IPV4: u32 = 2;
const IPV6: u32 = 10;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`, `NF_NAT_RANGE_PERSISTENT`.
const PORT_GIVEN: u32 = 2;
const PERSISTENT: u32 = 8;
/// TCP option: maximum segment size, whose value is two bytes behind kind and length.
const MAXIMUM_SEGMENT: u8 = 2;

/// IPv6's routing header.
const ROUTING: u8 = 43;

/// `NFT_CT_MARK`.
const CONNECTION_MARK: u32 = 3;

/// Numbers of the sets by their names.
pub(super) type SetIds = BTreeMap<String, u32>;

/// The expressions of a rule.
pub(super) fn rule(rule: &Rule, sets: &SetIds) -> Result<Vec<Expression>, EncodeError> {
    let mut expressions = Vec::with_capacity(rule.0.len() * 3);
    for one in &rule.0 {
        statement(one, sets, &mut expressions)?;
    }
    Ok(expressions)
}

fn statement(
    statement: &Statement,
    sets: &SetIds,
    to: &mut Vec<Expression>,
) -> Result<(), EncodeError> {
    match statement {
        Statement::Match(comparison) => compare(comparison, sets, to)?,
        Statement::Limit(rate) => to.push(limit(*rate, false)),
        Statement::Over(rate) => to.push(limit(*rate, true)),
        Statement::ConnectionMark(mark) => {
            to.push(Expression::Immediate { to: 1, value: mark.to_ne_bytes().to_vec() });
            to.push(Expression::SetConnection { key: CONNECTION_MARK, from: 1 });
        }
        Statement::Meter { set, key, meter } => {
            push_load(*key, 1, to);
            let limit = match meter {
                Meter::Rate(rate) => limit(*rate, true),
                Meter::Connections(most) => Expression::Connections { most: *most },
            };
            // What has a time to live must be refreshed; what counts connections must not.
            let update = matches!(meter, Meter::Rate(_));
            let set = find(set, sets)?;
            to.push(Expression::Dynamic { set, update, key: 1, limit: Box::new(limit) });
        }
        Statement::Counter(name) => to.push(Expression::Counter(name.clone())),
        Statement::Log(prefix) => {
            to.push(Expression::Log { prefix: prefix.clone(), level: LOG_LEVEL });
        }
        Statement::Verdict(verdict) => to.push(Expression::Verdict(verdict.clone())),
        Statement::VerdictMap(field, map) => {
            push_load(*field, 1, to);
            to.push(lookup(1, map, sets, Some(0))?);
        }
        // NFT_REJECT_TCP_RST, NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_PORT_UNREACH and
        // _ADMIN_PROHIBITED.
        Statement::Reject(Reject::TcpReset) => to.push(Expression::Reject { kind: 1, code: 0 }),
        Statement::Reject(Reject::PortUnreachable) => {
            to.push(Expression::Reject { kind: 2, code: 1 })
        }
        Statement::Reject(Reject::Prohibited) => to.push(Expression::Reject { kind: 2, code: 3 }),
        Statement::Masquerade => to.push(Expression::Masquerade),
        Statement::Nat(nat) => translate(nat, sets, to)?,
        Statement::SegmentSize(size) => {
            match size {
                SegmentSize::Route => {
                    // NFT_RT_TCPMSS.
                    to.push(Expression::Route { key: 3, to: 1 });
                    to.push(Expression::ToNetworkOrder { register: 1, length: 2 });
                }
                SegmentSize::Bytes(bytes) => {
                    let value = bytes.to_be_bytes().to_vec();
                    to.push(Expression::Immediate { to: 1, value });
                }
            }
            let option = MAXIMUM_SEGMENT;
            to.push(Expression::WriteTcpOption { option, offset: 2, length: 2, from: 1 });
        }
    }
    Ok(())
}

const fn limit(rate: Rate, over: bool) -> Expression {
    let Rate { per_second, burst } = rate;
    Expression::Limit { per_second, burst, over }
}

/// Loads a field into a register, and masks it if only a part is meant.
fn push_load(field: Field, register: Register, to: &mut Vec<Expression>) {
    to.push(load(field, register));
    if field == Field::SourceNetwork6 {
        let mask = [[0xff; 8], [0; 8]].concat();
        to.push(Expression::And { register, mask, stated: true });
    }
}

/// Loads a field into a register.
const fn load(field: Field, to: Register) -> Expression {
    const fn network(offset: u32, length: u32, to: Register) -> Expression {
        Expression::Payload { base: Header::Network, offset, length, to }
    }
    const fn transport(offset: u32, length: u32, to: Register) -> Expression {
        Expression::Payload { base: Header::Transport, offset, length, to }
    }
    match field {
        // NFT_META_IIFNAME, _OIFNAME, _IIFTYPE, _NFPROTO, _L4PROTO.
        Field::InputName => Expression::Meta { key: 6, to },
        Field::OutputName => Expression::Meta { key: 7, to },
        Field::InputType => Expression::Meta { key: 8, to },
        Field::Family => Expression::Meta { key: 15, to },
        Field::Protocol => Expression::Meta { key: 16, to },
        Field::Source4 => network(12, 4, to),
        Field::Destination4 => network(16, 4, to),
        Field::Source6 | Field::SourceNetwork6 => network(8, 16, to),
        Field::Destination6 => network(24, 16, to),
        Field::SourceMac => Expression::Payload { base: Header::Link, offset: 6, length: 6, to },
        Field::SourcePort => transport(0, 2, to),
        Field::DestinationPort => transport(2, 2, to),
        Field::IcmpType | Field::Icmpv6Type => transport(0, 1, to),
        Field::IcmpCode | Field::Icmpv6Code => transport(1, 1, to),
        Field::TcpFlags => transport(13, 1, to),
        Field::RoutingType => {
            Expression::ExtensionHeader { header: ROUTING, offset: 2, length: 1, to }
        }
        Field::SegmentsLeft => {
            Expression::ExtensionHeader { header: ROUTING, offset: 3, length: 1, to }
        }
        // NFT_CT_STATE, NFT_CT_STATUS.
        Field::State => Expression::Connection { key: 0, to },
        Field::Status => Expression::Connection { key: 2, to },
        // NFT_META_PKTTYPE, NFT_CT_DST_IP.
        Field::Cast => Expression::Meta { key: 19, to },
        Field::OriginalDestination4 => Expression::Original { key: 20, to },
        Field::Mark => Expression::Connection { key: CONNECTION_MARK, to },
    }
}

fn compare(comparison: &Match, sets: &SetIds, to: &mut Vec<Expression>) -> Result<(), EncodeError> {
    let Match { field, negated, operand } = comparison;
    let equality = if *negated { Comparison::NotEqual } else { Comparison::Equal };
    let push = |to: &mut Vec<Expression>, operator, value| {
        to.push(Expression::Compare { from: 1, operator, value });
    };
    if let Operand::Prefix(address, length) = operand {
        prefix(*field, address, *length, equality, to);
        return Ok(());
    }
    push_load(*field, 1, to);
    match operand {
        Operand::Value(value) => push(to, equality, value.bytes()),
        Operand::Range(first, last) if *negated => {
            to.push(Expression::Outside { from: 1, first: first.bytes(), last: last.bytes() });
        }
        Operand::Range(first, last) => {
            push(to, Comparison::AtLeast, first.bytes());
            push(to, Comparison::AtMost, last.bytes());
        }
        Operand::Set(name) => {
            let set = find(name, sets)?;
            to.push(Expression::Lookup { from: 1, set, to: None, negated: *negated });
        }
        Operand::Bits(bits) => {
            let mask = bits.to_ne_bytes().to_vec();
            to.push(Expression::And { register: 1, mask, stated: false });
            let any = if *negated { Comparison::Equal } else { Comparison::NotEqual };
            push(to, any, vec![0; 4]);
        }
        Operand::Masked(mask, bits) => {
            to.push(Expression::And { register: 1, mask: mask.bytes(), stated: true });
            push(to, equality, bits.bytes());
        }
        Operand::Prefix(..) => {}
    }
    Ok(())
}

/// A prefix of whole bytes is compared without a mask.
fn prefix(
    field: Field,
    address: &Value,
    length: u8,
    equality: Comparison,
    to: &mut Vec<Expression>,
) {
    let bytes = address.bytes();
    let mask: Vec<u8> = (0..bytes.len())
        .map(|index| {
            let left = usize::from(length).saturating_sub(index * 8).min(8);
            u8::try_from(0xff00_u32 >> left & 0xff).unwrap_or(0)
        })
        .collect();
    let mut value: Vec<u8> = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
    let mut expression = load(field, 1);
    let whole = usize::from(length / 8);
    if length.is_multiple_of(8)
        && whole != 0
        && let Expression::Payload { length, .. } = &mut expression
    {
        *length = u32::from(u8::try_from(whole).unwrap_or(0));
        value.truncate(whole);
        to.push(expression);
    } else {
        to.push(expression);
        to.push(Expression::And { register: 1, mask, stated: false });
    }
    to.push(Expression::Compare { from: 1, operator: equality, value });
}

fn translate(nat: &Nat, sets: &SetIds, to: &mut Vec<Expression>) -> Result<(), EncodeError> {
    let mut flags = 0;
    let mut family = IPV4;
    let mut immediate = |address: &IpAddr, register, to: &mut Vec<Expression>| {
        let value = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => {
                family = IPV6;
                address.octets().to_vec()
            }
        };
        to.push(Expression::Immediate { to: register, value });
    };
    let (address, mut next) = match &nat.address {
        Address::One(address) => {
            immediate(address, 1, to);
            ((1, None), 2)
        }
        Address::Range(first, last) => {
            immediate(first, 1, to);
            immediate(last, 2, to);
            flags |= PERSISTENT;
            ((1, Some(2)), 3)
        }
        Address::Map(field, map) => {
            push_load(*field, 1, to);
            to.push(lookup(1, map, sets, Some(1))?);
            ((1, None), 2)
        }
    };
    let port = match &nat.port {
        None => None,
        Some(port) => {
            match port {
                Port::One(port) => {
                    let value = port.to_be_bytes().to_vec();
                    to.push(Expression::Immediate { to: next, value });
                }
                Port::Map(field, map) => {
                    push_load(*field, next, to);
                    to.push(lookup(next, map, sets, Some(next))?);
                }
            }
            flags |= PORT_GIVEN;
            let register = next;
            next += 1;
            Some(register)
        }
    };
    debug_assert!(next <= 4, "the kernel has four registers of this size");
    // NFT_NAT_SNAT, NFT_NAT_DNAT.
    let kind = match nat.kind {
        NatKind::Source => 0,
        NatKind::Destination => 1,
    };
    to.push(Expression::Nat { kind, family, address, port, flags });
    Ok(())
}

fn lookup(
    from: Register,
    set: &str,
    sets: &SetIds,
    to: Option<Register>,
) -> Result<Expression, EncodeError> {
    Ok(Expression::Lookup { from, set: find(set, sets)?, to, negated: false })
}

fn find(name: &str, sets: &SetIds) -> Result<SetName, EncodeError> {
    let id = sets.get(name).ok_or_else(|| EncodeError::UnknownSet(name.to_owned()))?;
    Ok(SetName { name: name.to_owned(), id: *id })
}
