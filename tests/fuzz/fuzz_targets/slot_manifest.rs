#![no_main]
//! Any bytes are a manifest within its rules or an error; nothing unsigned is believed.
use libfuzzer_sys::fuzz_target;

#[path = "../../../ota/bundle/tests/fuzz/slot_manifest.rs"]
mod slot_manifest;

fuzz_target!(|data: &[u8]| slot_manifest::run(data));
