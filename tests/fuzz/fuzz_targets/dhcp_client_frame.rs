#![no_main]
//! No frame of the WAN makes the DHCP client panic or take nonsense.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(nonsense) = portcullis_network::client::read_any(bytes) {
        panic!("{nonsense}");
    }
});
