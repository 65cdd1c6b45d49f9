//! The index of the flow table.
//!
//! Flows lie in an array of records; this index finds a record by the hash of a key. It is an array
//! of buckets of one cache line, eight entries each; a key has two buckets it may be in. An entry is
//! one 64-bit word: half of the hash (the fingerprint) and a payload that says which record. So a
//! lookup costs one cache line and a compare of the record's key, insertion and removal are one
//! atomic operation each, and user space removes entries in mapped memory without a system call.
//!
//! Two keys with the same fingerprint are never both in the buckets of one of them:
//! [`insert`] refuses the second. Therefore a lookup has one candidate, and its caller compares one
//! record. One insertion in about a hundred million meets such a twin; a translated flow then takes
//! another port, any other is refused.
//!
//! Everything works on [`Memory`], which is a pair of arrays: maps in the kernel, mapped memory in
//! the service, vectors in tests.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features))]

mod atomic;

use core::sync::atomic::Ordering;

pub use atomic::{AtomicU32, AtomicU64};

/// Entries of a bucket.
pub const SLOTS: usize = 8;

/// Locks that insertions take, by fingerprint. A power of two.
pub const LOCKS: u32 = 256;

/// From this many entries on a bucket leaves new ones to the other if that has fewer. Lookups look
/// into the first bucket first, so it is to be preferred while there is room; but filling it to the
/// end would have some pair of buckets full at a load of 0.26 (at a million entries), and this does
/// at 0.6.
const CROWDED: u32 = 6;

/// How often a lock is tried before an insertion gives up. A lock is held for less than a
/// microsecond, by code that nothing but an interrupt delays. The kernel's verifier follows every
/// try, wherever an insertion stands.
const PATIENCE: u32 = 16;

/// How often a place that another insertion took in the same moment is looked for again.
const RACES: u32 = 4;

/// The bit of a payload that every entry has, so that one look tells whether it is free. Part of the
/// payload that is given and returned.
pub const IN_USE: u32 = 1 << 31;

/// One cache line of the index. An entry of zero is free.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Bucket(pub [AtomicU64; SLOTS]);

/// Where buckets and locks are.
pub trait Memory {
    /// Number of buckets, at least 1.
    fn buckets(&self) -> u32;
    /// A bucket; `None` if `index` is not below [`Self::buckets`].
    fn bucket(&self, index: u32) -> Option<&Bucket>;
    /// A lock; `None` if `index` is not below [`LOCKS`].
    fn lock(&self, index: u32) -> Option<&AtomicU32>;
}

/// Hash of a key, see [`hash16`] and [`hash40`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hash(pub u64);

/// Why nothing was inserted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InsertError {
    /// There is an entry with this fingerprint already: with this payload.
    Exists(u32),
    /// Both buckets are full.
    Full,
    /// Another insertion held the lock for too long.
    Busy,
}

// Odd constants with well spread bits (the first of wyhash, the others of splitmix64).
const K1: u64 = 0xa076_1d64_78bd_642f;
const K2: u64 = 0xbf58_476d_1ce4_e5b9;
const K3: u64 = 0x94d0_49bb_1331_11eb;

/// Bits of a key's last word that choose its buckets; all of it is in the fingerprint. A packet's
/// zone, which stands in the others, is known later than its headers: so the way to the bucket does not
/// wait for it.
const PLACE: u64 = (1 << 40) - 1;

/// Hashes a key of two words. `seed` is secret and of the table's lifetime: who does not know it
/// cannot choose addresses and ports that fall into one bucket.
///
/// For the bucket a sum of products with secret odd factors (Dietzfelbinger's universal hashing), folded
/// and multiplied once more, so that numbers in a row, as ports are, do not stay one. The shortest way
/// from a packet to its bucket counts more than the number of steps: everything else that is done about
/// the packet waits for it.
#[inline(always)]
pub const fn hash16(seed: [u64; 2], key: [u64; 2]) -> Hash {
    let ends = (key[1] & PLACE).wrapping_mul(seed[1] | 1);
    finish(key[0].wrapping_mul(seed[0] | 1).wrapping_add(ends), key[1])
}

