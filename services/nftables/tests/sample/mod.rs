//! A table with every kind of set, field and statement.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_nftables::ruleset::*;

pub const NAME: &str = "sample";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn v4(text: &str) -> Value {
    Value::Ipv4(text.parse::<Ipv4Addr>().expect("address"))
}

fn v6(text: &str) -> Value {
    Value::Ipv6(text.parse::<Ipv6Addr>().expect("address"))
}

fn matching(field: Field, operand: Operand) -> Statement {
    Statement::Match(Match { field, negated: false, operand })
}

fn not(field: Field, operand: Operand) -> Statement {
    Statement::Match(Match { field, negated: true, operand })
}

fn is(field: Field, value: Value) -> Statement {
    matching(field, Operand::Value(value))
}

fn ipv4() -> Statement {
    is(Field::Family, Value::Byte(2))
}

fn ipv6() -> Statement {
    is(Field::Family, Value::Byte(10))
}

fn protocol(number: u8) -> Statement {
    is(Field::Protocol, Value::Byte(number))
}

fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

fn name(text: &str) -> Value {
    Value::Name(text.to_owned())
}

fn set(text: &str) -> Operand {
    Operand::Set(text.to_owned())
}

const fn rate(per_second: u32, burst: u32) -> Rate {
    Rate { per_second, burst }
}

fn masked(mask: u8, bits: u8) -> Operand {
    Operand::Masked(Value::Byte(mask), Value::Byte(bits))
}

pub fn table() -> Table {
    Table { name: NAME.to_owned(), counters: counters(), sets: sets(), chains: chains() }
}

fn counters() -> Vec<Counter> {
    vec![
        Counter { name: "forwarded".to_owned(), packets: 0, bytes: 0 },
        Counter { name: "drop.policy.lan.wan".to_owned(), packets: 5, bytes: 7 },
    ]
}

