//! The pair of records: which one counts, and which one is written next.
use crate::record::{self, RECORD_SIZE, Record, RecordError};
use crate::{BootState, TRIES};
use sha2::{Digest, Sha256};

/// Size of both records in bytes; they stand at the start of the `state` partition.
pub const PAIR_SIZE: usize = 2 * RECORD_SIZE;

/// Where the boot state came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the record at offset 0.
    First,
    /// From the record at offset 4096.
    Second,
    /// Neither record is valid: this is the safe default, [`BootState::unknown`].
    Default,
}

/// The boot state of a disk and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The boot state that counts.
    pub state: BootState,
    /// Where it came from.
    pub origin: Origin,
    /// What is wrong with the first and second record, if anything.
    pub damage: [Option<RecordError>; 2],
    generation: u64,
}

/// A write that is due: `bytes` to `offset` of the `state` partition, then a flush.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Offset in the `state` partition in bytes: 0 or 4096.
    pub offset: usize,
    /// The new record.
    pub bytes: [u8; RECORD_SIZE],
    after: Loaded,
}

/// The SHA-256 of both records as they stand on a disk.
///
/// The boot manager tells it to the system that it starts, after it has counted the start: of
/// several disks with the same partitions, such as a stick that the disk was flashed from, only the
/// one that was booted has just this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// That of two records, damaged or not.
    #[must_use]
    pub fn of(first: &[u8], second: &[u8]) -> Self {
        Self(Sha256::new().chain_update(first).chain_update(second).finalize().into())
    }
}

/// Reads the two records. Of two valid ones the newer counts; if none is valid the answer is the
/// safe default, and its [`Origin`] says so.
#[must_use]
pub fn decode_pair(first: &[u8], second: &[u8]) -> Loaded {
    let (first, second) = (record::decode(first), record::decode(second));
    let damage = [first.err(), second.err()];
    let (origin, record) = match (first, second) {
        (Ok(first), Ok(second)) if is_newer(&second, &first) => (Origin::Second, second),
        (Ok(first), _) => (Origin::First, first),
        (Err(_), Ok(second)) => (Origin::Second, second),
        (Err(_), Err(_)) => {
            (Origin::Default, Record { generation: 0, state: BootState::unknown() })
        }
    };
    Loaded { state: record.state, origin, damage, generation: record.generation }
}

/// Whether `one` was written after `other`. Generations may wrap around.
const fn is_newer(one: &Record, other: &Record) -> bool {
    one.generation.wrapping_sub(other.generation).cast_signed() > 0
}

impl Loaded {
    /// The write that makes `state` the boot state. It goes to the record that does not count now;
    /// until [`Pending::written`] the old one counts, so after a failed write the same call is right
    /// again.
    #[must_use]
    pub fn next(&self, state: BootState) -> Pending {
        let generation = self.generation.wrapping_add(1);
        let (origin, offset) = match self.origin {
            Origin::First => (Origin::Second, RECORD_SIZE),
            Origin::Second | Origin::Default => (Origin::First, 0),
        };
        let mut damage = self.damage;
        if let Some(written) = damage.get_mut(offset / RECORD_SIZE) {
            *written = None;
        }
        let bytes = record::encode(&Record { generation, state });
        Pending { offset, bytes, after: Self { state, origin, damage, generation } }
    }
}

impl Pending {
    /// What is on the disk after the write has succeeded.
    #[must_use]
    pub const fn written(self) -> Loaded {
        self.after
    }
}

impl BootState {
    /// The state of a disk whose records are both lost: both slots are tried, slot a first.
    #[must_use]
    pub fn unknown() -> Self {
        let mut state = Self::flashed();
        state.b = crate::SlotState { priority: state.a.priority - 1, ..state.a };
        state
    }

    /// The state of a freshly flashed disk: the image is in slot a, not yet confirmed; slot b is
    /// empty.
    #[must_use]
    pub fn flashed() -> Self {
        let a = crate::SlotState {
            priority: 15,
            tries_left: TRIES,
            confirmed: false,
            boot_failures: 0,
        };
        Self { a, b: crate::SlotState::default() }
    }

    /// Both records of a freshly flashed disk, to be written to the start of its `state` partition.
    #[must_use]
    pub fn flashed_records() -> [u8; PAIR_SIZE] {
        let record = record::encode(&Record { generation: 1, state: Self::flashed() });
        let mut bytes = [0; PAIR_SIZE];
        if let Some(first) = bytes.first_chunk_mut() {
            *first = record;
        }
        bytes
    }
}
