//! The boot flow against a disk in memory: every path that needs no firmware.
#[cfg(test)]
mod lab;

#[cfg(test)]
mod machine {
    use super::lab::{DiskImage, trusted_public_key};
    use portcullis_bootloader::disk::{Disk, DiskError};
    use portcullis_bootloader::flow::{self, Choice, Machine};
    use portcullis_bootloader::slot::SlotError;
    use portcullis_bootstate::{Fingerprint, Slot};
    use std::fmt;

    /// A computer whose kernels run until it is powered on again.
    pub struct TestMachine {
        pub image: DiskImage,
        /// Blocks from here on cannot be read.
        pub unreadable: std::ops::Range<u64>,
        pub read_only: bool,
        pub console: String,
        /// What a person answers, in this order; then nobody is there.
        pub answers: Vec<Option<Choice>>,
        /// How long each question waited.
        pub waits: Vec<Option<u32>>,
        /// Every start in this run, with the first byte of the UKI.
        pub started: Vec<(Slot, u8)>,
        /// What the last one was told about the boot state of its disk.
        pub told: Option<Fingerprint>,
    }

    impl TestMachine {
        pub fn new(image: DiskImage) -> Self {
            let (console, answers, waits, started, told) = Default::default();
            let (unreadable, read_only) = (0..0, false);
            Self { image, unreadable, read_only, console, answers, waits, started, told }
        }