fn sets() -> Vec<Set> {
    let range = |a, b| (v4(a), v4(b));
    let range6 = |a, b| (v6(a), v6(b));
    let ports = |a, b| (Value::Port(a), Value::Port(b));
    let own = |text: &str| text.to_owned();
    vec![
        Set::intervals(
            own("addresses4"),
            Type::Ipv4,
            [
                range("10.0.0.0", "10.255.255.255"),
                range("1.2.3.4", "1.2.3.9"),
                range("192.168.1.1", "192.168.1.1"),
            ],
        ),
        Set::intervals(
            own("ends4"),
            Type::Ipv4,
            [range("0.0.0.0", "0.255.255.255"), range("240.0.0.0", "255.255.255.255")],
        ),
        Set::intervals(
            own("addresses6"),
            Type::Ipv6,
            [
                range6("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
                range6("fd00::5", "fd00::9"),
            ],
        ),
        Set::intervals(own("ports"), Type::Port, [ports(80, 80), ports(8000, 8100)]),
        Set::values(own("protocols"), Type::Protocol, [Value::Byte(6), Value::Byte(17)]),
        Set::values(own("types4"), Type::IcmpType, [Value::Byte(8), Value::Byte(13)]),
        Set::values(own("types6"), Type::Icmpv6Type, [Value::Byte(133), Value::Byte(134)]),
        Set::values(own("names"), Type::InterfaceName, [name("eth0"), name("lan")]),
        Set::values(own("macs"), Type::Mac, [Value::Mac([0, 17, 34, 51, 68, 85])]),
        Set::dynamic(own("rates4"), Type::Ipv4, 65_535, Some(60)),
        Set::dynamic(own("networks6"), Type::Ipv6, 65_535, Some(60)),
        Set::dynamic(own("connections6"), Type::Ipv6, 65_535, None),
        Set::verdicts(
            own("input.zones"),
            Type::InterfaceName,
            [
                (name("eth0"), Verdict::Jump(own("input.wan"))),
                (name("lan"), Verdict::Goto(own("input.lan"))),
            ],
        ),
        Set::map(
            own("one-to-one"),
            Type::Ipv4,
            Type::Ipv4,
            [(v4("198.51.100.2"), v4("192.168.77.2"))],
        ),
        Set::map(
            own("moved"),
            Type::Port,
            Type::Port,
            [(Value::Port(80), Value::Port(8080)), (Value::Port(81), Value::Port(8081))],
        ),
    ]
}

fn chains() -> Vec<Chain> {
    let base = |kind, hook, priority, policy| Some(Base { kind, hook, priority, policy });
    let filter = |hook, policy| base(ChainType::Filter, hook, 0, policy);
    let nat = |hook, priority| base(ChainType::Nat, hook, priority, BasePolicy::Accept);
    let own = |text: &str| text.to_owned();
    vec![
        Chain {
            name: own("forward"),
            base: filter(Hook::Forward, BasePolicy::Drop),
            rules: forward(),
        },
        Chain {
            name: own("input"),
            base: filter(Hook::Input, BasePolicy::Drop),
            rules: vec![
                Rule(vec![is(Field::InputName, name("lo")), accept()]),
                Rule(vec![Statement::VerdictMap(Field::InputName, own("input.zones"))]),
            ],
        },
        Chain {
            name: own("input.wan"),
            base: None,
            rules: vec![Rule(vec![Statement::Verdict(Verdict::Return)])],
        },
        Chain {
            name: own("input.lan"),
            base: None,
            rules: vec![Rule(vec![
                Statement::Counter(own("forwarded")),
                Statement::Verdict(Verdict::Goto(own("input.wan"))),
            ])],
        },
        Chain { name: own("destination"), base: nat(Hook::Prerouting, -100), rules: destination() },
        Chain { name: own("source"), base: nat(Hook::Postrouting, 100), rules: source() },
    ]
}

fn forward() -> Vec<Rule> {
    let state = |bits| matching(Field::State, Operand::Bits(bits));
    let own = |text: &str| text.to_owned();
    let segment = |size| {
        Rule(vec![
            protocol(6),
            matching(Field::TcpFlags, masked(tcp_flag::SYN | tcp_flag::RST, tcp_flag::SYN)),
            Statement::SegmentSize(size),
        ])
    };
    let conditions: Vec<Vec<Statement>> = vec![
        vec![state(ct_state::ESTABLISHED | ct_state::RELATED)],
        vec![state(ct_state::INVALID)],
        vec![matching(Field::Status, Operand::Bits(ct_status::DNAT))],
        vec![is(Field::Mark, Value::Host(1))],
        vec![not(Field::Cast, Operand::Value(Value::Byte(0)))],
        vec![ipv4(), matching(Field::Source4, Operand::Masked(v4("0.0.0.3"), v4("0.0.0.2")))],
        vec![matching(Field::InputName, set("names"))],
        vec![not(Field::OutputName, Operand::Value(name("lo")))],
        vec![not(Field::OutputName, set("names"))],
        vec![ipv4(), is(Field::Source4, v4("10.0.0.1"))],
        vec![ipv4(), matching(Field::Source4, Operand::Prefix(v4("10.0.0.0"), 8))],
        vec![ipv4(), matching(Field::Source4, Operand::Prefix(v4("10.16.0.0"), 12))],
        vec![ipv4(), matching(Field::Source4, Operand::Range(v4("10.0.0.1"), v4("10.0.0.7")))],
        vec![ipv4(), not(Field::Destination4, Operand::Range(v4("10.0.0.1"), v4("10.0.0.7")))],
        vec![ipv4(), matching(Field::Source4, set("addresses4"))],
        vec![ipv4(), not(Field::Destination4, set("ends4"))],
        vec![ipv6(), matching(Field::Source6, Operand::Prefix(v6("fe80::"), 10))],
        vec![ipv6(), matching(Field::Source6, set("addresses6"))],
        vec![ipv6(), is(Field::Destination6, v6("2001:db8::1"))],
        vec![
            ipv6(),
            is(Field::RoutingType, Value::Byte(0)),
            not(Field::SegmentsLeft, Operand::Value(Value::Byte(0))),
        ],
        vec![matching(Field::Protocol, set("protocols")), is(Field::SourcePort, Value::Port(53))],
        vec![
            protocol(17),
            matching(Field::DestinationPort, Operand::Range(Value::Port(53), Value::Port(80))),
        ],
        vec![protocol(6), matching(Field::DestinationPort, set("ports"))],
        vec![ipv4(), protocol(1), matching(Field::IcmpType, set("types4"))],
        vec![ipv4(), protocol(1), is(Field::IcmpCode, Value::Byte(4))],
        vec![ipv6(), protocol(58), matching(Field::Icmpv6Type, set("types6"))],
        vec![ipv6(), protocol(58), is(Field::Icmpv6Type, Value::Byte(128))],
        vec![is(Field::InputType, Value::Host16(1)), matching(Field::SourceMac, set("macs"))],
        vec![ipv4(), meter("rates4", Field::Source4, Meter::Rate(rate(10, 20)))],
        vec![ipv6(), meter("connections6", Field::Source6, Meter::Connections(5))],
        vec![ipv6(), meter("networks6", Field::SourceNetwork6, Meter::Rate(rate(10, 20)))],
        vec![Statement::Over(rate(100, 7))],
    ];
    let accepted = conditions.into_iter().map(|mut rule| {
        rule.push(accept());
        Rule(rule)
    });
    let rest = [
        Rule(vec![Statement::Limit(rate(5, 7)), Statement::Log(own("policy lan wan "))]),
        segment(SegmentSize::Route),
        segment(SegmentSize::Bytes(1400)),
        Rule(vec![
            Statement::Counter(own("drop.policy.lan.wan")),
            protocol(6),
            Statement::Reject(Reject::TcpReset),
        ]),
        Rule(vec![protocol(17), Statement::Reject(Reject::PortUnreachable)]),
        Rule(vec![Statement::Reject(Reject::Prohibited)]),
        Rule(vec![Statement::Verdict(Verdict::Jump(own("input.wan")))]),
    ];
    accepted.chain(rest).collect()
}

fn meter(set: &str, key: Field, meter: Meter) -> Statement {
    Statement::Meter { set: set.to_owned(), key, meter }
}

fn destination() -> Vec<Rule> {
    let to = |address, port| {
        Statement::Nat(Nat { kind: NatKind::Destination, address: Address::One(ip(address)), port })
    };
    let map = |field, map: &str| Address::Map(field, map.to_owned());
    vec![
        Rule(vec![
            ipv4(),
            is(Field::Destination4, v4("198.51.100.2")),
            protocol(6),
            is(Field::DestinationPort, Value::Port(80)),
            Statement::ConnectionMark(1),
            to("192.168.77.2", Some(Port::One(8080))),
        ]),
        Rule(vec![
            ipv4(),
            is(Field::Destination4, v4("198.51.100.2")),
            protocol(17),
            to("192.168.77.2", None),
        ]),
        Rule(vec![
            ipv4(),
            protocol(6),
            to("192.168.77.2", Some(Port::Map(Field::DestinationPort, "moved".to_owned()))),
        ]),
        Rule(vec![
            ipv4(),
            Statement::Nat(Nat {
                kind: NatKind::Destination,
                address: map(Field::Destination4, "one-to-one"),
                port: None,
            }),
        ]),
    ]
}

fn source() -> Vec<Rule> {
    let to = |address| Statement::Nat(Nat { kind: NatKind::Source, address, port: None });
    vec![
        Rule(vec![ipv4(), to(Address::Range(ip("198.51.100.4"), ip("198.51.100.9")))]),
        Rule(vec![ipv4(), to(Address::Map(Field::OriginalDestination4, "one-to-one".to_owned()))]),
        Rule(vec![ipv4(), to(Address::One(ip("198.51.100.4")))]),
        Rule(vec![is(Field::OutputName, name("eth0")), ipv4(), Statement::Masquerade]),
    ]
}
