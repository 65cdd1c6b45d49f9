//! From the boot state to a running slot, or to a person at the console.
use crate::disk::Disk;
use crate::gpt::{GptError, Layout};
use crate::slot::{self, SlotError, Trusted};
use crate::state;
use alloc::string::String;
use core::fmt;
use core::fmt::Write as _;
use portcullis_bootstate::{
    Decision, FIRST_WAIT_S, Fingerprint, Loaded, Origin, RecordError, Retry, Slot,
};
use portcullis_bundle::PublicKey;

/// Name and version, the first line on the console.
pub const NAME: &str = concat!("Portcullis boot manager ", env!("CARGO_PKG_VERSION"));

/// What the flow needs of the computer it runs on.
pub trait Machine {
    /// The disk the boot manager was loaded from.
    type Disk: Disk;
    /// A program in memory, ready to be started.
    type Image;

    /// The disk.
    fn disk(&mut self) -> &mut Self::Disk;

    /// Shows one line on the console.
    fn say(&mut self, line: fmt::Arguments<'_>);

    /// Makes a program of the bytes of a UKI.
    ///
    /// # Errors
    /// [`SlotError::Load`] if the firmware refuses it.
    fn load(&mut self, uki: &[u8]) -> Result<Self::Image, SlotError>;

    /// Starts a program and tells it from which slot it comes, and what the boot state on its disk
    /// is now. A kernel does not come back.
    fn start(
        &mut self,
        image: Self::Image,
        slot: Slot,
        boot_state: Option<Fingerprint>,
    ) -> SlotError;

    /// Waits for one of the keys of [`Choice`], at most `wait_s` seconds if given.
    fn ask(&mut self, wait_s: Option<u32>) -> Option<Choice>;

    /// Powers off. The flow ends if this returns.
    fn power_off(&mut self);
}

/// What a person may choose at the recovery prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Key `r`: begin anew.
    Retry,
    /// Key `a` or `b`: start this slot whatever the boot state says, if it is intact.
    Slot(Slot),
    /// Key `p`.
    PowerOff,
}

impl Choice {
    /// The choice of a key.
    #[must_use]
    pub const fn of_key(key: char) -> Option<Self> {
        match key {
            'r' | 'R' => Some(Self::Retry),
            'a' | 'A' => Some(Self::Slot(Slot::A)),
            'b' | 'B' => Some(Self::Slot(Slot::B)),
            'p' | 'P' => Some(Self::PowerOff),
            _ => None,
        }
    }
}

/// Boots. Returns only if a person chose to power off and the machine cannot.
pub fn run(machine: &mut impl Machine, keys: &[PublicKey]) {
    machine.say(format_args!("{NAME}"));
    loop {
        match attempt(machine, keys) {
            Some(Choice::PowerOff) => return machine.power_off(),
            // Begin anew: the disk may have been slow to appear.
            _ => machine.say(format_args!("trying again")),
        }
    }
}

/// One pass over the disk, up to a choice that ends it.
fn attempt<M: Machine>(machine: &mut M, keys: &[PublicKey]) -> Option<Choice> {
    let layout = match Layout::read(machine.disk()) {
        Ok(layout) => layout,
        Err(error) => {
            machine.say(format_args!("disk: {error}"));
            let may_pass = matches!(error, GptError::Disk(_));
            return recovery_prompt(machine, may_pass.then_some(Unattended::LookAgain));
        }
    };
    if layout.from_backup {
        machine.say(format_args!("disk: partition table is damaged, using the backup"));
    }
    let (boot_state, read) = state::read(machine.disk(), layout.state);
    if let Err(error) = read {
        machine.say(format_args!("boot state: {error}"));
    }
    say_damage(machine, &boot_state);

    let mut slots = Slots {
        keys,
        layout,
        boot_state,
        a: slot::open(machine.disk(), &layout, Slot::A, keys),
        b: slot::open(machine.disk(), &layout, Slot::B, keys),
    };
    for slot in slots.boot_state.state.order() {
        slots.say(machine, slot);
    }
    slots.boot(machine)
}

/// Both slots, as far as they are known in this pass.
struct Slots<'a> {
    keys: &'a [PublicKey],
    layout: Layout,
    boot_state: Loaded,
    a: Result<Trusted, SlotError>,
    b: Result<Trusted, SlotError>,
}

