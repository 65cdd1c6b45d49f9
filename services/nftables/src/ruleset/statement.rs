//! What rules consist of.

use std::net::IpAddr;

use super::{Field, Value, Verdict};

/// A rule: its statements one after the other, until one does not match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule(pub Vec<Statement>);

impl FromIterator<Statement> for Rule {
    fn from_iter<I: IntoIterator<Item = Statement>>(statements: I) -> Self {
        Self(statements.into_iter().collect())
    }
}

/// A step of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Statement {
    /// Goes on if the packet matches.
    Match(Match),
    /// Goes on while packets are not more than that.
    Limit(Rate),
    /// Goes on when packets are more than that.
    Over(Rate),
    /// Marks the connection.
    ConnectionMark(u32),
    /// Goes on if the packet is beyond what its sender may.
    Meter {
        /// Set that keeps account.
        set: String,
        /// Whom it is kept for.
        key: Field,
        /// What is allowed.
        meter: Meter,
    },
    /// Counts into a named counter.
    Counter(String),
    /// Writes a line into the kernel's log, which begins with this (at most 127 bytes).
    Log(String),
    /// Decides.
    Verdict(Verdict),
    /// Decides by a map of verdicts; goes on if it has no entry.
    VerdictMap(Field, String),
    /// Refuses with an answer.
    Reject(Reject),
    /// Takes the address of the device that the packet leaves by as its source.
    Masquerade,
    /// Translates addresses.
    Nat(Nat),
    /// Lowers the maximum segment size of a TCP SYN.
    SegmentSize(SegmentSize),
}

/// A comparison.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match {
    /// What is compared.
    pub field: Field,
    /// Whether it must not fit.
    pub negated: bool,
    /// With what.
    pub operand: Operand,
}

/// What a field is compared with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operand {
    /// Equality.
    Value(Value),
    /// From the first to the last.
    Range(Value, Value),
    /// A prefix of an address, of this length.
    Prefix(Value, u8),
    /// A member of a named set.
    Set(String),
    /// At least one of these bits, of `ct state` and `ct status`.
    Bits(u32),
    /// Of the bits of the first, exactly those of the second.
    Masked(Value, Value),
}

/// How much is allowed for each sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meter {
    /// Packets by time.
    Rate(Rate),
    /// Connections at the same time.
    Connections(u32),
}

/// Packets by time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Packets a second.
    pub per_second: u32,
    /// Packets at once after a pause.
    pub burst: u32,
}

/// Answers to what is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reject {
    /// RST, for TCP.
    TcpReset,
    /// ICMP or ICMPv6 destination unreachable, port unreachable.
    PortUnreachable,
    /// ICMP or ICMPv6 destination unreachable, administratively prohibited.
    Prohibited,
}

/// Translation of an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nat {
    /// Of which.
    pub kind: NatKind,
    /// To which address.
    pub address: Address,
    /// To which port; `None` keeps it.
    pub port: Option<Port>,
}

/// Which address is translated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NatKind {
    /// Source, after routing.
    Source,
    /// Destination, before routing.
    Destination,
}

/// New address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// This one.
    One(IpAddr),
    /// One of these for each sender, the same for all its connections.
    Range(IpAddr, IpAddr),
    /// What a map says of a field: IPv4.
    Map(Field, String),
}

/// New port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Port {
    /// This one.
    One(u16),
    /// What a map says of a field.
    Map(Field, String),
}

/// Largest TCP segment that a peer is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SegmentSize {
    /// What fits the route, in both directions.
    Route,
    /// At most this.
    Bytes(u16),
}
