//! The boot manager on real firmware: each story is one or a few boots of a small disk under OVMF.
//!
//! Needs the Debian packages qemu-system-x86, ovmf and mtools; neither root nor KVM.
#[cfg(test)]
mod lab;
#[cfg(test)]
#[path = "lab/qemu.rs"]
mod qemu;

use lab::{DiskImage, blob, confirmed, on_trial, trusted_key};
use portcullis_bootstate::{BootState, Fingerprint, Origin, RECORD_SIZE, Slot};
use portcullis_bundle::SigningKey;
use qemu::{Computer, boot, disk, test_kernel};

/// A disk with a good image in both slots: version 2.0 in a, 1.0 in b, both confirmed.
#[cfg(test)]
fn good_disk() -> DiskImage {
    let mut disk = disk();
    disk.install(Slot::A, &blob("2.0", &test_kernel(b'o'), &trusted_key()));
    disk.install(Slot::B, &blob("1.0", &test_kernel(b'o'), &trusted_key()));
    disk.set_boot_state(BootState { a: confirmed(15), b: confirmed(14) });
    disk
}

/// The value of `name` in the line that the test kernel shows.
#[cfg(test)]
fn told<'a>(console: &'a str, name: &str) -> &'a str {
    let line = console.split("test kernel:").nth(1).expect("the test kernel was started");
    let value = line.split(&format!(" {name}=")).nth(1).expect(name);
    value.split(';').next().unwrap()
}

#[cfg(test)]
#[track_caller]
fn shows(console: &str, text: &str) {
    assert!(console.contains(text), "{text:?} is missing on the console:\n{console}");
}

