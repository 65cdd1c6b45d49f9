//! A table as one transaction of nf_tables over netlink. Pure: it gives bytes.
//!
//! ```text
//! begin | make table, delete it, make it anew | chains | counters | sets | rules | end
//! ```
//! The kernel does all of it or nothing, and packets see the old table or the new one, never a
//! part. Making the table first lets the deletion succeed where there is none yet.

pub mod answer;
mod attribute;
mod expression;
mod lower;
mod message;
mod set;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP};

use self::{
    attribute::Writer,
    lower::SetIds,
    message::{Kind, message},
};
use crate::ruleset::{BasePolicy, Chain, Counter, Set, Table};

/// Why a table cannot be written as messages.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// A rule names a set that the table does not have.
    #[error("a rule names the set {0}, which the table does not have")]
    UnknownSet(String),
    /// A rule or a name is longer than netlink allows.
    #[error("a rule, set or name is longer than 65,535 bytes")]
    TooLong,
}

/// Messages of one transaction.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// The bytes to send at once.
    pub bytes: Vec<u8>,
    /// What each message makes, by its sequence number.
    pub contents: Vec<String>,
}

/// The transaction that puts `table` in the place of the one of its name, or makes it.
///
/// # Errors
/// See [`EncodeError`].
pub fn replace(table: &Table) -> Result<Batch, EncodeError> {
    let mut batch = Builder::begin();
    batch.table(Kind::NewTable, &table.name);
    batch.table(Kind::DeleteTable, &table.name);
    batch.content(table)?;
    batch.end()
}

/// The transaction that makes `table`; fails in the kernel if there is one of its name.
///
/// # Errors
/// See [`EncodeError`].
pub fn create(table: &Table) -> Result<Batch, EncodeError> {
    let mut batch = Builder::begin();
    batch.content(table)?;
    batch.end()
}

/// The transaction that removes the table `name`, if there is one.
///
/// # Errors
/// See [`EncodeError`].
pub fn delete(name: &str) -> Result<Batch, EncodeError> {
    let mut batch = Builder::begin();
    batch.table(Kind::NewTable, name);
    batch.table(Kind::DeleteTable, name);
    batch.end()
}

/// The question for all named counters of the table `name`.
///
/// # Errors
/// See [`EncodeError`].
pub fn list_counters(name: &str) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::default();
    message(&mut writer, Kind::GetObjects, NLM_F_DUMP, 0, |writer| {
        // NFTA_OBJ_TABLE, NFTA_OBJ_TYPE.
        writer.text(1, name);
        writer.number(3, COUNTER);
    });
    writer.finish().ok_or(EncodeError::TooLong)
}

/// A message by itself, of any part of netfilter.
pub(crate) fn plain_message(
    kind: u16,
    flags: u16,
    family: u8,
    content: impl FnOnce(&mut Writer),
) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::default();
    message::frame(&mut writer, (kind, flags, 0), (family, 0), content);
    writer.finish().ok_or(EncodeError::TooLong)
}

/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;

/// Writes messages one after the other.
struct Builder {
    writer: Writer,
    contents: Vec<String>,
}

impl Builder {
    fn begin() -> Self {
        let mut batch = Self { writer: Writer::default(), contents: Vec::new() };
        batch.add(Kind::BatchBegin, 0, String::new(), |_| {});
        batch
    }

    fn end(mut self) -> Result<Batch, EncodeError> {
        self.add(Kind::BatchEnd, 0, "the end of the transaction".to_owned(), |_| {});
        let bytes = self.writer.finish().ok_or(EncodeError::TooLong)?;
        Ok(Batch { bytes, contents: self.contents })
    }

    fn add(&mut self, kind: Kind, flags: u16, what: String, content: impl FnOnce(&mut Writer)) {
        let sequence = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
        message(&mut self.writer, kind, flags, sequence, content);
        self.contents.push(what);
    }

    fn table(&mut self, kind: Kind, name: &str) {
        // The kernel says what came of the transaction only if a message asks for it.
        let flags = if kind == Kind::NewTable { NLM_F_CREATE | NLM_F_ACK } else { 0 };
        self.add(kind, flags, format!("table {name}"), |writer| {
            // NFTA_TABLE_NAME, NFTA_TABLE_FLAGS.
            writer.text(1, name);
            if kind == Kind::NewTable {
                writer.number(2, 0);
            }
        });
    }

    fn content(&mut self, table: &Table) -> Result<(), EncodeError> {
        self.table(Kind::NewTable, &table.name);
        for chain in &table.chains {
            self.chain(&table.name, chain);
        }
        for counter in &table.counters {
            self.counter(&table.name, counter);
        }
        let mut ids = SetIds::new();
        for (set, id) in table.sets.iter().zip(1_u32..) {
            ids.insert(set.name.clone(), id);
            self.set(&table.name, set, id);
        }
        for chain in &table.chains {
            self.rules(&table.name, chain, &ids)?;
        }
        Ok(())
    }

    fn chain(&mut self, table: &str, chain: &Chain) {
        let what = format!("chain {}", chain.name);
        self.add(Kind::NewChain, NLM_F_CREATE, what, |writer| {
            // NFTA_CHAIN_TABLE, _NAME, _TYPE, _POLICY, _HOOK with NFTA_HOOK_HOOKNUM, _PRIORITY.
            writer.text(1, table);
            writer.text(3, &chain.name);
            if let Some(base) = chain.base {
                writer.text(7, base.kind.name());
                let policy = match base.policy {
                    BasePolicy::Drop => 0,
                    BasePolicy::Accept => 1,
                };
                writer.number(5, policy);
                writer.nested(4, |writer| {
                    writer.number(1, base.hook as u32);
                    writer.bytes(2, &base.priority.to_be_bytes());
                });
            }
        });
    }

    fn counter(&mut self, table: &str, counter: &Counter) {
        let what = format!("counter {}", counter.name);
        self.add(Kind::NewObject, NLM_F_CREATE, what, |writer| {
            // NFTA_OBJ_TABLE, _NAME, _TYPE, _DATA with NFTA_COUNTER_BYTES, _PACKETS.
            writer.text(1, table);
            writer.text(2, &counter.name);
            writer.number(3, COUNTER);
            writer.nested(4, |writer| {
                writer.long(1, counter.bytes);
                writer.long(2, counter.packets);
            });
        });
    }

    fn set(&mut self, table: &str, set: &Set, id: u32) {
        let what = format!("set {}", set.name);
        self.add(Kind::NewSet, NLM_F_CREATE, what, |writer| {
            set::write_set(writer, table, set, id);
        });
        set::write_elements(table, set, id, |content| {
            let what = format!("elements of the set {}", set.name);
            self.add(Kind::NewElements, NLM_F_CREATE, what, content);
        });
    }

    fn rules(&mut self, table: &str, chain: &Chain, ids: &SetIds) -> Result<(), EncodeError> {
        for (rule, number) in chain.rules.iter().zip(1_u32..) {
            let expressions = lower::rule(rule, ids)?;
            let what = format!("rule {number} of the chain {}", chain.name);
            self.add(Kind::NewRule, NLM_F_CREATE | NLM_F_APPEND, what, |writer| {
                // NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS.
                writer.text(1, table);
                writer.text(2, &chain.name);
                writer.nested(4, |writer| {
                    for expression in &expressions {
                        expression.write_element(writer);
                    }
                });
            });
        }
        Ok(())
    }
}
