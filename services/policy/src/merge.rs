//! Fewer rules that do the same: neighbours with the same effect that differ in one thing only
//! become one rule.

use portcullis_model::Label;

use crate::{Intervals, resolve::ResolvedRule};

/// Rules, and which ones each of them stands for besides itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Merged {
    /// The rules in order.
    pub rules: Vec<ResolvedRule>,
    /// Name of a rule, and the names of those that became part of it.
    pub absorbed: Vec<(Label, Vec<Label>)>,
}

/// Merges neighbours. Rules with a limit or a log keep to themselves: who counts matters there.
pub fn merge(rules: impl IntoIterator<Item = ResolvedRule>) -> Merged {
    let mut merged = Merged::default();
    let mut group: Option<Group> = None;
    for rule in rules {
        if let Some(group) = &mut group
            && group.takes(&rule)
        {
            continue;
        }
        if let Some(group) = group.replace(Group::new(rule)) {
            group.finish(&mut merged);
        }
    }
    if let Some(group) = group {
        group.finish(&mut merged);
    }
    merged
}

/// In what rules of a group differ.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Axis {
    From,
    To,
    Field(usize),
}

struct Group {
    rule: ResolvedRule,
    axis: Option<Axis>,
    /// What the others ask for where they differ.
    more: Vec<(u128, u128)>,
    absorbed: Vec<Label>,
}

impl Group {
    fn new(rule: ResolvedRule) -> Self {
        Self { rule, axis: None, more: Vec::new(), absorbed: Vec::new() }
    }

    /// Makes `other` part of the group, if it fits.
    fn takes(&mut self, other: &ResolvedRule) -> bool {
        if !same_effect(&self.rule, other) {
            return false;
        }
        let mut axis = self.axis;
        for candidate in self.differences(other) {
            if axis.is_some_and(|axis| axis != candidate) {
                return false;
            }
            axis = Some(candidate);
        }
        self.axis = axis;
        match axis {
            // The same rule twice.
            None => {}
            Some(Axis::From) => self.rule.from |= other.from,
            Some(Axis::To) => self.rule.to |= other.to,
            Some(Axis::Field(index)) => {
                if let (Some(mine), Some(theirs)) =
                    (self.rule.fields.get_mut(index), other.fields.get(index))
                {
                    match theirs {
                        Some(intervals) if mine.is_some() => self.more.extend(intervals.iter()),
                        // One of them takes anything.
                        _ => *mine = None,
                    }
                }
            }
        }
        self.absorbed.push(other.name.clone());
        true
    }

    fn differences(&self, other: &ResolvedRule) -> impl Iterator<Item = Axis> {
        let zones =
            [(Axis::From, self.rule.from != other.from), (Axis::To, self.rule.to != other.to)];
        let fields = self.rule.fields.iter().zip(&other.fields).enumerate();
        let fields = fields.map(|(index, (mine, theirs))| (Axis::Field(index), mine != theirs));
        zones.into_iter().chain(fields).filter(|(_, differs)| *differs).map(|(axis, _)| axis)
    }

    fn finish(mut self, merged: &mut Merged) {
        if let Some(Axis::Field(index)) = self.axis
            && let Some(Some(field)) = self.rule.fields.get_mut(index)
        {
            self.more.extend(field.iter());
            *field = Intervals::of(self.more);
        }
        if !self.absorbed.is_empty() {
            merged.absorbed.push((self.rule.name.clone(), self.absorbed));
        }
        merged.rules.push(self.rule);
    }
}

fn same_effect(one: &ResolvedRule, other: &ResolvedRule) -> bool {
    let plain =
        |rule: &ResolvedRule| !rule.log && rule.rate_limit.is_none() && rule.connections.is_none();
    plain(one)
        && plain(other)
        && one.action == other.action
        && one.full_cone == other.full_cone
        && one.active == other.active
}
