//! A table of nftables as data: what it holds, before it is text or netlink.
//!
//! Every dependency between matches is written out, as `nft` would add it: a match on an IPv4
//! address comes after `meta nfproto ipv4`, one on a port after `meta l4proto`. So the text and
//! the messages mean the same, statement by statement.

mod chain;
mod field;
mod set;
mod statement;
mod value;

pub use chain::{Base, BasePolicy, Chain, ChainType, Hook, Verdict};
pub use field::{Field, ct_state, ct_status, tcp_flag};
pub use set::{Element, Set, SetData, SetKind};
pub use statement::{
    Address, Match, Meter, Nat, NatKind, Operand, Port, Rate, Reject, Rule, SegmentSize, Statement,
};
pub use value::{Type, Value};

/// A table of the family `inet`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Named counters.
    pub counters: Vec<Counter>,
    /// Named sets and maps.
    pub sets: Vec<Set>,
    /// Chains.
    pub chains: Vec<Chain>,
}

/// A named counter.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Packets to begin with.
    pub packets: u64,
    /// Bytes to begin with.
    pub bytes: u64,
}
