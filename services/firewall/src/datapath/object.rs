//! The object file that `build.rs` makes: the maps and the programs before the kernel has them.

use aya::{Ebpf, EbpfLoader};
use portcullis_datapath_abi::map;

use super::{DatapathError, Result, Sizes, folders::Folders, maps, order};

/// The programs, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));

/// Tells object files apart: the beginning of the SHA-256 of this one, by `build.rs`.
pub(super) const BUILD: &str = env!("DATAPATH_BUILD");

/// Maps that are made anew with every size of the flow table.
const SIZED: [&str; 8] = [
    map::INDEX,
    map::LOCKS,
    map::FLOWS,
    map::MAPPINGS,
    map::TAKEN,
    map::FREE_FLOWS,
    map::FREE_MAPPINGS,
    map::CONFIG,
];

/// Reads the object file and makes those maps that are not pinned yet. The kernel has none of the
/// programs after that.
pub(super) fn read(folders: &Folders, sizes: Sizes) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader
        // Nothing is relocated by the kernel's types, and reading them costs 14 MB.
        .btf(None)
        .default_map_pin_directory(&folders.maps)
        .map_max_entries(map::INDEX, maps::buckets(sizes.flows))
        .map_max_entries(map::POLICY, sizes.lines.saturating_mul(2))
        .map_pin_path(map::POLICY, folders.policy.join(map::POLICY));
    for name in [map::FLOWS, map::MAPPINGS, map::FREE_FLOWS, map::FREE_MAPPINGS] {
        loader.map_max_entries(name, sizes.flows);
    }
    for name in SIZED {
        loader.map_pin_path(name, folders.flows.join(name));
    }
    for name in order::tables() {
        loader.map_pin_path(name, folders.programs.join(name));
    }
    loader
        .load(OBJECT)
        .map_err(|source| DatapathError::Load { flows: sizes.flows, source: Box::new(source) })
}