/// From the sum over a key, and its last word.
#[inline(always)]
const fn finish(sum: u64, last: u64) -> Hash {
    let place = (sum ^ sum >> 32).wrapping_mul(K3);
    // The fingerprint has the time that the bucket takes to come from memory.
    let mixed = (place ^ place >> 32).wrapping_add((last >> PLACE.count_ones()).wrapping_mul(K1));
    Hash((mixed.wrapping_mul(K2) >> 32) << 32 | place >> 32)
}

/// Hashes a key of five words.
#[inline(always)]
pub const fn hash40(seed: [u64; 2], key: [u64; 5]) -> Hash {
    let mut h = (key[0] ^ seed[0]).wrapping_mul(K1);
    h ^= h >> 32;
    h = (h ^ key[1] ^ seed[1]).wrapping_mul(K2);
    h ^= h >> 29;
    h = (h ^ key[2]).wrapping_mul(K1);
    h ^= h >> 32;
    h = (h ^ key[3]).wrapping_mul(K2);
    finish(h.wrapping_add((key[4] & PLACE).wrapping_mul(seed[0] | 1)), key[4])
}

impl Hash {
    #[inline(always)]
    const fn fingerprint(self) -> u32 {
        // Never 0: with a payload of 0 too, the entry would look free.
        (self.0 >> 32) as u32 | 1
    }

    #[inline(always)]
    const fn entry(self, payload: u32) -> u64 {
        (self.fingerprint() as u64) << 32 | payload as u64
    }

    /// Scales the low half to the number of buckets, without a division.
    #[inline(always)]
    const fn first(self, buckets: u32) -> u32 {
        (((self.0 & 0xffff_ffff) * buckets as u64) >> 32) as u32
    }

    /// The sum of both buckets is, modulo their number, given by the fingerprint alone: two keys
    /// with the same fingerprint that share one bucket share both, so that an insertion sees every
    /// entry that a lookup could take for its own.
    #[inline(always)]
    const fn second(self, buckets: u32) -> u32 {
        let first = self.first(buckets);
        let mixed = self.fingerprint().wrapping_mul(K1 as u32);
        let sum = ((mixed as u64 * buckets as u64) >> 32) as u32;
        if sum >= first { sum - first } else { sum + (buckets - first) }
    }
}

/// The payload of the entry with the fingerprint of `hash`; its record's key must be compared.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, hash: Hash) -> Option<u32> {
    let buckets = memory.buckets();
    let fingerprint = hash.fingerprint();
    if let Some(payload) = search(memory.bucket(hash.first(buckets))?, fingerprint) {
        return Some(payload);
    }
    search(memory.bucket(hash.second(buckets))?, fingerprint)
}

#[inline(always)]
fn search(bucket: &Bucket, fingerprint: u32) -> Option<u32> {
    let [a, b, c, d, e, f, g, h] = &bucket.0;
    for slot in [a, b, c, d, e, f, g, h] {
        // Half by half: in the kernel that is two instructions a slot. If the entry is exchanged
        // between both, this one has gone, and the record of the other has another key.
        if atomic::upper_half(slot) == fingerprint {
            return Some(atomic::lower_half(slot));
        }
    }
    None
}

/// Adds an entry. Whoever finds it sees the record as it was before this call.
///
/// # Errors
/// See [`InsertError`]; nothing is changed then.
#[inline(always)]
pub fn insert<M: Memory>(memory: &M, hash: Hash, payload: u32) -> Result<(), InsertError> {
    let Some(lock) = memory.lock(hash.fingerprint() >> 8 & (LOCKS - 1)) else {
        return Err(InsertError::Full);
    };
    // Without it two CPUs could insert the same key at once, each into another free place.
    let mut held = false;
    for _ in 0..PATIENCE {
        if lock.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            held = true;
            break;
        }
    }
    if !held {
        return Err(InsertError::Busy);
    }
    let result = insert_locked(memory, hash, payload);
    lock.swap(0, Ordering::SeqCst);
    result
}

