//! Bit vectors over the positions of rules, of which only blocks with bits are kept.

use portcullis_datapath_abi::classifier::{BLOCK_BITS, BLOCKS};

/// Positions at most.
pub const MAX_POSITIONS: usize = (BLOCK_BITS * BLOCKS) as usize;

/// A block of 256 bits.
pub type Block = [u64; 4];

/// A bit vector: blocks with their numbers, in order, none of them empty.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Vector(Vec<(u32, Block)>);

impl Vector {
    /// Adds a position.
    pub fn set(&mut self, position: u32) {
        let (number, bit) = (position / BLOCK_BITS, position % BLOCK_BITS);
        let index = match self.0.last() {
            // Nearly always positions come in order.
            Some((last, _)) if *last == number => self.0.len() - 1,
            _ => match self.0.binary_search_by_key(&number, |(number, _)| *number) {
                Ok(index) => index,
                Err(index) => {
                    self.0.insert(index, (number, [0; 4]));
                    index
                }
            },
        };
        if let Some((_, block)) = self.0.get_mut(index)
            && let Some(word) = block.get_mut((bit / 64) as usize)
        {
            *word |= 1 << (bit % 64);
        }
    }

    /// The blocks with their numbers.
    pub fn blocks(&self) -> &[(u32, Block)] {
        &self.0
    }

    /// A bit for each block that there is.
    pub fn summary(&self) -> u64 {
        self.0.iter().fold(0, |summary, (number, _)| summary | 1 << number)
    }

    /// A block; empty if it is not kept.
    pub fn block(&self, number: u32) -> Block {
        let index = self.0.binary_search_by_key(&number, |(number, _)| *number);
        index.ok().and_then(|index| self.0.get(index)).map_or([0; 4], |(_, block)| *block)
    }

    /// The same blocks, with the bits that `other` has in them.
    pub fn filled_up(&self, other: &Self) -> Self {
        let blocks = self.0.iter().map(|(number, block)| {
            let more = other.block(*number);
            let mut both = *block;
            for (word, more) in both.iter_mut().zip(more) {
                *word |= more;
            }
            (*number, both)
        });
        Self(blocks.collect())
    }
}

/// All positions, to be set and cleared at will.
pub struct Board {
    blocks: Vec<Block>,
}

impl Board {
    /// For positions below `count`.
    pub fn new(count: usize) -> Self {
        Self { blocks: vec![[0; 4]; count.div_ceil(BLOCK_BITS as usize)] }
    }

    /// Sets or clears a position.
    pub fn put(&mut self, position: u32, value: bool) {
        let (number, bit) = (position / BLOCK_BITS, position % BLOCK_BITS);
        if let Some(word) = self
            .blocks
            .get_mut(number as usize)
            .and_then(|block| block.get_mut((bit / 64) as usize))
        {
            let mask = 1 << (bit % 64);
            if value { *word |= mask } else { *word &= !mask }
        }
    }

    /// What is set now.
    pub fn snapshot(&self) -> Vector {
        let blocks = (0..).zip(&self.blocks).filter(|(_, block)| **block != [0; 4]);
        Vector(blocks.map(|(number, block)| (number, *block)).collect())
    }
}

/// Cuts a line of numbers into stretches in which the same intervals hold: for each, where it begins
/// and the positions of its intervals. `intervals` are of (first, last, position), and those of one
/// position do not overlap. The first stretch begins at `start`.
pub fn sweep(
    intervals: impl IntoIterator<Item = (u128, u128, u32)>,
    start: u128,
    count: usize,
) -> Vec<(u128, Vector)> {
    let mut events = Vec::new();
    for (first, last, position) in intervals {
        events.push((first, position, true));
        if let Some(behind) = last.checked_add(1) {
            events.push((behind, position, false));
        }
    }
    events.sort_unstable_by_key(|(at, ..)| *at);
    let mut board = Board::new(count);
    let mut stretches = Vec::new();
    let mut here = start;
    for (at, position, value) in events {
        if at != here {
            stretches.push((here, board.snapshot()));
            here = at;
        }
        board.put(position, value);
    }
    stretches.push((here, board.snapshot()));
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(vector: &Vector) -> Vec<u32> {
        let mut found = Vec::new();
        for (number, block) in vector.blocks() {
            for bit in 0..BLOCK_BITS {
                if block[(bit / 64) as usize] >> (bit % 64) & 1 == 1 {
                    found.push(number * BLOCK_BITS + bit);
                }
            }
        }
        found
    }

    #[test]
    fn positions_in_any_order() {
        let mut vector = Vector::default();
        for position in [700, 3, 255, 256, 3, 16_383] {
            vector.set(position);
        }
        assert_eq!(positions(&vector), [3, 255, 256, 700, 16_383]);
        assert_eq!(vector.summary(), 1 << 63 | 0b111);
        let mut other = Vector::default();
        other.set(4);
        other.set(5000);
        assert_eq!(positions(&vector.filled_up(&other)), [3, 4, 255, 256, 700, 16_383]);
    }

    #[test]
    fn stretches_have_the_intervals_that_hold() {
        let stretches = sweep([(10, 19, 0), (15, 15, 1), (19, u128::MAX, 300)], 0, 301);
        let found: Vec<_> =
            stretches.iter().map(|(start, vector)| (*start, positions(vector))).collect();
        let expected: Vec<(u128, Vec<u32>)> = vec![
            (0, vec![]),
            (10, vec![0]),
            (15, vec![0, 1]),
            (16, vec![0]),
            (19, vec![0, 300]),
            (20, vec![300]),
        ];
        assert_eq!(found, expected);
        assert_eq!(sweep([(0, 5, 0)], 0, 1).first().map(|(start, _)| *start), Some(0));
    }
}
