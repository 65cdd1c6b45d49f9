//! Named sets: equal ones stand once.

use std::collections::{BTreeMap, BTreeSet};

use super::matches::Family;
use crate::ruleset::{Element, Field, Match, Operand, Set, SetKind, Statement, Type, Value};

/// Senders that a limit keeps account of at the same time.
const SENDERS: u32 = 65_535;
/// Seconds after which a sender that was silent is forgotten.
const MEMORY_S: u32 = 60;

/// The table's sets.
#[derive(Debug, Default)]
pub(super) struct Pool {
    sets: Vec<Set>,
    /// Names of those that rules may share, by what they hold.
    known: BTreeMap<(Type, Vec<(Value, Value)>), String>,
    /// Those that were added by name.
    names: BTreeSet<String>,
}

impl Pool {
    pub(super) fn into_sets(self) -> Vec<Set> {
        self.sets
    }

    /// Adds a set under its own name, once.
    pub(super) fn named(&mut self, set: Set) -> String {
        let name = set.name.clone();
        if self.names.insert(name.clone()) {
            self.sets.push(set);
        }
        name
    }

    /// A set that keeps account of senders: of their packets by time, or, with `connections`, for
    /// as long as they have some.
    pub(super) fn accounts(&mut self, name: String, family: Family, connections: bool) -> String {
        let memory = (!connections).then_some(MEMORY_S);
        self.named(Set::dynamic(name, family.addresses(), SENDERS, memory))
    }

    /// Whether `field` is in some ranges: `None` if there are none, so that nothing can match. No
    /// statement is needed if they are all that there is. `name` is for a set, if one is needed
    /// and there is none like it.
    pub(super) fn within(
        &mut self,
        field: Field,
        key: Type,
        ranges: Vec<(Value, Value)>,
        name: impl FnOnce() -> String,
    ) -> Option<Vec<Statement>> {
        let set = Set::intervals(String::new(), key, ranges);
        let operand = match set.elements.as_slice() {
            [] => return None,
            [Element::Value(value)] => Operand::Value(value.clone()),
            [Element::Range(first, last)] => match first.prefix_length(last) {
                Some(0) => return Some(Vec::new()),
                Some(length) => Operand::Prefix(first.clone(), length),
                None => Operand::Range(first.clone(), last.clone()),
            },
            _ => Operand::Set(self.shared(set, name)),
        };
        Some(vec![Statement::Match(Match { field, negated: false, operand })])
    }

    /// Whether `field` is one of some values; `None` if there are none.
    pub(super) fn among(
        &mut self,
        field: Field,
        key: Type,
        values: impl IntoIterator<Item = Value>,
        name: impl FnOnce() -> String,
    ) -> Option<Statement> {
        let set = Set::values(String::new(), key, values);
        let operand = match set.elements.as_slice() {
            [] => return None,
            [Element::Value(value)] => Operand::Value(value.clone()),
            _ => Operand::Set(self.shared(set, name)),
        };
        Some(Statement::Match(Match { field, negated: false, operand }))
    }

    fn shared(&mut self, mut set: Set, name: impl FnOnce() -> String) -> String {
        let ranges = set.elements.iter().filter_map(|element| match element {
            Element::Value(value) => Some((value.clone(), value.clone())),
            Element::Range(first, last) => Some((first.clone(), last.clone())),
            Element::Verdict(..) | Element::Mapped(..) => None,
        });
        let mut content: Vec<(Value, Value)> = ranges.collect();
        // Kinds differ in how they are looked up, though not in what is in them.
        if set.kind == SetKind::Intervals {
            content.push((Value::Byte(0), Value::Byte(1)));
        }
        if let Some(name) = self.known.get(&(set.key, content.clone())) {
            return name.clone();
        }
        set.name = name();
        debug_assert!(!self.names.contains(&set.name), "two sets named {}", set.name);
        self.known.insert((set.key, content), set.name.clone());
        self.named(set)
    }
}
