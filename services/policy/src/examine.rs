//! Rules that can never decide, and why.
//!
//! A rule is looked at where it is easiest to reach: at the lowest and at the highest value of all
//! that it asks for. If no rule before it fits there, it decides there. If one of those that fit
//! there covers all of it, it is shadowed by that one. Else the rules before it are taken away from
//! it, one after the other; if nothing is left, they hide it together. Rules with a schedule hide
//! only rules with the same one.

use std::{collections::HashMap, fmt};

use portcullis_datapath_abi::{classifier::Dimension, policy::MAX_ZONES};
use portcullis_model::Label;

use crate::{
    Intervals,
    merge::merge,
    resolve::{Resolved, ResolvedRule},
    vector::{Block, Vector, sweep},
};

/// Something about a rule that its author should know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The rule.
    pub rule: Label,
    /// What.
    pub kind: FindingKind,
}

/// What is to be known about a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FindingKind {
    /// No packet fits it: a set is empty, a host's interface has no IPv6 network, or a zone has no
    /// id.
    Empty,
    /// A rule before it always decides, with the same effect or another.
    Shadowed {
        /// That rule.
        by: Label,
        /// Whether both do the same.
        same_effect: bool,
    },
    /// Rules before it together always decide.
    Unreachable {
        /// Those rules, at most eight of them.
        by: Vec<Label>,
    },
    /// It was compiled as part of the rule before it, which does the same.
    Merged {
        /// That rule, whose number its flows have.
        into: Label,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule.as_str();
        match &self.kind {
            FindingKind::Empty => write!(f, "`{rule}` fits no packet"),
            FindingKind::Shadowed { by, same_effect: true } => {
                write!(f, "`{rule}` is not needed: `{by}` before it does the same")
            }
            FindingKind::Shadowed { by, same_effect: false } => {
                write!(f, "`{rule}` never decides: `{by}` before it always does")
            }
            FindingKind::Unreachable { by } => {
                let names: Vec<_> = by.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "`{rule}` never decides: rules before it always do: {}", names.join(", "))
            }
            FindingKind::Merged { into } => {
                write!(f, "`{rule}` was merged with `{into}`, which does the same")
            }
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Findings {
    /// In the order of the rules; merged ones last.
    pub findings: Vec<Finding>,
    /// Whether all rules were looked at as closely as it takes. If not, more may be unreachable.
    pub complete: bool,
}

/// Pieces that a rule is cut into at most.
const PIECES: usize = 64;
/// Rules taken away from others in all.
const BUDGET: usize = 400_000;
/// Names in a finding at most.
const NAMES: usize = 8;

/// Looks at all enabled rules.
pub fn examine(resolved: &Resolved) -> Findings {
    let rules: Vec<&ResolvedRule> = resolved.rules.iter().filter(|rule| rule.enabled).collect();
    let mut findings = Vec::new();
    let mut examiner = Examiner { index: Index::of(&rules), rules: &rules, budget: BUDGET };
    for (position, rule) in rules.iter().enumerate() {
        if let Some(kind) = examiner.look(position, rule) {
            findings.push(Finding { rule: rule.name.clone(), kind });
        }
    }
    let complete = examiner.budget > 0;
    let active = resolved.rules.iter().filter(|rule| rule.active && !rule.is_empty());
    for (into, absorbed) in merge(active.cloned()).absorbed {
        findings.extend(absorbed.into_iter().map(|rule| {
            let kind = FindingKind::Merged { into: into.clone() };
            Finding { rule, kind }
        }));
    }
    Findings { findings, complete }
}

struct Examiner<'a> {
    rules: &'a [&'a ResolvedRule],
    index: Index,
    budget: usize,
}

