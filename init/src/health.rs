//! Whether this boot is a good one, and what the boot state learns from it.

use std::{
    fs::File,
    io,
    path::Path,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use portcullis_bootstate::{BootState, Slot, disk};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    boot_state,
    disk::{Partition, partitions},
    supervisor::Health,
};

/// What a boot is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long all must be well before the boot counts as healthy.
    pub settled: Duration,
    /// How long it may take to become so before that is told.
    pub late: Duration,
    /// Pause after the boot state could not be written.
    pub retry: Duration,
}

/// Those of the appliance.
pub const LIMITS: Limits = Limits {
    settled: Duration::from_secs(5),
    late: Duration::from_secs(5 * 60),
    retry: Duration::from_secs(60),
};

/// Calls `confirm` when all has been well for long enough, until it succeeds, and `late` if that
/// has not come in time. It may come later: a slot that has proven itself before is not given up,
/// and its counted failures end with the first healthy boot, however slow. A boot that is well, but
/// cannot be written down as such, is not late.
///
/// Ends when the slot is confirmed or `health` has no source any more.
pub async fn watch<C, L>(
    mut health: watch::Receiver<Health>,
    limits: Limits,
    confirm: impl FnMut() -> C,
    late: impl FnOnce() -> L,
) where
    C: Future<Output = Result<Confirmation, BootStateError>>,
    L: Future<Output = ()>,
{
    let well = AtomicBool::new(false);
    let mut confirmed = pin!(confirm_when_well(&mut health, limits, confirm, &well));
    if timeout(limits.late, &mut confirmed).await.is_err() {
        if !well.load(Ordering::Relaxed) {
            late().await;
        }
        confirmed.await;
    }
}

async fn confirm_when_well<C>(
    health: &mut watch::Receiver<Health>,
    limits: Limits,
    mut confirm: impl FnMut() -> C,
    well: &AtomicBool,
) where
    C: Future<Output = Result<Confirmation, BootStateError>>,
{
    loop {
        if health.wait_for(|h| h.changes > 0 && h.problems.is_empty()).await.is_err() {
            return;
        }
        let unwell = health.wait_for(|h| !h.problems.is_empty());
        if timeout(limits.settled, unwell).await.is_ok() {
            continue;
        }
        match confirm().await {
            Ok(Confirmation::Written | Confirmation::Known) => return,
            // Not before the next boot: what is missing does not come by itself.
            Ok(Confirmation::Refused) => std::future::pending().await,
            Err(_) => {
                well.store(true, Ordering::Relaxed);
                sleep(limits.retry).await;
            }
        }
    }
}

/// What became of a healthy boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Confirmation {
    /// The boot state says it now.
    Written,
    /// It said so already.
    Known,
    /// Something is missing that the other slot, which has proven itself, may have.
    Refused,
}

/// Whether a boot that works, but lacks something, is good enough for `slot`: it is where nothing
/// better can be had by going back.
fn good_enough(state: &BootState, slot: Slot) -> bool {
    let other = state.get(slot.other());
    state.get(slot).confirmed || !other.confirmed || other.startable().is_err()
}

/// The boot state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("boot state: {0}")]
pub struct BootStateError(io::Error);

