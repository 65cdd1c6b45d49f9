//! Where what is pinned.

use std::{
    fs,
    path::{Path, PathBuf},
};

use portcullis_datapath_abi::{
    Config, LAYOUT, map,
    policy::{FRAGMENT_TICKS, fragment_flags},
};

use super::{DatapathError, Result, Sizes, maps, object::BUILD, read_config};

/// The folders of a datapath.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pins: PathBuf,
    pub(super) links: PathBuf,
    pub(super) maps: PathBuf,
    pub(super) flows: PathBuf,
    pub(super) policy: PathBuf,
    pub(super) programs: PathBuf,
}

const FLOWS_PREFIX: &str = "flows-";
const POLICY_PREFIX: &str = "policy-";
const PROGRAMS_PREFIX: &str = "programs-";
const MAPS_PREFIX: &str = "maps-";

impl Folders {
    pub(super) fn of(pins: &Path, Sizes { flows, lines }: Sizes) -> Self {
        let maps = Self::maps(pins);
        Self {
            pins: pins.to_owned(),
            links: pins.join("links"),
            flows: maps.join(format!("{FLOWS_PREFIX}{flows}")),
            policy: maps.join(format!("{POLICY_PREFIX}{lines}")),
            programs: maps.join(format!("{PROGRAMS_PREFIX}{BUILD}-{flows}-{lines}")),
            maps,
        }
    }

    fn maps(pins: &Path) -> PathBuf {
        pins.join(format!("{MAPS_PREFIX}{LAYOUT:08x}"))
    }

    /// Makes those that are not there; returns these.
    pub(super) fn make(&self) -> Result<Vec<PathBuf>> {
        let all = [&self.pins, &self.links, &self.maps, &self.flows, &self.policy, &self.programs];
        let mut made = Vec::new();
        for path in all {
            if !path.exists() {
                made.push(path.to_owned());
            }
            fs::create_dir_all(path)
                .map_err(|source| DatapathError::Pin { path: path.to_owned(), source })?;
        }
        Ok(made)
    }

    /// Whether there are flow tables of our layout.
    pub(super) fn has_tables(pins: &Path) -> bool {
        !children(&Self::maps(pins), FLOWS_PREFIX).is_empty()
    }

    /// Policies of our layout with their numbers of lines.
    pub(super) fn policies(pins: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
        children(&Self::maps(pins), POLICY_PREFIX).into_iter().filter_map(|path| {
            let lines = path.file_name()?.to_str()?.strip_prefix(POLICY_PREFIX)?.parse().ok()?;
            Some((lines, path))
        })
    }

    /// Gives a new table its secret and its sizes, before any packet sees it. `false` if it has them.
    pub(super) fn settle(&self, max_flows: u32) -> Result<bool> {
        let mut map = maps::config(&self.flows)?;
        if read_config(&map)?.buckets != 0 {
            return Ok(false);
        }
        let mut seed = [0; 16];
        let mut rest: &mut [u8] = &mut seed;
        while !rest.is_empty() {
            let got = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| DatapathError::Random(error.into()))?;
            rest = rest.get_mut(got..).unwrap_or_default();
        }
        let seed = u128::from_ne_bytes(seed);
        let config = Config {
            seed: [seed as u64, (seed >> 64) as u64],
            generation: 1,
            buckets: maps::buckets(max_flows),
            flows: max_flows,
            mappings: max_flows,
            flags: fragment_flags(FRAGMENT_TICKS),
            ..Config::default()
        };
        map.set(0, config, 0).map_err(maps::failed(map::CONFIG))?;
        Ok(true)
    }

    /// Flow tables of another size with our layout.
    pub(super) fn other_tables(&self) -> Vec<PathBuf> {
        self.others(FLOWS_PREFIX, &self.flows)
    }

    /// Policies of another size with our layout.
    pub(super) fn other_policies(&self) -> Vec<PathBuf> {
        self.others(POLICY_PREFIX, &self.policy)
    }

    fn others(&self, prefix: &str, ours: &Path) -> Vec<PathBuf> {
        children(&self.maps, prefix).into_iter().filter(|path| path != ours).collect()
    }

    /// Removes the pins of what is not used any more.
    pub(super) fn remove_others(&self) {
        let layouts = children(&self.pins, MAPS_PREFIX).into_iter();
        for layout in layouts.filter(|path| *path != self.maps) {
            tracing::info!(path = %layout.display(), "maps of another layout are given up");
            remove(&layout);
        }
        let programs = self.others(PROGRAMS_PREFIX, &self.programs);
        for others in [programs, self.other_policies(), self.other_tables()] {
            others.iter().for_each(|folder| remove(folder));
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(path = %folder.display(), %error, "old maps stay pinned");
    }
}

fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}
