//! A table as text that `nft -f` accepts: the same as the messages, for people.

use std::fmt::{self, Display, Formatter};

use crate::ruleset::{
    Address, BasePolicy, Chain, Counter, Element, Field, Match, Meter, Nat, NatKind, Operand, Port,
    Rate, Reject, Rule, SegmentSize, Set, SetData, SetKind, Statement, Table, Value, Verdict,
};

/// A script that puts `table` in the place of the one of its name, in one transaction.
pub fn script(table: &Table) -> String {
    let name = &table.name;
    format!("table inet {name}\ndelete table inet {name}\n{table}")
}

impl Display for Table {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "table inet {} {{", self.name)?;
        for counter in &self.counters {
            writeln!(formatter, "{counter}")?;
        }
        for set in &self.sets {
            writeln!(formatter, "{set}")?;
        }
        for chain in &self.chains {
            writeln!(formatter, "{chain}")?;
        }
        writeln!(formatter, "}}")
    }
}

impl Display for Counter {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, packets, bytes } = self;
        writeln!(formatter, "\tcounter {name} {{\n\t\tpackets {packets} bytes {bytes}\n\t}}")
    }
}

impl Display for Set {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, key, kind, data, elements } = self;
        let word = if data.is_some() { "map" } else { "set" };
        writeln!(formatter, "\t{word} {name} {{")?;
        write!(formatter, "\t\ttype {}", key.name())?;
        match data {
            None => writeln!(formatter)?,
            Some(SetData::Verdicts) => writeln!(formatter, " : verdict")?,
            Some(SetData::Values(data)) => writeln!(formatter, " : {}", data.name())?,
        }
        match kind {
            SetKind::Values => {}
            SetKind::Intervals => writeln!(formatter, "\t\tflags interval")?,
            SetKind::Dynamic { size, timeout_s: None } => {
                writeln!(formatter, "\t\tsize {size}\n\t\tflags dynamic")?;
            }
            SetKind::Dynamic { size, timeout_s: Some(seconds) } => writeln!(
                formatter,
                "\t\tsize {size}\n\t\tflags dynamic,timeout\n\t\ttimeout {seconds}s"
            )?,
        }
        if !elements.is_empty() {
            let elements: Vec<String> = elements.iter().map(ToString::to_string).collect();
            let elements = elements.join(",\n\t\t\t     ");
            writeln!(formatter, "\t\telements = {{ {elements} }}")?;
        }
        writeln!(formatter, "\t}}")
    }
}

impl Display for Element {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(formatter, "{value}"),
            Self::Range(first, last) => match first.prefix_length(last) {
                Some(length) => write!(formatter, "{first}/{length}"),
                None => write!(formatter, "{first}-{last}"),
            },
            Self::Verdict(value, verdict) => write!(formatter, "{value} : {verdict}"),
            Self::Mapped(value, data) => write!(formatter, "{value} : {data}"),
        }
    }
}

impl Display for Chain {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "\tchain {} {{", self.name)?;
        if let Some(base) = self.base {
            let policy = match base.policy {
                BasePolicy::Accept => "accept",
                BasePolicy::Drop => "drop",
            };
            writeln!(
                formatter,
                "\t\ttype {} hook {} priority {}; policy {policy};",
                base.kind.name(),
                base.hook.name(),
                base.priority
            )?;
        }
        for rule in &self.rules {
            writeln!(formatter, "\t\t{rule}")?;
        }
        writeln!(formatter, "\t}}")
    }
}

impl Display for Rule {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(formatter, "{space}{statement}")?;
        }
        Ok(())
    }
}

impl Display for Statement {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match(comparison) => write!(formatter, "{comparison}"),
            Self::Limit(rate) => write!(formatter, "limit rate {rate}"),
            Self::Over(rate) => write!(formatter, "limit rate over {rate}"),
            Self::ConnectionMark(mark) => write!(formatter, "ct mark set {mark}"),
            Self::Meter { set, key, meter: Meter::Rate(rate) } => {
                write!(formatter, "update @{set} {{ {} limit rate over {rate} }}", key.name())
            }
            Self::Meter { set, key, meter: Meter::Connections(most) } => {
                write!(formatter, "add @{set} {{ {} ct count over {most} }}", key.name())
            }
            Self::Counter(name) => write!(formatter, "counter name {name}"),
            Self::Log(prefix) => write!(formatter, "log prefix \"{prefix}\" level info"),
            Self::Verdict(verdict) => write!(formatter, "{verdict}"),
            Self::VerdictMap(field, map) => write!(formatter, "{} vmap @{map}", field.name()),
            Self::Reject(Reject::TcpReset) => write!(formatter, "reject with tcp reset"),
            Self::Reject(Reject::PortUnreachable) => {
                write!(formatter, "reject with icmpx port-unreachable")
            }
            Self::Reject(Reject::Prohibited) => {
                write!(formatter, "reject with icmpx admin-prohibited")
            }
            Self::Masquerade => write!(formatter, "masquerade"),
            Self::Nat(nat) => write!(formatter, "{nat}"),
            Self::SegmentSize(size) => {
                write!(formatter, "tcp option maxseg size set ")?;
                match size {
                    SegmentSize::Route => write!(formatter, "rt mtu"),
                    SegmentSize::Bytes(bytes) => write!(formatter, "{bytes}"),
                }
            }
        }
    }
}

