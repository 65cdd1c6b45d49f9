//! Whatever is done to the index, a hash map of the standard library does the same.

use std::collections::HashMap;

use portcullis_flow_table::{Hash, IN_USE, InsertError, find, hash16, hash40, insert, remove};
use proptest::prelude::*;

use crate::memory::{Index, SEED};

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u64, u32),
    Remove(u64),
    Find(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few keys, so that most steps meet an earlier one.
    let step = prop_oneof![
        (0..200_u64, any::<u32>()).prop_map(|(key, payload)| Step::Insert(key, payload | IN_USE)),
        (0..200_u64).prop_map(Step::Remove),
        (0..200_u64).prop_map(Step::Find),
    ];
    prop::collection::vec(step, 0..600)
}

proptest! {
    #[test]
    fn the_index_does_what_a_map_does(steps in steps(), buckets in 1..200_u32) {
        let index = Index::new(buckets);
        let mut model: HashMap<u64, u32> = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(key, payload) => match insert(&index, hash16(SEED, [key, 7]), payload) {
                    Ok(()) => prop_assert_eq!(model.insert(key, payload), None),
                    Err(InsertError::Exists(found)) => {
                        prop_assert_eq!(model.get(&key), Some(&found));
                    }
                    Err(InsertError::Full) => {
                        prop_assert_eq!(model.get(&key), None);
                        // A bucket overflows before the table is full, but not an empty one.
                        prop_assert!(model.len() >= 8);
                    }
                    Err(InsertError::Busy) => prop_assert!(false, "nobody else is here"),
                },
                Step::Remove(key) => {
                    let hash = hash16(SEED, [key, 7]);
                    match model.remove(&key) {
                        Some(payload) => {
                            prop_assert!(!remove(&index, hash, payload.wrapping_add(1)));
                            prop_assert!(remove(&index, hash, payload));
                            prop_assert!(!remove(&index, hash, payload));
                        }
                        None => prop_assert_eq!(find(&index, hash), None),
                    }
                }
                Step::Find(key) => {
                    prop_assert_eq!(find(&index, hash16(SEED, [key, 7])), model.get(&key).copied());
                }
            }
        }
        let mut left = index.payloads();
        let mut expected: Vec<u32> = model.values().copied().collect();
        left.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
        prop_assert!(index.is_unlocked());
    }

    /// Two keys of the same fingerprint are never both where a lookup of one could meet the other;
    /// if they do not meet they may both be in.
    #[test]
    fn twins_are_refused(high in any::<u32>(), lows in prop::collection::vec(any::<u32>(), 2..40),
                         buckets in 1..64_u32) {
        let index = Index::new(buckets);
        let mut stored: Vec<(Hash, u32)> = Vec::new();
        for (payload, low) in (IN_USE..).zip(lows) {
            let hash = Hash(u64::from(high) << 32 | u64::from(low));
            match insert(&index, hash, payload) {
                Ok(()) => stored.push((hash, payload)),
                Err(InsertError::Exists(twin)) => {
                    prop_assert!(stored.iter().any(|(_, payload)| *payload == twin));
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
            for (hash, payload) in &stored {
                prop_assert_eq!(find(&index, *hash), Some(*payload), "found as another");
            }
        }
        for (hash, payload) in stored {
            prop_assert!(remove(&index, hash, payload));
        }
        prop_assert!(index.payloads().is_empty());
    }

    #[test]
    fn every_bit_of_a_key_and_of_the_seed_counts(
        key in any::<[u64; 5]>(), seed in any::<[u64; 2]>(), word in 0..5_usize, bit in 0..64_u32,
    ) {
        let mut other = key;
        if let Some(word) = other.get_mut(word) {
            *word ^= 1 << bit;
        }
        prop_assert_ne!(hash40(seed, key), hash40(seed, other));
        let [a, b, ..] = key;
        let [c, d, ..] = other;
        if word < 2 {
            prop_assert_ne!(hash16(seed, [a, b]), hash16(seed, [c, d]));
        }
        // Factors are made odd, and one of 0 counts for nothing.
        let (bit, a) = (bit.max(1), a | 1);
        prop_assert_ne!(hash16(seed, [a, b]), hash16([seed[0] ^ 1 << bit, seed[1]], [a, b]));
        let ends = b & 0xff_ffff_fffe | 1;
        prop_assert_ne!(hash16(seed, [a, ends]), hash16([seed[0], seed[1] ^ 1 << bit], [a, ends]));
    }
}

#[test]
fn a_bucket_pair_takes_sixteen_and_then_says_so() {
    let index = Index::new(2);
    let mut inserted = 0;
    for key in 0..1000 {
        match insert(&index, hash16(SEED, [key, 0]), 1) {
            Ok(()) => inserted += 1,
            Err(error) => assert_eq!(error, InsertError::Full),
        }
    }
    assert_eq!(inserted, 16);
}

#[test]
fn a_lock_that_is_never_given_back_is_not_waited_for() {
    let index = Index::new(8);
    index.lock_all();
    assert_eq!(insert(&index, hash16(SEED, [1, 1]), 1), Err(InsertError::Busy));
    assert!(index.payloads().is_empty());
}