        /// Powers on. A UKI that begins with `O` runs, one with `R` comes back, any other is refused
        /// by the firmware. Returns the slot that runs in the end.
        pub fn boot(&mut self) -> Option<Slot> {
            self.console.clear();
            self.waits.clear();
            self.started.clear();
            let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                flow::run(self, &[[1; 32], trusted_public_key()]);
            }));
            match stopped {
                Ok(()) => None,
                Err(reason) => match reason.downcast::<Running>() {
                    Ok(running) => Some(running.0),
                    Err(reason) => std::panic::resume_unwind(reason),
                },
            }
        }
    }

    /// Thrown out of the flow by a kernel that took over, since a real one does not come back.
    struct Running(Slot);

    impl Disk for TestMachine {
        fn block_size(&self) -> u32 {
            512
        }

        fn blocks(&self) -> u64 {
            self.image.bytes.len() as u64 / 512
        }

        fn read(&mut self, first: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
            assert!(
                buffer.len().is_multiple_of(512) && (buffer.as_ptr() as usize).is_multiple_of(4096)
            );
            let end = first + buffer.len() as u64 / 512;
            if first < self.unreadable.end && self.unreadable.start < end {
                return Err(DiskError::Device { doing: "read", block: first, status: 7 });
            }
            let start = usize::try_from(first).unwrap() * 512;
            buffer.copy_from_slice(&self.image.bytes[start..][..buffer.len()]);
            Ok(())
        }

        fn write(&mut self, first: u64, data: &[u8]) -> Result<(), DiskError> {
            assert!(
                data.len().is_multiple_of(512) && (data.as_ptr() as usize).is_multiple_of(4096)
            );
            if self.read_only {
                return Err(DiskError::Device { doing: "write", block: first, status: 8 });
            }
            let start = usize::try_from(first).unwrap() * 512;
            self.image.bytes[start..][..data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    impl Machine for TestMachine {
        type Disk = Self;
        type Image = u8;

        fn disk(&mut self) -> &mut Self {
            self
        }

        fn say(&mut self, line: fmt::Arguments<'_>) {
            self.console.push_str(&format!("{line}\n"));
        }

        fn load(&mut self, uki: &[u8]) -> Result<u8, SlotError> {
            match uki[0] {
                kind @ (b'O' | b'R') => Ok(kind),
                _ => Err(SlotError::Load(3)),
            }
        }

        fn start(&mut self, image: u8, slot: Slot, told: Option<Fingerprint>) -> SlotError {
            self.started.push((slot, image));
            self.told = told;
            match image {
                b'O' => std::panic::resume_unwind(Box::new(Running(slot))),
                _ => SlotError::CameBack(1),
            }
        }

        fn ask(&mut self, wait_s: Option<u32>) -> Option<Choice> {
            self.waits.push(wait_s);
            if self.answers.is_empty() {
                // Without an unattended retry a real computer waits here for ever.
                return if wait_s.is_some() { None } else { Some(Choice::PowerOff) };
            }
            self.answers.remove(0)
        }

        fn power_off(&mut self) {}
    }
}

use lab::{DiskImage, blob, confirmed, on_trial, trusted_key};
use machine::TestMachine;
use portcullis_bootloader::flow::Choice;
use portcullis_bootstate::{
    BootState, Fingerprint, MAX_BOOT_FAILURES, Origin, RECORD_SIZE, Slot, SlotState,
};

/// A UKI of more than one disk transfer, so that the last part is not a whole one.
#[cfg(test)]
fn uki(kind: u8) -> Vec<u8> {
    let mut uki = vec![0x33; (2 << 20) + 777];
    uki[0] = kind;
    uki
}

/// Version 2.0 in a, 1.0 in b, both confirmed.
#[cfg(test)]
fn good_machine() -> TestMachine {
    let mut image = DiskImage::new(&[0; lab::MIB]);
    image.install(Slot::A, &blob("2.0", &uki(b'O'), &trusted_key()));
    image.install(Slot::B, &blob("1.0", &uki(b'O'), &trusted_key()));
    image.set_boot_state(BootState { a: confirmed(15), b: confirmed(14) });
    TestMachine::new(image)
}

#[test]
fn the_preferred_slot_runs_and_its_start_is_recorded_before() {
    let mut machine = good_machine();
    assert_eq!(machine.boot(), Some(Slot::A));
    assert_eq!(machine.image.boot_state().state.a, SlotState { boot_failures: 1, ..confirmed(15) });
    assert!(machine.console.ends_with(
        "slot a: version 2.0, confirmed, priority 15\n\
         slot b: version 1.0, confirmed, priority 14\n\
         starting slot a (version 2.0)\n"
    ));
}

#[test]
fn every_fault_of_a_slot_leads_to_the_other_and_is_named() {
    let architecture = {
        let mut trailer = blob("2.0", &uki(b'O'), &trusted_key());
        let start = trailer.len() - 65536;
        let mut manifest = portcullis_bundle::Manifest::decode(&trailer[start..]).unwrap();
        manifest.architecture = portcullis_bundle::Architecture::Aarch64;
        trailer.splice(start.., portcullis_bundle::sign_trailer(&manifest, &trusted_key()));
        trailer
    };
    type Fault = Box<dyn Fn(&mut TestMachine)>;
    let faults: Vec<(&str, Fault)> = vec![
        ("empty (no manifest)", Box::new(|m| m.image.partition("slot-a").fill(0xff))),
        ("UKI is damaged", Box::new(|m| m.image.partition("slot-a")[6 * 4096] ^= 1)),
        (
            "UKI is damaged",
            Box::new(|m| m.image.partition("slot-a")[6 * 4096 + (2 << 20) + 776] ^= 1),
        ),
        ("does not match", Box::new(|m| *m.image.partition("slot-a").last_mut().unwrap() ^= 1)),
        ("aarch64", Box::new(move |m| m.image.install(Slot::A, &architecture))),
        ("firmware refuses the UKI (status 0x3)", {
            Box::new(|m| m.image.install(Slot::A, &blob("2.0", &uki(b'X'), &trusted_key())))
        }),
        ("UKI came back (status 0x1)", {
            Box::new(|m| m.image.install(Slot::A, &blob("2.0", &uki(b'R'), &trusted_key())))
        }),
        ("cannot read disk block", {
            Box::new(|m| {
                let base = m.image.bytes.as_ptr() as usize;
                let block = (m.image.partition("slot-a").as_ptr() as usize - base) as u64 / 512;
                m.unreadable = block + 100..block + 101;
            })
        }),
    ];
    for (named, fault) in faults {
        let mut machine = good_machine();
        fault(&mut machine);
        assert_eq!(machine.boot(), Some(Slot::B), "{named}:\n{}", machine.console);
        let line = machine
            .console
            .lines()
            .find(|line| line.starts_with("slot a: ") && line.contains(named));
        assert!(line.is_some(), "{named}:\n{}", machine.console);
        assert_eq!(machine.started.last(), Some(&(Slot::B, b'O')));
    }
}

#[test]
fn a_slot_that_never_gets_healthy_ends_at_the_other() {
    let mut machine = good_machine();
    for _ in 0..MAX_BOOT_FAILURES {
        assert_eq!(machine.boot(), Some(Slot::A));
    }
    assert_eq!(machine.boot(), Some(Slot::B));
    // Slot b is healthy: it clears its own counter, slot a stays passed over.
    for _ in 0..10 {
        let mut state = machine.image.boot_state().state;
        state.confirm(Slot::B);
        machine.image.set_boot_state(state);
        assert_eq!(machine.boot(), Some(Slot::B));
    }
}

#[test]
fn without_anybody_there_a_disk_that_never_gets_healthy_stops_restarting() {
    let mut machine = good_machine();
    let mut waits: Vec<u32> = Vec::new();
    let mut boots = 0;
    while machine.boot().is_some() {
        waits.extend(machine.waits.iter().copied().flatten());
        boots += 1;
        assert!(boots < 100, "endless");
    }
    assert_eq!(machine.waits, [None], "it waits for a person");
    assert_eq!(&waits[..4], &[60, 60, 120, 120]);
    assert!(waits.is_sorted());
    assert_eq!(boots, 20, "two slots, ten starts each");
    assert!(machine.console.contains("  slot a: 10 starts in a row without a healthy boot\n"));
}

#[test]
fn a_person_decides_at_the_prompt() {
    let mut machine = good_machine();
    machine.image.set_boot_state(BootState { a: on_trial(15, 0), b: SlotState::default() });
    machine.image.partition("slot-b").fill(0);
    machine.answers =
        vec![Some(Choice::Slot(Slot::B)), Some(Choice::Retry), Some(Choice::Slot(Slot::A))];
    assert_eq!(machine.boot(), Some(Slot::A));
    assert_eq!(machine.waits.len(), 3);
    assert!(machine.console.contains("  slot a: not confirmed and no tries left\n"));
    assert!(machine.console.contains("slot b: empty (no manifest)\n"));
    assert!(machine.console.contains("without an answer slot a is tried once more in 60 s\n"));

    machine.answers = vec![Some(Choice::PowerOff)];
    assert_eq!(machine.boot(), None);
    assert_eq!(machine.started, []);
}

#[test]
fn a_state_partition_that_cannot_be_written_stops_trials_but_not_a_proven_slot() {
    let mut machine = good_machine();
    machine.image.set_boot_state(BootState { a: on_trial(15, 3), b: confirmed(14) });
    machine.read_only = true;
    assert_eq!(machine.boot(), Some(Slot::B));
    assert!(machine.console.contains("boot state: cannot be written: cannot write disk block"));
    assert!(machine.console.contains("slot a: not confirmed, and its try cannot be recorded\n"));
    assert_eq!(machine.started, [(Slot::B, b'O')]);
}

#[test]
fn the_backup_partition_table_counts_if_the_primary_is_damaged() {
    let mut machine = good_machine();
    machine.image.bytes[512 + 40] ^= 1;
    assert_eq!(machine.boot(), Some(Slot::A));
    assert!(machine.console.contains("disk: partition table is damaged, using the backup\n"));

    // A bit in the array of the primary table.
    let mut machine = good_machine();
    machine.image.bytes[1024 + 60] ^= 1;
    assert_eq!(machine.boot(), Some(Slot::A));

    // Both gone: the prompt, and nothing is started.
    let end = machine.image.bytes.len();
    machine.image.bytes[end - 512] = 0;
    assert_eq!(machine.boot(), None);
    assert!(
        machine
            .console
            .contains("disk: partition table is damaged: checksum of the partition array\n")
    );
    assert_eq!(machine.waits, [None]);
}

#[test]
fn a_disk_without_state_partition_still_offers_its_slots_to_a_person() {
    let mut image = DiskImage::with_state_named("stat", &[0; lab::MIB]);
    image.install(Slot::A, &blob("2.0", &uki(b'O'), &trusted_key()));
    let mut machine = TestMachine::new(image);
    machine.answers = vec![Some(Choice::Slot(Slot::A))];
    assert_eq!(machine.boot(), Some(Slot::A));
    assert!(machine.console.contains("boot state: no partition state\n"));
    assert!(machine.console.contains("slot a: not confirmed, and its try cannot be recorded\n"));
}

#[test]
fn an_unreadable_record_does_not_cost_the_other() {
    let mut machine = good_machine();
    // Twice written: record 2 counts, record 1 is the older one.
    machine.image.set_boot_state(BootState { a: confirmed(14), b: confirmed(15) });
    let counts = machine.image.boot_state().origin;
    let state = machine.image.block_of("state");
    let blocks = RECORD_SIZE as u64 / 512;
    let older = if counts == Origin::Second { state } else { state + blocks };
    machine.unreadable = older + 1..older + 2;
    assert_eq!(machine.boot(), Some(Slot::B), "{}", machine.console);
    assert!(machine.console.contains("boot state: cannot read disk block"), "{}", machine.console);
    assert!(machine.console.contains("slot b: version 1.0, confirmed, priority 15\n"));
    // The bad one is written next, which is what makes a disk replace a bad sector.
    assert_ne!(machine.image.boot_state().origin, counts);
}

#[test]
fn the_system_is_told_the_boot_state_of_the_disk_it_was_started_from() {
    let mut machine = good_machine();
    assert_eq!(machine.boot(), Some(Slot::A));
    let (first, rest) = machine.image.partition("state").split_at(RECORD_SIZE);
    assert_eq!(machine.told, Some(Fingerprint::of(first, &rest[..RECORD_SIZE])));
    // What the next start is told differs, so that a copy of the disk does as well.
    let before = machine.told;
    assert_eq!(machine.boot(), Some(Slot::A));
    assert!(machine.told.is_some() && machine.told != before);

    let state = machine.image.block_of("state");
    machine.unreadable = state..state + 1;
    assert_eq!(machine.boot(), Some(Slot::A));
    assert_eq!(machine.told, None, "nothing is told that was not read");
}

#[test]
fn without_anybody_there_a_disk_with_an_unwritable_boot_state_starts_all_the_same() {
    let mut machine = good_machine();
    // Worn out: neither record can be read, nothing can be written.
    machine.image.partition("state").fill(0);
    machine.read_only = true;
    assert_eq!(machine.boot(), Some(Slot::A), "{}", machine.console);
    assert_eq!(machine.waits, [Some(60)]);
    assert!(machine.console.contains("without an answer slot a is tried once more in 60 s\n"));

    // What comes back is not tried for ever.
    machine.image.install(Slot::A, &blob("2.0", &uki(b'R'), &trusted_key()));
    assert_eq!(machine.boot(), Some(Slot::B), "{}", machine.console);
    machine.image.install(Slot::B, &blob("1.0", &uki(b'R'), &trusted_key()));
    assert_eq!(machine.boot(), None);
    assert_eq!(machine.waits, [Some(60), Some(60), None]);
}

#[test]
fn without_anybody_there_a_disk_that_cannot_be_read_is_looked_at_again() {
    let unreadable: [fn(&TestMachine) -> std::ops::Range<u64>; 2] = [
        // All of it, and what both slots have to say for themselves.
        |_| 0..u64::MAX,
        |machine| machine.image.block_of("slot-a")..machine.image.bytes.len() as u64 / 512 - 40,
    ];
    for blocks in unreadable {
        let mut machine = good_machine();
        machine.unreadable = blocks(&machine);
        machine.answers = vec![None, None, Some(Choice::PowerOff)];
        assert_eq!(machine.boot(), None);
        assert_eq!(machine.waits, [Some(60); 3], "{}", machine.console);
        let text = "without an answer the disk is looked at again in 60 s\n";
        assert_eq!(machine.console.matches(text).count(), 3, "{}", machine.console);
    }
}
