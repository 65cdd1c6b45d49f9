//! What must hold for every boot state, every torn write and every sequence of boots.
use portcullis_bootstate::record::{self, Record};
use portcullis_bootstate::{
    BootState, Decision, Loaded, Origin, PAIR_SIZE, RECORD_SIZE, Retry, Slot, SlotState, TRIES,
    decode_pair,
};
use proptest::prelude::*;

#[cfg(test)]
fn load(disk: &[u8]) -> Loaded {
    let (first, second) = disk.split_at(RECORD_SIZE);
    decode_pair(first, second)
}

/// Writes `state` as the boot manager does.
#[cfg(test)]
fn store(disk: &mut [u8], state: BootState) -> usize {
    let pending = load(disk).next(state);
    disk[pending.offset..][..RECORD_SIZE].copy_from_slice(&pending.bytes);
    assert_eq!(
        load(disk),
        pending.clone().written(),
        "what `written` promises is what is on the disk"
    );
    pending.offset
}

#[cfg(test)]
fn slot_state() -> impl Strategy<Value = SlotState> {
    (0u8..4, 0u8..5, any::<bool>(), 0u8..13).prop_map(
        |(priority, tries_left, confirmed, boot_failures)| SlotState {
            priority,
            tries_left,
            confirmed,
            boot_failures,
        },
    )
}

#[cfg(test)]
fn boot_state() -> impl Strategy<Value = BootState> {
    (slot_state(), slot_state()).prop_map(|(a, b)| BootState { a, b })
}

#[cfg(test)]
fn slot() -> impl Strategy<Value = Slot> {
    prop_oneof![Just(Slot::A), Just(Slot::B)]
}

/// What a slot does each time it is started.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    /// Its content does not pass the boot manager's check.
    Damaged,
    /// It starts and crashes.
    Crashes,
    /// It becomes healthy.
    Works,
}

#[cfg(test)]
fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![Just(Behaviour::Damaged), Just(Behaviour::Crashes), Just(Behaviour::Works)]
}

/// Boots with nobody there until a slot works (`Some`) or nothing is started any more (`None`).
/// Also gives the number of boots.
#[cfg(test)]
fn boot_until_settled(state: &mut BootState, [a, b]: [Behaviour; 2]) -> (Option<Slot>, usize) {
    let of = |slot| if slot == Slot::A { a } else { b };
    for boots in 0..1000 {
        let decision = state.choose(|slot| of(slot) != Behaviour::Damaged);
        let slot = match decision {
            Decision::Start(slot) | Decision::Recovery { retry: Some(Retry { slot, .. }) } => slot,
            Decision::Recovery { retry: None } => return (None, boots),
        };
        assert_ne!(of(slot), Behaviour::Damaged, "a damaged slot is not started");
        state.before_boot(slot);
        if of(slot) == Behaviour::Works {
            state.confirm(slot);
            return (Some(slot), boots + 1);
        }
    }
    panic!("endless loop");
}

#[test]
fn a_fresh_disk_and_a_lost_state() {
    let records = BootState::flashed_records();
    let loaded = load(&records);
    assert_eq!((loaded.state, loaded.origin), (BootState::flashed(), Origin::First));
    assert_eq!(loaded.state.order(), [Slot::A, Slot::B]);
    assert!(loaded.state.b.startable().is_err());

    let lost = load(&[0xaa; PAIR_SIZE]);
    assert_eq!((lost.state, lost.origin), (BootState::unknown(), Origin::Default));
    assert_eq!(lost.state.order(), [Slot::A, Slot::B]);
    for slot in Slot::ALL {
        assert_eq!(lost.state.get(slot).startable(), Ok(()));
        assert_eq!(lost.state.get(slot).tries_left, TRIES);
    }
}

#[test]
fn generations_may_wrap_around() {
    let record = |generation, priority| {
        let a = SlotState { priority, ..SlotState::default() };
        record::encode(&Record { generation, state: BootState { a, b: SlotState::default() } })
    };
    let mut disk = [record(u64::MAX, 1), record(u64::MAX - 1, 2)].concat();
    assert_eq!(load(&disk).state.a.priority, 1);
    for priority in 3..9 {
        let state =
            BootState { a: SlotState { priority, ..SlotState::default() }, ..load(&disk).state };
        store(&mut disk, state);
        assert_eq!(load(&disk).state, state);
    }
}

#[test]
fn an_update_that_crashes_goes_back_after_its_tries() {
    let mut state = BootState::flashed();
    state.confirm(Slot::A);
    state.install(Slot::B);
    let (settled, boots) = boot_until_settled(&mut state, [Behaviour::Works, Behaviour::Crashes]);
    assert_eq!((settled, boots), (Some(Slot::A), usize::from(TRIES) + 1));
    // And stays there.
    for _ in 0..10 {
        assert_eq!(state.choose(|_| true), Decision::Start(Slot::A));
        state.before_boot(Slot::A);
        state.confirm(Slot::A);
    }
}

#[test]
fn an_update_that_works_is_kept() {
    let mut state = BootState::flashed();
    state.confirm(Slot::A);
    state.install(Slot::B);
    assert_eq!(boot_until_settled(&mut state, [Behaviour::Works; 2]), (Some(Slot::B), 1));
    assert_eq!(state.choose(|_| true), Decision::Start(Slot::B));
    assert_eq!(state.choose(|slot| slot == Slot::A), Decision::Start(Slot::A));
}