impl From<tokio::task::JoinError> for BootStateError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self(io::Error::other(error))
    }
}

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
        Ok(boot_state::read(&self.open_state(false)?)?.state)
    }

    /// Writes that the running slot is healthy, if the disk does not say so already. `complete`
    /// says whether this boot has all that it should have, such as a data partition.
    ///
    /// # Errors
    /// If the disk fails; nothing is lost then but the confirmation.
    pub fn confirm(&self, complete: bool) -> Result<Confirmation, BootStateError> {
        let file = self.open_state(true)?;
        let loaded = boot_state::read(&file)?;
        if !complete && !good_enough(&loaded.state, self.slot) {
            return Ok(Confirmation::Refused);
        }
        let mut state = loaded.state;
        state.confirm(self.slot);
        Ok(match boot_state::write(&file, &loaded, state)? {
            true => Confirmation::Written,
            false => Confirmation::Known,
        })
    }

    fn open_state(&self, write: bool) -> io::Result<File> {
        let partition = self
            .partition(disk::STATE.name)
            .ok_or_else(|| io::Error::other("no partition `state`"))?;
        File::options().read(true).write(write).open(partition.node())
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use portcullis_bootstate::SlotState;

    use super::*;

    /// Slot b runs from a disk whose boot state is `state`.
    fn running(folder: &Path, state: BootState) -> Running {
        let path = folder.join("state");
        std::fs::write(&path, BootState::flashed_records()).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        boot_state::write(&file, &boot_state::read(&file).unwrap(), state).unwrap();
        let partition = Partition {
            name: disk::STATE.name.to_owned(),
            // An absolute path stands for itself.
            device: path.to_string_lossy().into_owned(),
            disk: "disk".to_owned(),
            number: 2,
            size: disk::STATE.size,
        };
        Running { slot: Slot::B, partitions: vec![partition] }
    }

    fn proven(priority: u8) -> SlotState {
        SlotState { priority, confirmed: true, ..SlotState::default() }
    }

    #[test]
    fn an_update_that_lacks_something_is_not_kept_where_the_other_slot_is_proven() {
        let folder = tempfile::tempdir().unwrap();
        let on_trial = SlotState { priority: 15, tries_left: 2, boot_failures: 1, ..proven(15) };
        let on_trial = SlotState { confirmed: false, ..on_trial };
        let update = BootState { a: proven(14), b: on_trial };
        let machine = running(folder.path(), update);
        assert_eq!(machine.confirm(false).unwrap(), Confirmation::Refused);
        assert_eq!(machine.boot_state().unwrap(), update);
        assert_eq!(machine.confirm(true).unwrap(), Confirmation::Written);
        assert_eq!(machine.confirm(true).unwrap(), Confirmation::Known);
        assert!(machine.boot_state().unwrap().b.confirmed);
    }

    #[test]
    fn a_boot_that_lacks_something_counts_where_there_is_nothing_better() {
        let folder = tempfile::tempdir().unwrap();
        let failed = SlotState { boot_failures: 2, ..proven(15) };
        // A slot that has proven itself before; no other slot; another that may not be started.
        for (a, b) in [
            (proven(14), failed),
            (SlotState::default(), SlotState { confirmed: false, ..failed }),
            (
                SlotState { boot_failures: 3, ..proven(14) },
                SlotState { confirmed: false, ..failed },
            ),
        ] {
            let machine = running(folder.path(), BootState { a, b });
            assert_eq!(machine.confirm(false).unwrap(), Confirmation::Written);
            assert_eq!(machine.boot_state().unwrap().b.boot_failures, 0);
        }
    }

    const AT_ONCE: Limits =
        Limits { settled: Duration::ZERO, late: Duration::ZERO, retry: Duration::ZERO };

    fn run(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let limit = Duration::from_secs(60);
        runtime.block_on(async { timeout(limit, work).await.expect("it never ends") });
    }

    fn well(changes: u64) -> Health {
        Health { problems: Vec::new(), ready: true, changes }
    }

    /// Its failed boots would be counted until none is tried any more.
    #[test]
    fn a_boot_that_is_healthy_late_is_confirmed_all_the_same() {
        run(async {
            let (health, receiver) = watch::channel(Health::default());
            let mut confirmed = 0;
            let confirm = || {
                confirmed += 1;
                ready(Ok(Confirmation::Written))
            };
            // Nothing but the time being over makes it healthy.
            let late = || {
                health.send(well(1)).unwrap();
                ready(())
            };
            super::watch(receiver, AT_ONCE, confirm, late).await;
            assert_eq!(confirmed, 1);
        });
    }

    #[test]
    fn a_boot_state_that_cannot_be_written_is_tried_again() {
        run(async {
            let (_health, receiver) = watch::channel(well(1));
            let mut tries = 0;
            let confirm = || {
                tries += 1;
                ready(match tries {
                    3 => Ok(Confirmation::Known),
                    _ => Err(io::Error::other("disk").into()),
                })
            };
            let limits = Limits { late: Duration::from_secs(3600), ..AT_ONCE };
            super::watch(receiver, limits, confirm, async || panic!("it is in time")).await;
            assert_eq!(tries, 3);
        });
    }

    #[test]
    fn a_boot_that_is_refused_is_late_and_not_confirmed_later() {
        run(async {
            let (_health, receiver) = watch::channel(well(1));
            let (told, waits) = tokio::sync::oneshot::channel();
            let refused = || ready(Ok(Confirmation::Refused));
            let late = || {
                let _ = told.send(());
                ready(())
            };
            let watching = super::watch(receiver, AT_ONCE, refused, late);
            tokio::select! {
                () = watching => panic!("there is nothing left to do"),
                told = waits => told.unwrap(),
            }
        });
    }
}
