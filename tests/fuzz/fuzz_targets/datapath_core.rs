#![no_main]
//! Any frames through the packet core: no panic, nothing changes without a flow, no half flows.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| portcullis_datapath::fuzz::run(input));