proptest! {
    #[test]
    fn a_torn_write_at_any_byte_leaves_the_old_or_the_new_state(
        history in proptest::collection::vec(boot_state(), 1..5),
        new in boot_state(),
        torn in 0..=RECORD_SIZE,
        backwards: bool,
        garbage: Option<u8>,
    ) {
        let mut disk = [0; PAIR_SIZE];
        for state in &history {
            store(&mut disk, *state);
        }
        let before = load(&disk);
        let pending = before.next(new);
        let (from, to) = if backwards { (RECORD_SIZE - torn, RECORD_SIZE) } else { (0, torn) };
        if let Some(garbage) = garbage {
            // A device that had already erased the page.
            disk[pending.offset..][..RECORD_SIZE].fill(garbage);
        }
        disk[pending.offset..][from..to].copy_from_slice(&pending.bytes[from..to]);
        let after = load(&disk);
        prop_assert!(after.state == before.state || after.state == new);
        prop_assert!(after.origin != Origin::Default);
        if torn == RECORD_SIZE {
            prop_assert_eq!(after.state, new);
        } else if torn == 0 {
            prop_assert_eq!(after.state, before.state);
        }
        // And it can go on from there.
        store(&mut disk, new);
        prop_assert_eq!(load(&disk).state, new);
    }

    #[test]
    fn a_flipped_bit_in_one_record_leaves_the_other(
        older in boot_state(), newer in boot_state(), bit in 0..PAIR_SIZE * 8,
    ) {
        let mut disk = [0; PAIR_SIZE];
        store(&mut disk, older);
        let newer_at = store(&mut disk, newer);
        disk[bit / 8] ^= 1 << (bit % 8);
        let hit_newer = bit / 8 / RECORD_SIZE == newer_at / RECORD_SIZE;
        prop_assert_eq!(load(&disk).state, if hit_newer { older } else { newer });
    }

    #[test]
    fn writes_alternate(states in proptest::collection::vec(boot_state(), 2..9)) {
        let mut disk = [0; PAIR_SIZE];
        for (index, state) in states.into_iter().enumerate() {
            prop_assert_eq!(store(&mut disk, state), if index % 2 == 0 { 0 } else { RECORD_SIZE });
        }
    }

    #[test]
    fn any_bytes_give_an_answer(
        first in proptest::collection::vec(any::<u8>(), 0..5000),
        second in proptest::collection::vec(any::<u8>(), 0..5000),
    ) {
        prop_assert_eq!(decode_pair(&first, &second).origin, Origin::Default);
    }

    #[test]
    fn a_confirmed_slot_never_loses_tries_or_trust(state in boot_state(), slot in slot(), boots in 1..300) {
        let mut after = state;
        after.confirm(slot);
        let tries = after.get(slot).tries_left;
        for _ in 0..boots {
            after.before_boot(slot);
        }
        prop_assert!(after.get(slot).confirmed);
        prop_assert_eq!(after.get(slot).tries_left, tries);
        prop_assert_eq!(after.get(slot.other()), state.get(slot.other()));
        after.confirm(slot);
        prop_assert_eq!(after.get(slot).boot_failures, 0);
        prop_assert_eq!(after.get(slot).startable(), Ok(()));
    }

    #[test]
    fn a_slot_that_always_fails_ends_at_the_other(state in boot_state(), bad in slot(), crashes: bool) {
        let mut state = state;
        let good = bad.other();
        state.confirm(good);
        let fault = if crashes { Behaviour::Crashes } else { Behaviour::Damaged };
        let behaviour = if bad == Slot::A { [fault, Behaviour::Works] } else { [Behaviour::Works, fault] };
        let (settled, boots) = boot_until_settled(&mut state, behaviour);
        prop_assert_eq!(settled, Some(good));
        prop_assert!(boots <= 1 + usize::from(TRIES.max(4)));
    }

    #[test]
    fn booting_always_settles(state in boot_state(), a in behaviour(), b in behaviour()) {
        let mut after = state;
        let (settled, boots) = boot_until_settled(&mut after, [a, b]);
        prop_assert!(boots <= 21, "{} boots", boots);
        match settled {
            Some(slot) => prop_assert!([a, b][slot as usize] == Behaviour::Works),
            None => {
                prop_assert_eq!(after.choose(|slot| [a, b][slot as usize] != Behaviour::Damaged), Decision::Recovery { retry: None });
            }
        }
        if a == Behaviour::Damaged && b == Behaviour::Damaged {
            prop_assert_eq!(after, state, "nothing was started, so nothing has changed");
        }
    }

    #[test]
    fn a_slot_marked_bad_is_not_started_until_something_is_installed(state in boot_state(), slot in slot()) {
        let mut state = state;
        state.mark_bad(slot);
        prop_assert_ne!(state.choose(|_| true), Decision::Start(slot));
        if let Decision::Recovery { retry: Some(retry) } = state.choose(|_| true) {
            prop_assert_ne!(retry.slot, slot);
        }
        state.install(slot);
        prop_assert_eq!(state.choose(|_| true), Decision::Start(slot));
        prop_assert!(!state.get(slot).confirmed);
    }
}
