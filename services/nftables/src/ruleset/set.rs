//! Named sets and maps.

use super::{Type, Value, Verdict};

/// A set, or a map if it has data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What it is looked up by.
    pub key: Type,
    /// How it is filled.
    pub kind: SetKind,
    /// What a map holds.
    pub data: Option<SetData>,
    /// Elements; empty for sets that packets fill.
    pub elements: Vec<Element>,
}

/// How a set is filled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetKind {
    /// By us, with single values.
    Values,
    /// By us, with ranges.
    Intervals,
    /// By packets.
    Dynamic {
        /// Most elements; packets beyond find no room.
        size: u32,
        /// Life of an element after its last packet, in seconds; `None` for as long as it is used.
        timeout_s: Option<u32>,
    },
}

/// What a map holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetData {
    /// Verdicts.
    Verdicts,
    /// Values.
    Values(Type),
}

/// An element.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Element {
    /// A single value.
    Value(Value),
    /// All values from the first to the last.
    Range(Value, Value),
    /// Of a map of verdicts.
    Verdict(Value, Verdict),
    /// Of a map of values.
    Mapped(Value, Value),
}

impl Set {
    /// A set of single values.
    pub fn values(name: String, key: Type, values: impl IntoIterator<Item = Value>) -> Self {
        let mut values: Vec<Value> = values.into_iter().collect();
        values.sort();
        values.dedup();
        let elements = values.into_iter().map(Element::Value).collect();
        Self { name, key, kind: SetKind::Values, data: None, elements }
    }

    /// A set of ranges (first, last). Those that overlap or touch become one: nft and the kernel
    /// refuse overlaps.
    pub fn intervals(
        name: String,
        key: Type,
        ranges: impl IntoIterator<Item = (Value, Value)>,
    ) -> Self {
        let mut ranges: Vec<(Value, Value)> =
            ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort();
        let mut merged: Vec<(Value, Value)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if *end >= first || end.successor().as_ref() == Some(&first) => {
                    if last > *end {
                        *end = last;
                    }
                }
                _ => merged.push((first, last)),
            }
        }
        let elements =
            merged
                .into_iter()
                .map(|(first, last)| {
                    if first == last { Element::Value(first) } else { Element::Range(first, last) }
                })
                .collect();
        Self { name, key, kind: SetKind::Intervals, data: None, elements }
    }

    /// A set that packets fill.
    pub fn dynamic(name: String, key: Type, size: u32, timeout_s: Option<u32>) -> Self {
        let kind = SetKind::Dynamic { size, timeout_s };
        Self { name, key, kind, data: None, elements: Vec::new() }
    }

    /// A map to verdicts.
    pub fn verdicts(
        name: String,
        key: Type,
        verdicts: impl IntoIterator<Item = (Value, Verdict)>,
    ) -> Self {
        let elements =
            verdicts.into_iter().map(|(value, verdict)| Element::Verdict(value, verdict)).collect();
        Self { name, key, kind: SetKind::Values, data: Some(SetData::Verdicts), elements }
    }

    /// A map to values.
    pub fn map(
        name: String,
        key: Type,
        data: Type,
        values: impl IntoIterator<Item = (Value, Value)>,
    ) -> Self {
        let elements =
            values.into_iter().map(|(value, data)| Element::Mapped(value, data)).collect();
        Self { name, key, kind: SetKind::Values, data: Some(SetData::Values(data)), elements }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_has_what_its_ranges_have_and_nothing_else(
            ranges in prop::collection::vec((any::<u8>(), any::<u8>()), 0..12),
        ) {
            let values = ranges.iter().map(|(a, b)| (Value::Byte(*a), Value::Byte(*b)));
            let set = Set::intervals("b".to_owned(), Type::Protocol, values);
            for number in 0..=u8::MAX {
                let wanted = ranges.iter().any(|(a, b)| *a <= number && number <= *b);
                let value = Value::Byte(number);
                let holders = set.elements.iter().filter(|element| match element {
                    Element::Value(one) => *one == value,
                    Element::Range(first, last) => *first <= value && value <= *last,
                    Element::Verdict(..) | Element::Mapped(..) => false,
                });
                prop_assert_eq!(holders.count(), usize::from(wanted));
            }
        }
    }

    fn ports(ranges: &[(u16, u16)]) -> Vec<Element> {
        let ranges = ranges.iter().map(|(a, b)| (Value::Port(*a), Value::Port(*b)));
        Set::intervals("p".to_owned(), Type::Port, ranges).elements
    }

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let merged = ports(&[(80, 80), (8000, 8100), (81, 90), (8050, 8060), (9, 7)]);
        let expected = [
            Element::Range(Value::Port(80), Value::Port(90)),
            Element::Range(Value::Port(8000), Value::Port(8100)),
        ];
        assert_eq!(merged, expected);
        assert_eq!(ports(&[(0, 65_535), (65_535, 65_535)]).len(), 1);
    }
}
