//! The boot state on the disk.
use crate::disk::{Disk, DiskError, Partition};
use portcullis_bootstate::{BootState, Loaded, PAIR_SIZE, RECORD_SIZE, decode_pair};

/// Reads the boot state. Without a readable partition the answer is the safe default.
///
/// # Errors
/// Never instead of an answer: the fault comes beside it.
pub fn read(
    disk: &mut impl Disk,
    partition: Option<Partition>,
) -> (Loaded, Result<(), StateError>) {
    let records = partition
        .ok_or(StateError::NoPartition)
        .and_then(|partition| Ok(partition.read(disk, 0, PAIR_SIZE, |_| {})?));
    match records {
        Ok(records) => {
            let (first, second) = records.bytes().split_at_checked(RECORD_SIZE).unwrap_or_default();
            (decode_pair(first, second), Ok(()))
        }
        Err(error) => (decode_pair(&[], &[]), Err(error)),
    }
}

/// Makes `state` the boot state and writes it, if it is another one.
///
/// # Errors
/// If it cannot be written; `loaded` is then unchanged.
pub fn write(
    disk: &mut impl Disk,
    partition: Option<Partition>,
    loaded: &mut Loaded,
    state: BootState,
) -> Result<(), StateError> {
    if loaded.state == state {
        return Ok(());
    }
    let pending = loaded.next(state);
    let partition = partition.ok_or(StateError::NoPartition)?;
    partition.write(disk, pending.offset as u64, &pending.bytes)?;
    *loaded = pending.written();
    Ok(())
}

/// Why the boot state cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The disk has no partition of that name.
    #[error("no partition state")]
    NoPartition,
    /// The disk fails.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
