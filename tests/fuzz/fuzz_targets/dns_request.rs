//! The DNS forwarder: whatever a client sends, and whatever an upstream answers.
#![no_main]

use std::net::Ipv4Addr;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    portcullis_dns::exercise(bytes, Ipv4Addr::new(192, 168, 77, 9));
    portcullis_dns::exercise_answer(bytes);
});
