//! UEFI's side of the boot manager: disk, console, variables and programs. No decision is made here.
mod boot_disk;
mod clock;
mod console;
mod image;
mod variables;

use alloc::string::ToString;
use boot_disk::BootDisk;
use clock::Clock;
use core::fmt;
use core::time::Duration;
use image::Image;
use portcullis_bootloader::flow::{self, Choice, Machine};
use portcullis_bootloader::slot::SlotError;
use portcullis_bootstate::{Fingerprint, Slot};
use portcullis_bundle::PublicKey;
use uefi::prelude::*;
use uefi::runtime::ResetType;
use variables::{Variable, set_boot_state};

/// The public keys that slots may be signed with, see build.rs.
static KEYS: &[PublicKey] = include!(concat!(env!("OUT_DIR"), "/slot_keys.rs"));

/// The firmware resets the computer if a started program has not taken over within this time.
const TAKE_OVER_TIMEOUT_S: usize = 300;

#[entry]
fn main() -> Status {
    let clock = Clock::start();
    Variable::TimeInit.set(&clock.now_us().to_string());
    Variable::Info.set(flow::NAME);
    match BootDisk::find() {
        Ok(disk) => {
            if let Some(id) = disk.partition_id() {
                Variable::DevicePartUuid.set(&id.to_string());
            }
            flow::run(&mut Computer { disk, clock }, KEYS);
            // The firmware could not power off, or refused to.
            Status::ABORTED
        }
        Err(error) => {
            console::say(format_args!(
                "{}: cannot find the disk it was loaded from: {error}",
                flow::NAME
            ));
            error.status()
        }
    }
}

struct Computer {
    disk: BootDisk,
    clock: Clock,
}

impl Machine for Computer {
    type Disk = BootDisk;
    type Image = Image;

    fn disk(&mut self) -> &mut BootDisk {
        &mut self.disk
    }

    fn say(&mut self, line: fmt::Arguments<'_>) {
        console::say(line);
    }

    fn load(&mut self, uki: &[u8]) -> Result<Image, SlotError> {
        Image::load(uki).map_err(|error| SlotError::Load(code(error.status())))
    }

    fn start(&mut self, image: Image, slot: Slot, boot_state: Option<Fingerprint>) -> SlotError {
        Variable::EntrySelected.set(slot.partition());
        set_boot_state(boot_state);
        Variable::TimeExec.set(&self.clock.now_us().to_string());
        set_watchdog(TAKE_OVER_TIMEOUT_S);
        let status = image.start();
        SlotError::CameBack(code(status))
    }

    fn ask(&mut self, wait_s: Option<u32>) -> Option<Choice> {
        // A person may take any time to answer.
        set_watchdog(0);
        let choice = console::ask(wait_s.map(|wait_s| Duration::from_secs(wait_s.into())));
        set_watchdog(TAKE_OVER_TIMEOUT_S);
        choice
    }

    fn power_off(&mut self) {
        uefi::runtime::reset(ResetType::SHUTDOWN, Status::SUCCESS, None);
    }
}

/// A status code without the bit that marks errors, as it is numbered in UEFI 2.10, appendix D.
const fn code(status: Status) -> usize {
    status.0 & (usize::MAX >> 1)
}

fn set_watchdog(seconds: usize) {
    // Firmware without a watchdog timer works without it.
    let _ = boot::set_watchdog_timer(seconds, 0x1_0000, None);
}

/// A bug in this program: says so and restarts, so that it cannot hang unattended.
#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    console::say(format_args!("boot manager failed: {info}"));
    boot::stall(Duration::from_secs(10));
    uefi::runtime::reset(ResetType::COLD, Status::ABORTED, None)
}
