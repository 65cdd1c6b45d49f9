//! Tables for tests: real maps of this kernel, used by no program. Needs root.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::{Array, Queue};
use portcullis_datapath_abi::{
    Config, FlowKey, FlowRecord, Mapping,
    flow::{ACK, Ends4, LIVE, NO_MAPPING, SYN, TCP, taken},
    map,
};
use portcullis_flow_table::LOCKS;

use super::{FlowTable, maps};

/// linux/bpf.h: BPF_F_MMAPABLE.
const MAPPABLE: u32 = 1 << 10;

/// A table in a folder that goes away with this value.
pub(crate) struct Scratch {
    pub(crate) table: FlowTable,
    folder: PathBuf,
}

impl Scratch {
    pub(crate) fn new(flows: u32) -> Self {
        let folder = folder();
        let config = Config {
            seed: [0x1234_5678, 0x9abc_def0],
            buckets: maps::buckets(flows),
            flows,
            mappings: flows,
            ..Config::default()
        };
        macro_rules! array {
            ($Type:ty, $entries:expr, $name:expr) => {
                Array::<_, $Type>::create($entries, MAPPABLE)
                    .unwrap_or_else(|error| panic!("{}: {error}", $name))
                    .pin(folder.join($name))
                    .unwrap_or_else(|error| panic!("{}: {error}", $name))
            };
        }
        array!([u64; 8], config.buckets, map::INDEX);
        array!(u32, LOCKS, map::LOCKS);
        array!(FlowRecord, flows, map::FLOWS);
        array!(Mapping, flows, map::MAPPINGS);
        array!(u32, taken::COUNT, map::TAKEN);
        for name in [map::FREE_FLOWS, map::FREE_MAPPINGS] {
            Queue::<_, u32>::create(flows, 0)
                .unwrap_or_else(|error| panic!("{name}: {error}"))
                .pin(folder.join(name))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let table = FlowTable::open(&folder, config).unwrap_or_else(|error| panic!("{error}"));
        Self { table, folder }
    }

    /// The same table as another process sees it, after this one was killed.
    pub(crate) fn reopen(&self) -> FlowTable {
        FlowTable::open(&self.folder, *self.table.config())
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status();
        assert!(mounted.is_ok_and(|status| status.success()), "these tests need root");
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("pc-scratch-{}-{number}", std::process::id());
    let folder = Path::new("/sys/fs/bpf").join(name);
    std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("these tests need root: {error}"));
    folder
}

/// An established TCP flow, one of many.
pub(crate) fn tcp(number: u32) -> FlowRecord {
    let ports = (number >> 16) as u16;
    let forward = FlowKey {
        source: 0x0a00_0001,
        destination: 0x0a00_0002 + u32::from(ports),
        source_port: number as u16,
        destination_port: 443,
        protocol: TCP,
        zone: 1,
        reserved: 0,
    };
    let reverse = FlowKey {
        source: forward.destination,
        destination: 0x0b00_0001,
        source_port: 443,
        destination_port: number as u16,
        protocol: TCP,
        zone: 2,
        reserved: 0,
    };
    let mut record = FlowRecord {
        packets: [2, 1],
        last_seen: 1000,
        mapping: NO_MAPPING,
        state: LIVE,
        ..FlowRecord::default()
    };
    record.set_ends4(&Ends4 { keys: [forward, reverse], ..Ends4::default() });
    for side in &mut record.sides {
        side.seen = SYN | ACK;
    }
    record
}

/// A mapping, one of many.
pub(crate) fn mapping(number: u16) -> Mapping {
    Mapping {
        internal: 0x0a00_0001,
        external: 0x0b00_0001,
        internal_port: number,
        external_port: number,
        protocol: TCP,
        zone: 1,
        external_zone: 2,
        ..Mapping::default()
    }
}
