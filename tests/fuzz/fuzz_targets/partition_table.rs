#![no_main]
//! Any partition table gives partitions inside of the disk or an error.
use libfuzzer_sys::fuzz_target;

#[path = "../../../init/bootloader/tests/fuzz/partition_table.rs"]
mod partition_table;

fuzz_target!(|data: &[u8]| partition_table::run(data));