impl Examiner<'_> {
    fn look(&mut self, position: usize, rule: &ResolvedRule) -> Option<FindingKind> {
        if rule.is_empty() {
            return Some(FindingKind::Empty);
        }
        let corners = [Corner::lowest(rule), Corner::highest(rule)];
        for corner in &corners {
            let mut reached = false;
            let before = self.index.fitting(corner, position);
            for other in before.iter().filter_map(|n| self.rules.get(*n as usize)) {
                if !may_hide(other, rule) || !other.zones(corner.from, corner.to) {
                    continue;
                }
                reached = true;
                if covers(other, rule) {
                    let same_effect = other.action == rule.action
                        && other.log == rule.log
                        && other.full_cone == rule.full_cone
                        && (other.rate_limit, other.connections) == (None, None);
                    return Some(FindingKind::Shadowed { by: other.name.clone(), same_effect });
                }
            }
            if !reached {
                return None;
            }
        }
        self.take_away(position, rule)
    }

    /// Takes the rules before it away from a rule; says which ones if nothing is left.
    fn take_away(&mut self, position: usize, rule: &ResolvedRule) -> Option<FindingKind> {
        let mut pieces = vec![Piece::of(rule)];
        let mut by = Vec::new();
        for other in self.rules.iter().take(position).filter(|other| may_hide(other, rule)) {
            self.budget = self.budget.saturating_sub(pieces.len());
            if self.budget == 0 {
                return None;
            }
            if pieces.iter().any(|piece| piece.meets(other)) {
                by.push(&other.name);
                pieces = pieces.iter().flat_map(|piece| piece.without(other)).collect();
            }
            if pieces.is_empty() {
                let by = by.into_iter().take(NAMES).cloned().collect();
                return Some(FindingKind::Unreachable { by });
            }
            if pieces.len() > PIECES {
                return None;
            }
        }
        None
    }
}

fn may_hide(other: &ResolvedRule, rule: &ResolvedRule) -> bool {
    other.schedule.is_none() || other.schedule == rule.schedule
}

/// Whether whatever fits `rule` fits `other`.
fn covers(other: &ResolvedRule, rule: &ResolvedRule) -> bool {
    rule.from & !other.from == 0
        && rule.to & !other.to == 0
        && other.fields.iter().zip(&rule.fields).zip(Dimension::ALL).all(
            |((theirs, mine), dimension)| match (theirs, mine) {
                (None, _) => true,
                (Some(theirs), Some(mine)) => theirs.covers(mine),
                (Some(theirs), None) => theirs.covers(&everything(dimension)),
            },
        )
}

/// All values of a dimension.
fn everything(dimension: Dimension) -> Intervals {
    let last = match dimension {
        Dimension::Service => (1 << 24) - 1,
        Dimension::Source | Dimension::Destination => u128::MAX,
        Dimension::SourcePort => (1 << 16) - 1,
        Dimension::Mac => (1 << 48) - 1,
    };
    Intervals::of(vec![(0, last)])
}

/// A packet at the edge of a rule.
struct Corner {
    from: u8,
    to: u8,
    values: [u128; 5],
}

impl Corner {
    fn lowest(rule: &ResolvedRule) -> Self {
        let low = |mask: u32| mask.trailing_zeros() as u8;
        let values = Self::values(rule, |field| field.iter().next().map(|(first, _)| first));
        Self { from: low(rule.from), to: low(rule.to), values }
    }

    fn highest(rule: &ResolvedRule) -> Self {
        let high = |mask: u32| (MAX_ZONES - 1).saturating_sub(mask.leading_zeros()) as u8;
        let values = Self::values(rule, |field| field.iter().next_back().map(|(_, last)| last));
        Self { from: high(rule.from), to: high(rule.to), values }
    }

    fn values(rule: &ResolvedRule, end: impl Fn(&Intervals) -> Option<u128>) -> [u128; 5] {
        Dimension::ALL.map(|dimension| match rule.field(dimension) {
            Some(field) => end(field).unwrap_or_default(),
            None => end(&everything(dimension)).unwrap_or_default(),
        })
    }
}

/// What is left of a rule.
#[derive(Clone)]
struct Piece {
    from: u32,
    to: u32,
    fields: [Intervals; 5],
}

impl Piece {
    fn of(rule: &ResolvedRule) -> Self {
        let fields = Dimension::ALL.map(|dimension| {
            rule.field(dimension).cloned().unwrap_or_else(|| everything(dimension))
        });
        Self { from: rule.from, to: rule.to, fields }
    }

    fn meets(&self, other: &ResolvedRule) -> bool {
        self.from & other.from != 0
            && self.to & other.to != 0
            && self.fields.iter().zip(&other.fields).all(|(mine, theirs)| {
                theirs.as_ref().is_none_or(|theirs| !mine.intersection(theirs).is_empty())
            })
    }

