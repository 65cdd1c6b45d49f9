#![no_main]
//! Any conversation with the DHCP server: no panic, and never one address for two clients. The
//! script and what must hold are those of the crate's own tests, which replay the corpus.
use libfuzzer_sys::fuzz_target;

#[path = "../../../services/dhcp/tests/protocol/script.rs"]
mod script;
#[path = "../../../services/dhcp/tests/protocol/witness.rs"]
#[allow(dead_code, reason = "the tests of the crate use more of it")]
mod witness;

fuzz_target!(|input: &[u8]| script::run(input));