impl Slots<'_> {
    fn get(&mut self, slot: Slot) -> &mut Result<Trusted, SlotError> {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }

    /// Starts slots by the rules until none is left, then asks. Each slot fails at most once.
    fn boot(&mut self, machine: &mut impl Machine) -> Option<Choice> {
        loop {
            let state = self.boot_state.state;
            match state.choose(|slot| self.get(slot).is_ok()) {
                Decision::Start(slot) => self.start(machine, slot, false),
                Decision::Recovery { retry } => {
                    machine.say(format_args!("no slot can be started"));
                    for slot in Slot::ALL {
                        self.say_refusal(machine, slot);
                    }
                    let unattended = retry.map(Unattended::Start).or_else(|| self.unattended());
                    let slot = match (recovery_prompt(machine, unattended), unattended) {
                        (Some(Choice::Slot(slot)), _) => slot,
                        (None, Some(Unattended::Start(retry))) => retry.slot,
                        (choice, _) => return choice,
                    };
                    // Whatever has happened to it in this pass, a person may insist.
                    *self.get(slot) = slot::open(machine.disk(), &self.layout, slot, self.keys);
                    self.start(machine, slot, true);
                }
            }
        }
    }

    /// What to do without an answer where the rules have no retry left: nobody may be there, and
    /// what a slot has failed for in this pass may not be its own fault.
    fn unattended(&self) -> Option<Unattended> {
        let failed_by = |slot: Slot, fault: fn(SlotError) -> bool| {
            let known = if slot == Slot::A { self.a } else { self.b };
            known.err().is_some_and(fault)
        };
        let order = self.boot_state.state.order();
        // A box whose boot state cannot be written any more must not need a person for each start.
        let unrecorded = |slot: &Slot| failed_by(*slot, |error| error == SlotError::TryNotRecorded);
        if let Some(slot) = order.into_iter().find(unrecorded) {
            return Some(Unattended::Start(Retry { slot, wait_s: FIRST_WAIT_S }));
        }
        // A disk that does not answer now may do so later.
        let unread = |slot: Slot| failed_by(slot, |error| matches!(error, SlotError::Disk(_)));
        order.into_iter().any(unread).then_some(Unattended::LookAgain)
    }

    /// Starts a slot. If this returns, the slot has failed for this pass and the reason was shown.
    fn start(&mut self, machine: &mut impl Machine, slot: Slot, forced: bool) {
        let error = match *self.get(slot) {
            Ok(trusted) => self.try_start(machine, slot, &trusted, forced),
            Err(error) => error,
        };
        machine.say(format_args!("{slot}: {error}"));
        *self.get(slot) = Err(error);
    }

    fn try_start<M: Machine>(
        &mut self,
        machine: &mut M,
        slot: Slot,
        trusted: &Trusted,
        forced: bool,
    ) -> SlotError {
        let loaded = trusted.read_uki(machine.disk()).and_then(|uki| machine.load(uki.bytes()));
        let image = match loaded {
            Ok(image) => image,
            Err(error) => return error,
        };
        // A slot that cannot even be loaded costs no try; one that is about to run does.
        let mut state = self.boot_state.state;
        state.before_boot(slot);
        let written = state::write(machine.disk(), self.layout.state, &mut self.boot_state, state);
        if let Err(error) = written {
            machine.say(format_args!("boot state: cannot be written: {error}"));
            if !state.get(slot).confirmed && !forced {
                return SlotError::TryNotRecorded;
            }
        }
        let fingerprint = state::fingerprint(machine.disk(), self.layout.state);
        machine.say(format_args!("starting {slot} (version {})", trusted.manifest.version));
        machine.start(image, slot, fingerprint)
    }

    /// Shows what is in a slot, for example `slot a: version 1.2, confirmed, priority 15`.
    fn say(&mut self, machine: &mut impl Machine, slot: Slot) {
        let state = *self.boot_state.state.get(slot);
        match *self.get(slot) {
            Err(error) => machine.say(format_args!("{slot}: {error}")),
            Ok(trusted) => {
                let mut line = String::new();
                let trust = if state.confirmed { "confirmed" } else { "not confirmed" };
                let written = write!(line, "version {}, {trust}", trusted.manifest.version)
                    .and_then(|()| match state.confirmed {
                        false => write!(line, ", {} tries left", state.tries_left),
                        true => Ok(()),
                    })
                    .and_then(|()| write!(line, ", priority {}", state.priority))
                    .and_then(|()| match state.boot_failures {
                        0 => Ok(()),
                        failures => write!(line, ", {failures} starts since the last healthy one"),
                    });
                // Writing to a string does not fail.
                let _ = written;
                machine.say(format_args!("{slot}: {line}"));
            }
        }
    }

    fn say_refusal(&mut self, machine: &mut impl Machine, slot: Slot) {
        let startable = self.boot_state.state.get(slot).startable();
        match (*self.get(slot), startable) {
            (Err(error), _) => machine.say(format_args!("  {slot}: {error}")),
            (Ok(_), Err(refusal)) => machine.say(format_args!("  {slot}: {refusal}")),
            (Ok(_), Ok(())) => {}
        }
    }
}

fn say_damage(machine: &mut impl Machine, loaded: &Loaded) {
    match (loaded.origin, loaded.damage) {
        (Origin::Default, [Some(first), Some(second)]) => {
            machine.say(format_args!(
                "boot state: lost (record 1: {first}, record 2: {second}), trying both slots"
            ));
        }
        // The other record of a fresh disk was never written.
        (Origin::First, [_, Some(RecordError::Empty)]) => {}
        (Origin::First, [_, Some(error)]) => {
            machine.say(format_args!("boot state: record 2 is damaged ({error}), using record 1"));
        }
        (Origin::Second, [Some(error), _]) => {
            machine.say(format_args!("boot state: record 1 is damaged ({error}), using record 2"));
        }
        _ => {}
    }
}

/// What happens at the recovery prompt if nobody answers.
#[derive(Clone, Copy)]
enum Unattended {
    /// A slot is started whatever the boot state says.
    Start(Retry),
    /// Everything begins anew after [`FIRST_WAIT_S`].
    LookAgain,
}

fn recovery_prompt(machine: &mut impl Machine, unattended: Option<Unattended>) -> Option<Choice> {
    machine.say(format_args!(
        "recovery: [r] retry  [a] start slot a  [b] start slot b  [p] power off"
    ));
    match unattended {
        Some(Unattended::Start(Retry { slot, wait_s })) => {
            machine.say(format_args!("without an answer {slot} is tried once more in {wait_s} s"));
            machine.ask(Some(wait_s))
        }
        Some(Unattended::LookAgain) => {
            machine.say(format_args!(
                "without an answer the disk is looked at again in {FIRST_WAIT_S} s"
            ));
            machine.ask(Some(FIRST_WAIT_S))
        }
        None => machine.ask(None),
    }
}
