//! The boot manager: the first program of Portcullis that a computer runs.
//!
//! Firmware starts it from the EFI system partition. It finds the slots on the same disk, reads the
//! boot state, verifies a slot and starts its unified kernel image from memory:
//!
//! ```text
//! gpt     where are `state`, `slot-a` and `slot-b`?
//! state   which slot is preferred, and is it trusted?          (rules: portcullis-bootstate)
//! slot    signature of the manifest, SHA-256 of the UKI        (format: portcullis-bundle)
//! flow    ties them together; any fault leads to the other slot, both bad to the recovery prompt
//! ```
//!
//! All of it runs on the host too, against the traits [`disk::Disk`] and [`flow::Machine`]; the
//! program (`main.rs`) implements these with UEFI's protocols and contains no decision.
#![no_std]

extern crate alloc;

pub mod disk;
pub mod flow;
pub mod gpt;
pub mod slot;
pub mod state;