#[test]
fn a_fresh_disk_starts_slot_a_and_counts_its_try() {
    let mut disk = disk();
    disk.install(Slot::A, &blob("2.0", &test_kernel(b'o'), &trusted_key()));
    let records = BootState::flashed_records();
    disk.partition("state")[..records.len()].copy_from_slice(&records);

    let console = boot(&mut disk);

    shows(&console, concat!("Portcullis boot manager ", env!("CARGO_PKG_VERSION"), "\n"));
    shows(&console, "slot a: version 2.0, not confirmed, 3 tries left, priority 15\n");
    shows(&console, "slot b: empty (no manifest)\n");
    shows(&console, "starting slot a (version 2.0)\n");
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-a");
    assert_eq!(
        told(&console, "LoaderInfo"),
        concat!("Portcullis boot manager ", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(told(&console, "LoaderDevicePartUUID").len(), 36);
    assert_eq!(told(&console, "device"), "none");
    let (first, rest) = disk.partition("state").split_at(RECORD_SIZE);
    let fingerprint = Fingerprint::of(first, &rest[..RECORD_SIZE]);
    assert_eq!(told(&console, "PortcullisBootState"), hex::encode(fingerprint.0));
    let [init, exec] =
        ["LoaderTimeInitUSec", "LoaderTimeExecUSec"].map(|name| told(&console, name));
    let [init, exec]: [u64; 2] = [init.parse().unwrap(), exec.parse().unwrap()];
    assert!(init > 100_000 && exec > init && exec < 600_000_000, "{init} {exec}");
    println!("firmware {} ms, boot manager {} ms", init / 1000, (exec - init) / 1000);

    let state = disk.boot_state();
    assert_eq!(state.origin, Origin::Second);
    assert_eq!((state.state.a.tries_left, state.state.a.boot_failures), (2, 1));
}

#[test]
fn a_confirmed_slot_keeps_its_tries() {
    let mut disk = good_disk();
    disk.set_boot_state(BootState { a: confirmed(14), b: confirmed(15) });
    let console = boot(&mut disk);
    shows(&console, "slot b: version 1.0, confirmed, priority 15\n");
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-b");
    let state = disk.boot_state().state;
    assert_eq!(state.a, confirmed(14));
    assert_eq!((state.b.confirmed, state.b.tries_left, state.b.boot_failures), (true, 0, 1));
}

#[test]
fn a_flipped_bit_in_the_uki_leads_to_the_other_slot_at_once() {
    let mut disk = good_disk();
    // The UKI of the blob begins after 5 blocks of root and 1 of hash tree.
    disk.partition("slot-a")[6 * 4096 + 1000] ^= 4;
    let console = boot(&mut disk);
    shows(&console, "slot a: UKI is damaged (its SHA-256 is not the one in the manifest)\n");
    shows(&console, "starting slot b (version 1.0)\n");
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-b");
    assert_eq!(
        disk.boot_state().state.a,
        confirmed(15),
        "a slot that was not started has not failed"
    );
}

#[test]
fn a_slot_signed_by_another_key_is_refused() {
    let mut disk = good_disk();
    let other = SigningKey::from_bytes(&[0x43; 32]);
    disk.install(Slot::A, &blob("6.6.6", &test_kernel(b'o'), &other));
    let console = boot(&mut disk);
    let id = portcullis_bundle::key_id(other.verifying_key().as_bytes());
    shows(&console, &format!("slot a: signed by key {id}, which is not trusted here\n"));
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-b");
    assert!(!console.contains("6.6.6"), "nothing unverified is shown:\n{console}");

    // The same with the id of the trusted key forged into the manifest.
    let trailer = disk.partition("slot-a").len() - 65536;
    let id = portcullis_bundle::key_id(&lab::trusted_public_key());
    disk.partition("slot-a")[trailer + 16..][..8].copy_from_slice(&id.0);
    let console = boot(&mut disk);
    shows(&console, &format!("slot a: signature by key {id} does not match\n"));
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-b");
}

#[test]
fn a_torn_record_leaves_the_other_and_two_lost_ones_a_safe_default() {
    let mut disk = good_disk();
    // The record that says "b first" is torn: the older one, "a first", counts again.
    let before = disk.boot_state();
    let pending = before.next(BootState { a: confirmed(14), b: confirmed(15) });
    disk.partition("state")[pending.offset..][..100].copy_from_slice(&pending.bytes[..100]);
    let console = boot(&mut disk);
    shows(&console, "boot state: record 2 is damaged (checksum does not match), using record 1\n");
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-a");
    let after = disk.boot_state();
    assert_eq!((after.origin, after.damage), (Origin::Second, [None, None]), "it was replaced");

    disk.partition("state").fill(0xff);
    let console = boot(&mut disk);
    shows(&console, "boot state: lost (record 1: checksum does not match");
    shows(&console, "slot a: version 2.0, not confirmed, 3 tries left, priority 15\n");
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-a");
    assert_eq!(disk.boot_state().state.a.tries_left, 2);
}

#[test]
fn an_unconfirmed_slot_without_tries_is_passed_over() {
    let mut disk = good_disk();
    disk.set_boot_state(BootState { a: on_trial(15, 0), b: confirmed(14) });
    let console = boot(&mut disk);
    shows(&console, "slot a: version 2.0, not confirmed, 0 tries left, priority 15\n");
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-b");
}

#[test]
fn a_uki_that_cannot_run_leads_to_the_other_slot_at_once() {
    let mut disk = good_disk();
    disk.install(Slot::A, &blob("2.0", &[0x90; 10_000], &trusted_key()));
    let console = boot(&mut disk);
    shows(&console, "slot a: firmware refuses the UKI (status 0x");
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-b");

    disk.install(Slot::A, &blob("2.0", &test_kernel(b'r'), &trusted_key()));
    let console = boot(&mut disk);
    shows(&console, "starting slot a (version 2.0)\n");
    shows(&console, "slot a: UKI came back (status 0x1)\n");
    shows(&console, "starting slot b (version 1.0)\n");
}

#[test]
fn a_slot_that_always_crashes_ends_at_the_other() {
    let mut disk = good_disk();
    disk.install(Slot::A, &blob("2.0", &test_kernel(b'x'), &trusted_key()));
    // One try is enough here: the counting itself is tested on a disk in memory.
    disk.set_boot_state(BootState { a: on_trial(15, 1), b: confirmed(14) });
    assert_eq!(told(&boot(&mut disk), "LoaderEntrySelected"), "slot-a");
    assert_eq!(told(&boot(&mut disk), "LoaderEntrySelected"), "slot-b");
}

#[test]
fn two_bad_slots_end_at_the_recovery_prompt() {
    let mut disk = good_disk();
    disk.partition("slot-a")[6 * 4096 + 1000] ^= 4;
    disk.partition("slot-b").fill(0);
    let mut computer = Computer::start(&disk).unwrap();
    computer.expect("no slot can be started\n").unwrap();
    computer.expect("  slot a: UKI is damaged").unwrap();
    computer.expect("  slot b: empty (no manifest)\n").unwrap();
    computer
        .expect("recovery: [r] retry  [a] start slot a  [b] start slot b  [p] power off\n")
        .unwrap();
    computer.type_keys("r").unwrap();
    computer.expect("trying again\n").unwrap();
    computer.type_keys("p").unwrap();
    let console = computer.finish(&mut disk).unwrap();
    assert!(!console.contains("test kernel:"), "nothing was started:\n{console}");
}

#[test]
fn a_person_may_start_an_intact_slot_that_the_rules_pass_over() {
    let mut disk = good_disk();
    disk.set_boot_state(BootState { a: on_trial(0, 0), b: on_trial(0, 0) });
    let mut computer = Computer::start(&disk).unwrap();
    computer.expect("  slot b: disabled (priority 0)\n").unwrap();
    computer.expect("[p] power off\n").unwrap();
    computer.type_keys("xb").unwrap();
    let console = computer.finish(&mut disk).unwrap();
    assert_eq!(told(&console, "LoaderEntrySelected"), "slot-b");
}
