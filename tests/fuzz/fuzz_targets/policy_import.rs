#![no_main]
//! Rules as YAML and JSON, and packets to be explained: whatever stands in them, there is an answer.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portcullis_policy::fuzz::import(bytes));
