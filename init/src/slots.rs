//! Which of the partitions that are there is the slot that was started.
//!
//! The root hash in the kernel's command line says which content it has. That may be in both slots
//! of a disk, and on several disks: a stick that the disk was flashed from has the same partitions,
//! with the same GUIDs. The boot manager says which slot it took, and names its disk by the boot
//! state that it has left there.

use std::{fs::File, path::Path};

use portcullis_bootstate::{Fingerprint, disk::STATE};
use portcullis_bundle::Manifest;

use crate::{
    boot_state,
    disk::{self, Partition},
};

/// What is known about the slot that was started.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// Root hash of its root file system.
    pub root_hash: [u8; 32],
    /// Name of its partition, if the boot manager said it.
    pub name: Option<String>,
    /// The boot state on its disk, if the boot manager said it.
    pub boot_state: Option<Fingerprint>,
}

/// A slot with the content that was started.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its partition.
    pub slot: Partition,
    /// Its manifest.
    pub manifest: Manifest,
    /// Whether it is on the disk that the boot manager named.
    pub on_booted_disk: bool,
}

/// All slots with the content that was started, in order of their devices.
pub fn candidates(sys: &Path, started: &Started) -> Vec<Candidate> {
    let all = disk::partitions(sys).unwrap_or_default();
    let booted = |disk: &str| {
        let state = all.iter().find(|p| p.disk == disk && p.name == STATE.name);
        let found = state.and_then(|p| boot_state::fingerprint(&File::open(p.node()).ok()?).ok());
        found.is_some() && found == started.boot_state
    };
    let fitting = all.iter().filter(|p| p.slot().is_some()).filter_map(|slot| {
        let manifest = slot.manifest().ok()?;
        (manifest.root_hash == started.root_hash).then(|| Candidate {
            slot: slot.clone(),
            manifest,
            on_booted_disk: booted(&slot.disk),
        })
    });
    fitting.collect()
}

/// The slot that was started, if it is among `candidates`. One of another disk is taken only as
/// the `last_resort`: its boot state and data are not those of this machine.
pub fn choose(
    mut candidates: Vec<Candidate>,
    started: &Started,
    last_resort: bool,
) -> Option<Candidate> {
    if started.boot_state.is_some() && !last_resort {
        candidates.retain(|candidate| candidate.on_booted_disk);
    }
    candidates.sort_by_key(|candidate| {
        (!candidate.on_booted_disk, Some(&candidate.slot.name) != started.name.as_ref())
    });
    candidates.into_iter().next()
}

/// What there is instead, for the console.
pub fn describe(sys: &Path) -> String {
    let all = disk::partitions(sys).unwrap_or_default();
    let found: Vec<String> = all
        .iter()
        .filter(|partition| partition.slot().is_some())
        .map(|slot| match slot.manifest() {
            Ok(_) => format!("{} ({}: another root)", slot.name, slot.device),
            Err(error) => format!("{} ({error})", slot.name),
        })
        .collect();
    if found.is_empty() { "no slots".to_owned() } else { found.join(", ") }
}

#[cfg(test)]
mod tests {
    use portcullis_bundle::{Architecture, Extent, KeyId};

    use super::*;

    fn candidate(disk: &str, number: u32, on_booted_disk: bool) -> Candidate {
        let extent = Extent { offset: 0, size: 4096 };
        Candidate {
            slot: Partition {
                name: if number == 3 { "slot-a" } else { "slot-b" }.to_owned(),
                device: format!("{disk}{number}"),
                disk: disk.to_owned(),
                number,
                size: 512 << 20,
            },
            manifest: Manifest {
                version: "1.0".parse().unwrap(),
                min_version: None,
                architecture: Architecture::X86_64,
                key_id: KeyId([0; 8]),
                root: extent,
                tree: extent,
                uki: extent,
                root_hash: [1; 32],
                salt: [0; 32],
                uki_sha256: [0; 32],
            },
            on_booted_disk,
        }
    }

    fn chosen(candidates: &[Candidate], started: &Started, last_resort: bool) -> Option<String> {
        choose(candidates.to_vec(), started, last_resort).map(|chosen| chosen.slot.device)
    }

    #[test]
    fn the_disk_that_was_booted_counts_not_the_one_that_comes_first() {
        let started = Started {
            name: Some("slot-b".to_owned()),
            boot_state: Some(Fingerprint([7; 32])),
            ..Started::default()
        };
        // The stick that the disk was flashed from is there, the disk not yet.
        let stick = [candidate("sda", 3, false), candidate("sda", 4, false)];
        assert_eq!(chosen(&stick, &started, false), None);
        let disk = [candidate("vda", 3, true), candidate("vda", 4, true)];
        let both = [stick.as_slice(), &disk].concat();
        for last_resort in [false, true] {
            assert_eq!(chosen(&both, &started, last_resort).as_deref(), Some("vda4"));
        }
        // A machine that can only start from a copy does so in the end.
        assert_eq!(chosen(&stick, &started, true).as_deref(), Some("sda4"));
        assert_eq!(chosen(&[], &started, true), None);
    }

    #[test]
    fn an_older_boot_manager_names_the_slot_alone() {
        let both = [candidate("vda", 3, false), candidate("vda", 4, false)];
        let mut started = Started { name: Some("slot-b".to_owned()), ..Started::default() };
        assert_eq!(chosen(&both, &started, false).as_deref(), Some("vda4"));
        started.name = None;
        assert_eq!(chosen(&both, &started, false).as_deref(), Some("vda3"));
    }
}
