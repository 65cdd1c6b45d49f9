//! The compiled rules in mapped memory.

use std::{collections::BTreeMap, io, path::Path, sync::atomic::Ordering};

use portcullis_datapath_abi::{
    classifier::{HEADER, Line, slot},
    map,
};

use super::{DatapathError, Result, mapped::Mapped, maps};

/// The lines of both banks.
pub struct PolicyLines(Mapped<Line>);

impl PolicyLines {
    /// Maps the policy pinned in a folder.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        Ok(Self(Mapped::of(&maps::data(folder, map::POLICY)?, map::POLICY)?))
    }

    /// Lines of each bank.
    pub fn capacity(&self) -> u32 {
        self.0.len() / 2
    }

    /// Replaces the lines of a bank.
    ///
    /// # Errors
    /// If there is no room: nothing is written then.
    pub fn write(&self, bank: u32, lines: &[[u64; 4]]) -> Result<()> {
        if lines.len() > self.capacity() as usize {
            let message = format!("{} lines, room for {}", lines.len(), self.capacity());
            let source = io::Error::new(io::ErrorKind::OutOfMemory, message);
            return Err(DatapathError::Memory { name: map::POLICY, source });
        }
        for (number, words) in (0..).zip(lines) {
            self.set(slot(bank, number), *words);
        }
        Ok(())
    }

    /// Numbers of the rules in a bank, by the hashes of their names.
    pub fn numbers(&self, bank: u32) -> BTreeMap<u32, u16> {
        let line = |number| self.0.get(slot(bank, number));
        let Some(header) = line(HEADER) else { return BTreeMap::new() };
        let (first, count) = (header.high(1), header.high(3).min(self.capacity()));
        (first..first.saturating_add(count))
            .filter_map(|number| line(number).map(|rule| (rule.high(1), rule.low(0) as u16)))
            .collect()
    }

    /// Takes over what a policy of another size says, at the same places.
    pub(super) fn copy_of(&self, other: &Self) {
        for index in 0..self.0.len().min(other.0.len()) {
            if let Some(line) = other.0.get(index) {
                self.set(index, [0, 1, 2, 3].map(|word| line.word(word)));
            }
        }
    }

    /// Whether nothing was ever written.
    pub(super) fn is_empty(&self) -> bool {
        // The header's second word is zero in no policy.
        let is_empty = |bank| self.0.get(slot(bank, HEADER)).is_none_or(|line| line.word(1) == 0);
        is_empty(0) && is_empty(1)
    }

    fn set(&self, index: u32, words: [u64; 4]) {
        if let Some(line) = self.0.get(index) {
            for (to, from) in line.0.iter().zip(words) {
                to.store(from, Ordering::Relaxed);
            }
        }
    }
}
