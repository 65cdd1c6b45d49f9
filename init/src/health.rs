//! Whether this boot is a good one, and what the boot state learns from it.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, time::Duration};

use portcullis_bootstate::{BootState, Loaded, PAIR_SIZE, RECORD_SIZE, Slot, decode_pair, disk};

use crate::disk::{Partition, partitions};

/// How long all must be well before the boot counts as healthy.
pub const SETTLED: Duration = Duration::from_secs(5);

/// How long an unconfirmed slot may take to become healthy.
pub const UNCONFIRMED_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The boot state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("boot state: {0}")]
pub struct BootStateError(io::Error);

impl From<io::Error> for BootStateError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

/// The slot that runs and the partitions of its disk.
#[derive(Clone, Debug)]
pub struct Running {
    /// Which slot.
    pub slot: Slot,
    /// All named partitions of the same disk.
    pub partitions: Vec<Partition>,
}

impl Running {
    /// Finds the disk of the slot on `slot_device` (`vda3`).
    ///
    /// # Errors
    /// If there is no such slot.
    pub fn find(sys: &Path, slot_device: &str) -> io::Result<Self> {
        let all = partitions(sys)?;
        let own = all.iter().find(|p| p.device == slot_device);
        let found = own.and_then(|p| Some((p.slot()?, p.disk.clone())));
        let (slot, disk) = found
            .ok_or_else(|| io::Error::other(format!("`{slot_device}` is no slot of this disk")))?;
        let partitions = all.into_iter().filter(|p| p.disk == disk).collect();
        Ok(Self { slot, partitions })
    }

    /// The partition of this name in the GPT.
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.name == name)
    }

    /// The boot state as the disk has it now.
    ///
    /// # Errors
    /// If there is no `state` partition or it cannot be read.
    pub fn boot_state(&self) -> Result<BootState, BootStateError> {
        Ok(read(&self.open_state(false)?)?.state)
    }

    /// Writes that the running slot is healthy, if the disk does not say so already. Returns
    /// whether it was written.
    ///
    /// # Errors
    /// If the disk fails; nothing is lost then but the confirmation.
    pub fn confirm(&self) -> Result<bool, BootStateError> {
        let file = self.open_state(true)?;
        let loaded = read(&file)?;
        let mut state = loaded.state;
        state.confirm(self.slot);
        if state == loaded.state {
            return Ok(false);
        }
        let pending = loaded.next(state);
        let offset = u64::try_from(pending.offset).unwrap_or(0);
        file.write_all_at(&pending.bytes, offset)?;
        file.sync_all()?;
        Ok(true)
    }

    fn open_state(&self, write: bool) -> io::Result<File> {
        let partition = self
            .partition(disk::STATE.name)
            .ok_or_else(|| io::Error::other("no partition `state`"))?;
        File::options().read(true).write(write).open(partition.node())
    }
}

fn read(file: &File) -> io::Result<Loaded> {
    let mut pair = [0; PAIR_SIZE];
    file.read_exact_at(&mut pair, 0)?;
    let (first, second) = pair.split_at(RECORD_SIZE);
    Ok(decode_pair(first, second))
}
