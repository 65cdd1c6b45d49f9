//! Several CPUs at once.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use portcullis_flow_table::{Hash, IN_USE, InsertError, find, hash16, insert, remove};

use crate::memory::{Index, SEED};

const THREADS: u32 = 4;
const KEYS: u64 = 64;

fn hash(key: u64) -> Hash {
    hash16(SEED, [key, 0])
}

/// All threads fight for the same few keys. Whoever inserts one owns it until it is removed: if two
/// ever own the same, the index had it twice.
#[test]
fn no_key_is_ever_in_twice() {
    let index = Index::new(16);
    let owners: Vec<AtomicU32> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let stop = AtomicBool::new(false);
    let won = AtomicU64::new(0);
    let met = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in IN_USE + 1..=IN_USE + THREADS {
            let (index, owners, stop, won, met) = (&index, &owners, &stop, &won, &met);
            scope.spawn(move || {
                let mut key = u64::from(thread ^ IN_USE);
                while !stop.load(Ordering::Relaxed) {
                    key = (key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)) % KEYS;
                    let owner = owners.get(key as usize).expect("below KEYS");
                    match insert(index, hash(key), thread) {
                        Ok(()) => {
                            assert_eq!(owner.swap(thread, Ordering::SeqCst), 0, "key {key} twice");
                            let found = find(index, hash(key));
                            assert_eq!(found, Some(thread), "ours is the one that is found");
                            won.fetch_add(1, Ordering::Relaxed);
                            owner.store(0, Ordering::SeqCst);
                            assert!(remove(index, hash(key), thread), "nobody else removes it");
                        }
                        Err(InsertError::Exists(_)) => {
                            met.fetch_add(1, Ordering::Relaxed);
                        }
                        // The thread that holds the lock was put off its CPU.
                        Err(InsertError::Busy) => thread::yield_now(),
                        Err(InsertError::Full) => panic!("64 keys in 128 slots"),
                    }
                }
            });
        }
        thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(index.payloads().is_empty() && index.is_unlocked());
    let (won, met) = (won.into_inner(), met.into_inner());
    assert!(won > 10_000 && met > 0, "{won} insertions, {met} met another's");
}

/// Different keys in the same buckets do not lose each other.
#[test]
fn neighbours_do_not_disturb() {
    let index = Index::new(512);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let index = &index;
            scope.spawn(move || {
                for round in 0..200_u64 {
                    let keys = (0..400).map(|key| u64::from(thread) << 32 | key);
                    let mut inserted = Vec::new();
                    for (key, payload) in keys.zip(IN_USE..) {
                        loop {
                            match insert(index, hash(key), payload) {
                                Ok(()) => inserted.push((key, payload)),
                                Err(InsertError::Busy) => {
                                    thread::yield_now();
                                    continue;
                                }
                                // 1,600 of 4,096 slots: it can happen, rarely.
                                Err(InsertError::Full) => {}
                                Err(InsertError::Exists(_)) => panic!("key {key} in round {round}"),
                            }
                            break;
                        }
                    }
                    assert!(inserted.len() > 390, "{}", inserted.len());
                    for (key, payload) in &inserted {
                        assert_eq!(find(index, hash(*key)), Some(*payload));
                    }
                    for (key, payload) in inserted {
                        assert!(remove(index, hash(key), payload));
                    }
                }
            });
        }
    });
    assert_eq!(index.payloads().into_iter().collect::<HashSet<_>>(), HashSet::new());
}