impl Display for Match {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let name = self.field.name();
        let not = if self.negated { "!= " } else { "" };
        match &self.operand {
            Operand::Value(value) => {
                write!(formatter, "{name} {not}")?;
                match symbol(self.field, value) {
                    Some(symbol) => write!(formatter, "{symbol}"),
                    None => write!(formatter, "{value}"),
                }
            }
            Operand::Range(first, last) => write!(formatter, "{name} {not}{first}-{last}"),
            Operand::Prefix(address, length) => {
                write!(formatter, "{name} {not}{address}/{length}")
            }
            Operand::Set(set) => write!(formatter, "{name} {not}@{set}"),
            Operand::Bits(bits) => {
                let names = self.field.bits().iter().filter(|(bit, _)| bit & bits != 0);
                let names: Vec<&str> = names.map(|(_, name)| *name).collect();
                write!(
                    formatter,
                    "{name} {}{}",
                    if self.negated { "! " } else { "" },
                    names.join(",")
                )
            }
            Operand::Masked(mask, bits) => {
                let equal = if self.negated { "!=" } else { "==" };
                write!(formatter, "{name} & {mask} {equal} {bits}")
            }
        }
    }
}

impl Display for Rate {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { per_second, burst } = self;
        write!(formatter, "{per_second}/second burst {burst} packets")
    }
}

impl Display for Verdict {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => write!(formatter, "accept"),
            Self::Drop => write!(formatter, "drop"),
            Self::Return => write!(formatter, "return"),
            Self::Jump(chain) => write!(formatter, "jump {chain}"),
            Self::Goto(chain) => write!(formatter, "goto {chain}"),
        }
    }
}

impl Display for Nat {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let word = match self.kind {
            NatKind::Source => "snat",
            NatKind::Destination => "dnat",
        };
        let (family, address, bracket) = match &self.address {
            Address::One(address) => {
                (family(address.is_ipv4()), address.to_string(), address.is_ipv6())
            }
            Address::Range(first, last) => {
                (family(first.is_ipv4()), format!("{first}-{last}"), first.is_ipv6())
            }
            Address::Map(field, map) => ("ip", format!("{} map @{map}", field.name()), false),
        };
        let address = if bracket && self.port.is_some() { format!("[{address}]") } else { address };
        write!(formatter, "{word} {family} to {address}")?;
        match &self.port {
            None => {}
            Some(Port::One(port)) => write!(formatter, ":{port}")?,
            Some(Port::Map(field, map)) => write!(formatter, ":{} map @{map}", field.name())?,
        }
        if matches!(self.address, Address::Range(..)) {
            write!(formatter, " persistent")
        } else {
            Ok(())
        }
    }
}

/// The word for a number, where people know the word better.
const fn symbol(field: Field, value: &Value) -> Option<&'static str> {
    match (field, value) {
        (Field::Family, Value::Byte(2)) => Some("ipv4"),
        (Field::Family, Value::Byte(10)) => Some("ipv6"),
        (Field::Protocol, Value::Byte(1)) => Some("icmp"),
        (Field::Protocol, Value::Byte(6)) => Some("tcp"),
        (Field::Protocol, Value::Byte(17)) => Some("udp"),
        (Field::Protocol, Value::Byte(58)) => Some("icmpv6"),
        (Field::IcmpType, Value::Byte(8)) | (Field::Icmpv6Type, Value::Byte(128)) => {
            Some("echo-request")
        }
        (Field::Cast, Value::Byte(0)) => Some("host"),
        (Field::InputType, Value::Host16(1)) => Some("ether"),
        _ => None,
    }
}

const fn family(ipv4: bool) -> &'static str {
    if ipv4 { "ip" } else { "ip6" }
}
