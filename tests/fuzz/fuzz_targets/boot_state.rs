#![no_main]
//! Any bytes on the state partition give an answer; what is written is read back.
use libfuzzer_sys::fuzz_target;

#[path = "../../../init/bootstate/tests/fuzz/boot_state.rs"]
mod boot_state;

fuzz_target!(|data: &[u8]| boot_state::run(data));