#[inline(always)]
fn insert_locked<M: Memory>(memory: &M, hash: Hash, payload: u32) -> Result<(), InsertError> {
    let buckets = memory.buckets();
    let Some(first) = memory.bucket(hash.first(buckets)) else {
        return Err(InsertError::Full);
    };
    let Some(second) = memory.bucket(hash.second(buckets)) else {
        return Err(InsertError::Full);
    };
    let fingerprint = hash.fingerprint();
    if let Some(twin) = search(first, fingerprint) {
        return Err(InsertError::Exists(twin));
    }
    if let Some(twin) = search(second, fingerprint) {
        return Err(InsertError::Exists(twin));
    }
    let entry = hash.entry(payload | IN_USE);
    let mut room = Room::of(first);
    let mut one = first;
    let mut other = second;
    if room.used() >= CROWDED {
        let elsewhere = Room::of(second);
        if room.used() > elsewhere.used() {
            (one, other, room) = (second, first, elsewhere);
        }
    }
    for _ in 0..RACES {
        let Some(slot) = room.slot(one) else {
            break;
        };
        // Another key's insertion or removal may be here at the same time.
        if slot.compare_exchange(0, entry, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return Ok(());
        }
        room = Room::of(one);
    }
    for _ in 0..RACES {
        let Some(slot) = Room::of(other).slot(other) else {
            break;
        };
        if slot.compare_exchange(0, entry, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return Ok(());
        }
    }
    Err(InsertError::Full)
}

/// What room a bucket has: the first entry that is free in the lower half (if there is one), how many
/// are used in the upper half.
#[derive(Clone, Copy)]
struct Room(u8);

impl Room {
    /// By the set of used entries, a bit for each.
    #[allow(clippy::indexing_slicing, reason = "made when the program is compiled, or not at all")]
    const OF_SET: [u8; 1 << SLOTS] = {
        let mut rooms = [0; 1 << SLOTS];
        let mut set = 0;
        while set < rooms.len() {
            let used = set as u8;
            rooms[set] =
                (used.trailing_ones() as u8 % SLOTS as u8) | (used.count_ones() as u8) << 4;
            set += 1;
        }
        rooms
    };

    /// Without a branch: the kernel's verifier would follow every combination.
    #[inline(always)]
    fn of(bucket: &Bucket) -> Self {
        /// In memory: the kernel's machine cannot count bits, and would take dozens of steps.
        static OF_SET: [u8; 1 << SLOTS] = Room::OF_SET;
        let [a, b, c, d, e, f, g, h] = &bucket.0;
        let mut used = 0;
        for (index, slot) in [a, b, c, d, e, f, g, h].into_iter().enumerate() {
            used |= (slot.load(Ordering::Relaxed) as u32 & IN_USE) >> (31 - index);
        }
        Self(OF_SET.get(used as usize).copied().unwrap_or((SLOTS as u8) << 4))
    }

    #[inline(always)]
    fn used(self) -> u32 {
        u32::from(self.0 >> 4)
    }

    /// The first entry that was free.
    #[inline(always)]
    fn slot(self, bucket: &Bucket) -> Option<&AtomicU64> {
        if self.used() == SLOTS as u32 {
            return None;
        }
        bucket.0.get(usize::from(self.0) % SLOTS)
    }
}

/// Removes the entry of `hash` with this payload; false if it is not there.
#[inline(always)]
pub fn remove<M: Memory>(memory: &M, hash: Hash, payload: u32) -> bool {
    let buckets = memory.buckets();
    let entry = hash.entry(payload | IN_USE);
    for index in [hash.first(buckets), hash.second(buckets)] {
        let Some(bucket) = memory.bucket(index) else {
            return false;
        };
        for slot in &bucket.0 {
            if slot.load(Ordering::Relaxed) == entry
                && slot.compare_exchange(entry, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                return true;
            }
        }
    }
    false
}
