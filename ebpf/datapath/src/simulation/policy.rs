//! The compiled rules in ordinary memory.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::atomic::{AtomicU32, AtomicU64},
};

use portcullis_datapath_abi::{
    classifier::{self, ClassKey, Line, SourceKey},
    policy::{MAX_ZONES, NO_RULE},
};

use super::Simulation;
use crate::classify::{Action, PolicyTables};

/// Sources that there is room for, under all rules together.
const SOURCES: usize = 64;

/// Both banks, and the state of limits.
pub struct PolicyState {
    /// The bank in force.
    pub bank: u32,
    /// Lines by bank.
    pub lines: [Vec<Line>; 2],
    /// Lines of classes by key and prefix length.
    pub classes: HashMap<(ClassKey, u32), u32>,
    /// The time in nanoseconds.
    pub nanoseconds: Cell<u64>,
    rates: [AtomicU64; SOURCES],
    rated: RefCell<HashMap<SourceKey, usize>>,
    flows: [AtomicU32; SOURCES],
    counted: RefCell<HashMap<SourceKey, usize>>,
}

impl Default for PolicyState {
    fn default() -> Self {
        Self {
            bank: 0,
            lines: Default::default(),
            classes: HashMap::new(),
            nanoseconds: Cell::new(1_000_000_000_000),
            rates: [const { AtomicU64::new(0) }; SOURCES],
            rated: RefCell::default(),
            flows: [const { AtomicU32::new(0) }; SOURCES],
            counted: RefCell::default(),
        }
    }
}

impl PolicyState {
    /// Replaces what is in force: lines as words, and classes by key and prefix length.
    pub fn install(&mut self, lines: &[[u64; 4]], classes: &[(ClassKey, u32, u32)]) {
        let lines = lines.iter().map(|words| Line(words.map(AtomicU64::new)));
        if let Some(bank) = self.lines.get_mut(self.bank as usize) {
            *bank = lines.collect();
        }
        self.classes = classes.iter().map(|(key, bits, line)| ((*key, *bits), *line)).collect();
    }
}

impl PolicyState {
    /// Lets everything pass from one zone to another: the default of the pair.
    pub fn allow(&mut self, from: u8, to: u8) {
        self.decide(from, to, Action::Allow, 0);
    }

    /// Sets the default of a pair, with flags of [`classifier`].
    pub fn decide(&mut self, from: u8, to: u8, action: Action, flags: u8) {
        let line = |words: [u64; 4]| Line(words.map(AtomicU64::new));
        let Some(lines) = self.lines.get_mut(self.bank as usize) else { return };
        if lines.is_empty() {
            let zones = MAX_ZONES;
            lines.push(line([0, u64::from(zones), 0, 0]));
            // No rule refuses the others, their default does.
            let refused = || line([classifier::decision(NO_RULE, 0, 0, 0), 0, 0, 0]);
            lines.resize_with(classifier::after_pairs(zones) as usize, refused);
        }
        let Some(zones) = lines.first().map(|header| header.low(1)) else { return };
        if let Some(pair) = lines.get_mut(classifier::pair(zones, from, to) as usize) {
            *pair = line([classifier::decision(NO_RULE, action as u8, flags, 0), 0, 0, 0]);
        }
    }
}

impl PolicyTables for PolicyState {
    fn bank(&self) -> u32 {
        self.bank
    }

    fn line(&self, bank: u32, number: u32) -> Option<&Line> {
        self.lines.get(bank as usize)?.get(number as usize)
    }

    fn class(&self, key: &ClassKey, bits: u32) -> Option<u32> {
        (0..=bits).rev().find_map(|bits| self.classes.get(&(cut(key, bits), bits)).copied())
    }

    fn rule_rate(&self, key: &SourceKey) -> Option<&AtomicU64> {
        let mut rated = self.rated.borrow_mut();
        let next = rated.len();
        self.rates.get(*rated.entry(*key).or_insert(next))
    }

    fn connections(&self, key: &SourceKey) -> Option<&AtomicU32> {
        let mut counted = self.counted.borrow_mut();
        let next = counted.len();
        self.flows.get(*counted.entry(*key).or_insert(next))
    }

    fn policy_clock(&self) -> u64 {
        self.nanoseconds.get()
    }
}

/// The first bits of a key as they stand in memory, zeros behind them.
fn cut(key: &ClassKey, bits: u32) -> ClassKey {
    let mut left = bits;
    let mut word = |word: u32| {
        let kept = left.min(32);
        left -= kept;
        let mask = u32::MAX.checked_shl(32 - kept).unwrap_or(0);
        word & mask.to_be()
    };
    ClassKey { space: word(key.space), address: key.address.map(word) }
}

impl PolicyTables for Simulation {
    fn bank(&self) -> u32 {
        self.policy.bank()
    }

    fn line(&self, bank: u32, number: u32) -> Option<&Line> {
        self.policy.line(bank, number)
    }

    fn class(&self, key: &ClassKey, bits: u32) -> Option<u32> {
        self.policy.class(key, bits)
    }

    fn rule_rate(&self, key: &SourceKey) -> Option<&AtomicU64> {
        self.policy.rule_rate(key)
    }

    fn connections(&self, key: &SourceKey) -> Option<&AtomicU32> {
        self.policy.connections(key)
    }

    fn policy_clock(&self) -> u64 {
        self.policy.policy_clock()
    }
}
