//! The boot manager as a UEFI program; see the library for what it does.
#![cfg_attr(target_os = "uefi", no_main)]
#![cfg_attr(target_os = "uefi", no_std)]

#[cfg(target_os = "uefi")]
extern crate alloc;

#[cfg(target_os = "uefi")]
mod efi;

/// On another system there is nothing to boot: this says so and fails.
#[cfg(not(target_os = "uefi"))]
fn main() -> std::process::ExitCode {
    use std::io::Write as _;
    let text = b"The boot manager runs on UEFI; docs/slots.md says how to build it.\n";
    // Nobody to tell if standard error is closed.
    let _ = std::io::stderr().write_all(text);
    std::process::ExitCode::FAILURE
}