    /// The pieces that `other` does not cover.
    fn without(&self, other: &ResolvedRule) -> Vec<Self> {
        if !self.meets(other) {
            return vec![self.clone()];
        }
        let mut pieces = Vec::new();
        // What `other` may still cover: each step cuts off what it does not.
        let mut rest = self.clone();
        let (from, to) = (rest.from & !other.from, rest.to & !other.to);
        if from != 0 {
            pieces.push(Self { from, ..rest.clone() });
        }
        rest.from &= other.from;
        if to != 0 {
            pieces.push(Self { to, ..rest.clone() });
        }
        rest.to &= other.to;
        for (index, theirs) in other.fields.iter().enumerate() {
            let Some(theirs) = theirs else { continue };
            let Some(mine) = rest.fields.get(index).cloned() else { continue };
            let outside = mine.without(theirs);
            if !outside.is_empty() {
                let mut piece = rest.clone();
                if let Some(field) = piece.fields.get_mut(index) {
                    *field = outside;
                }
                pieces.push(piece);
            }
            if let Some(field) = rest.fields.get_mut(index) {
                *field = mine.intersection(theirs);
            }
        }
        pieces
    }
}

/// Finds the rules that fit a packet.
struct Index {
    dimensions: [Stretches; 5],
}

struct Stretches {
    any: Vector,
    starts: Vec<u128>,
    /// Which of `vectors`, by stretch.
    which: Vec<usize>,
    vectors: Vec<Vector>,
}

impl Index {
    fn of(rules: &[&ResolvedRule]) -> Self {
        Self { dimensions: Dimension::ALL.map(|dimension| Stretches::of(rules, dimension)) }
    }

    /// Positions, below `end`, of the rules that fit apart from their zones.
    fn fitting(&self, corner: &Corner, end: usize) -> Vec<u32> {
        let mut found = Vec::new();
        let lookups: Vec<_> =
            self.dimensions.iter().zip(corner.values).map(|(d, value)| d.at(value)).collect();
        let Some((first, others)) = lookups.split_first() else { return found };
        let numbers = first.0.blocks().iter().chain(first.1.blocks()).map(|(number, _)| *number);
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let mut block = either(first, number);
            for other in others {
                for (word, more) in block.iter_mut().zip(either(other, number)) {
                    *word &= more;
                }
            }
            for (mut word, base) in block.into_iter().zip((number * 256..).step_by(64)) {
                while word != 0 {
                    let position = base + word.trailing_zeros();
                    if position as usize >= end {
                        return found;
                    }
                    found.push(position);
                    word &= word - 1;
                }
            }
        }
        found
    }
}

fn either((one, other): &(&Vector, &Vector), number: u32) -> Block {
    let (mut block, more) = (one.block(number), other.block(number));
    for (word, more) in block.iter_mut().zip(more) {
        *word |= more;
    }
    block
}

impl Stretches {
    fn of(rules: &[&ResolvedRule], dimension: Dimension) -> Self {
        let mut any = Vector::default();
        let mut intervals = Vec::new();
        for (position, rule) in (0..).zip(rules) {
            match rule.field(dimension) {
                None => any.set(position),
                Some(field) => {
                    intervals.extend(field.iter().map(|(first, last)| (first, last, position)));
                }
            }
        }
        let mut known: HashMap<Vector, usize> = HashMap::new();
        let mut this = Self { any, starts: Vec::new(), which: Vec::new(), vectors: Vec::new() };
        for (start, vector) in sweep(intervals, 0, rules.len()) {
            this.starts.push(start);
            let number = *known.entry(vector).or_insert_with_key(|vector| {
                this.vectors.push(vector.clone());
                this.vectors.len() - 1
            });
            this.which.push(number);
        }
        this
    }

    /// Rules that ask for the value, and rules that ask for none.
    fn at(&self, value: u128) -> (&Vector, &Vector) {
        let stretch = self.starts.partition_point(|start| *start <= value).saturating_sub(1);
        let vector = self.which.get(stretch).and_then(|number| self.vectors.get(*number));
        (vector.unwrap_or(&self.any), &self.any)
    }
}
