//! The DNS forwarder's request path: whatever a client sends, and the same as an upstream's answer.
#![no_main]

use std::net::Ipv4Addr;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    portcullis_dns::exercise(bytes, Ipv4Addr::new(192, 168, 77, 9));
});
