//! The boot state on the disk.
use crate::disk::{Buffer, Disk, DiskError, Partition};
use portcullis_bootstate::{BootState, Fingerprint, Loaded, RECORD_SIZE, decode_pair};

/// Reads the boot state. Without a readable record the answer is the safe default.
///
/// # Errors
/// Never instead of an answer: the fault comes beside it.
pub fn read(
    disk: &mut impl Disk,
    partition: Option<Partition>,
) -> (Loaded, Result<(), StateError>) {
    let [first, second] = records(disk, partition);
    let loaded = decode_pair(
        first.as_ref().map_or(&[], Buffer::bytes),
        second.as_ref().map_or(&[], Buffer::bytes),
    );
    (loaded, first.and(second).map(|_| ()))
}

/// The fingerprint of the boot state as it is on the disk now, by which the system that is started
/// finds this disk among copies of it. None if it cannot be read.
pub fn fingerprint(disk: &mut impl Disk, partition: Option<Partition>) -> Option<Fingerprint> {
    match records(disk, partition) {
        [Ok(first), Ok(second)] => Some(Fingerprint::of(first.bytes(), second.bytes())),
        _ => None,
    }
}

/// Each record is read by itself: a bad sector under one must not cost the other.
fn records(disk: &mut impl Disk, partition: Option<Partition>) -> [Result<Buffer, StateError>; 2] {
    [0, RECORD_SIZE as u64].map(|offset| {
        let partition = partition.ok_or(StateError::NoPartition)?;
        Ok(partition.read(disk, offset, RECORD_SIZE, |_| {})?)
    })
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
