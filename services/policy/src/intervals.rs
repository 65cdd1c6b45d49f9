//! Sets of numbers: what a rule asks of one dimension of a packet.

/// Intervals, both ends included: sorted, and neither overlapping nor touching.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Intervals(Vec<(u128, u128)>);

impl Intervals {
    /// From any intervals.
    pub fn of(mut list: Vec<(u128, u128)>) -> Self {
        list.sort_unstable();
        list.dedup_by(|next, kept| {
            let joined = next.0 <= kept.1.saturating_add(1);
            if joined {
                kept.1 = kept.1.max(next.1);
            }
            joined
        });
        Self(list)
    }

    /// The intervals in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u128, u128)> + '_ {
        self.0.iter().copied()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many intervals there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The lowest number.
    pub fn first(&self) -> Option<u128> {
        self.0.first().map(|(low, _)| *low)
    }

    /// Whether `number` is in it.
    pub fn contains(&self, number: u128) -> bool {
        self.holding(number).is_some()
    }

    /// Whether all of `other` is in it.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(low, high)| self.holding(low).is_some_and(|(_, end)| high <= end))
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        while let (Some((a, b)), Some((c, d))) = (left.peek().copied(), right.peek().copied()) {
            if a.max(c) <= b.min(d) {
                both.push((a.max(c), b.min(d)));
            }
            if b <= d {
                left.next();
            } else {
                right.next();
            }
        }
        Self(both)
    }

    /// What is in this one only.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        for (low, high) in self.iter() {
            // From here on nothing has been taken away yet.
            let mut start = Some(low);
            let begin = other.0.partition_point(|(_, end)| *end < low);
            for (a, b) in other.iter().skip(begin).take_while(|(a, _)| *a <= high) {
                if let Some(from) = start
                    && from < a
                {
                    rest.push((from, a - 1));
                }
                start = b.checked_add(1).filter(|next| *next <= high);
            }
            rest.extend(start.map(|from| (from, high)));
        }
        Self(rest)
    }

    fn holding(&self, number: u128) -> Option<(u128, u128)> {
        let after = self.0.partition_point(|(low, _)| *low <= number);
        self.0.get(after.checked_sub(1)?).copied().filter(|(_, high)| number <= *high)
    }

    /// The fewest prefixes of 128 bits that are the same numbers, as first number and length.
    pub fn prefixes(&self) -> impl Iterator<Item = (u128, u32)> + '_ {
        self.iter().flat_map(|(low, high)| Prefixes { next: Some(low), high })
    }
}

struct Prefixes {
    next: Option<u128>,
    high: u128,
}

impl Iterator for Prefixes {
    type Item = (u128, u32);

    fn next(&mut self) -> Option<(u128, u32)> {
        let low = self.next?;
        // The largest block that begins here and does not go beyond the end.
        let mut bits = low.trailing_zeros();
        while bits > 0 && low | (u128::MAX >> (128 - bits)) > self.high {
            bits -= 1;
        }
        let last = if bits == 0 { low } else { low | (u128::MAX >> (128 - bits)) };
        self.next = last.checked_add(1).filter(|next| *next <= self.high);
        Some((low, 128 - bits))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn sets() -> impl Strategy<Value = Intervals> {
        collection::vec((0..64_u128, 0..8_u128), 0..6)
            .prop_map(|list| Intervals::of(list.iter().map(|(a, n)| (*a, a + n)).collect()))
    }

    proptest! {
        #[test]
        fn operations_are_those_of_sets(a in sets(), b in sets()) {
            let (both, rest) = (a.intersection(&b), a.without(&b));
            for n in 0..80 {
                prop_assert_eq!(both.contains(n), a.contains(n) && b.contains(n), "{}", n);
                prop_assert_eq!(rest.contains(n), a.contains(n) && !b.contains(n), "{}", n);
            }
            prop_assert_eq!(a.covers(&b), (0..80).all(|n| a.contains(n) || !b.contains(n)));
            prop_assert_eq!(Intervals::of(both.iter().collect()), both);
            prop_assert_eq!(Intervals::of(rest.iter().collect()), rest);
        }

        #[test]
        fn prefixes_are_the_same_numbers(a in sets()) {
            let mut numbers = Vec::new();
            for (first, length) in a.prefixes() {
                numbers.push((first, first | u128::MAX.checked_shr(length).unwrap_or(0)));
            }
            prop_assert_eq!(Intervals::of(numbers), a);
        }
    }

    #[test]
    fn the_ends_of_the_range_are_numbers_too() {
        let all = Intervals::of(vec![(0, u128::MAX)]);
        assert_eq!(all.prefixes().collect::<Vec<_>>(), [(0, 0)]);
        let last = Intervals::of(vec![(u128::MAX, u128::MAX)]);
        assert_eq!(last.prefixes().collect::<Vec<_>>(), [(u128::MAX, 128)]);
        assert_eq!(all.without(&last), Intervals::of(vec![(0, u128::MAX - 1)]));
        assert!(all.without(&all).is_empty());
    }
}
