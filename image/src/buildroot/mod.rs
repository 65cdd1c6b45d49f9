//! Runs Buildroot for the base of that name: the pinned tree, an output folder outside of it, a log, one line a package.
//!
//! [`pin`] reads which Buildroot it must be, [`tree`] finds or fetches and checks it, [`make`] calls it with an
//! environment that depends on nothing but what is named, [`begun`] tells when an output folder is stale, and
//! [`progress`] makes lines for people of what it prints.
//! What it gives to the image is read by [`base::buildroot`](crate::base::buildroot).

pub mod begun;
pub mod make;
pub mod pin;
pub mod progress;
pub mod tree;

use crate::architecture::Architecture;
use crate::cache::Cache;
use anyhow::Result;
use make::Make;
use pin::Pinned;
use std::path::{Path, PathBuf};

/// A Buildroot ready to run.
#[derive(Debug)]
pub struct Buildroot {
    /// What it must be.
    pub pinned: Pinned,
    /// How it is called.
    pub make: Make,
}

impl Buildroot {
    /// The checked Buildroot, from `BUILDROOT_DIR` or fetched, with its output in `output`.
    ///
    /// # Errors
    /// When it cannot be had or is not the pinned one.
    pub fn open(
        checkout: &Path,
        architecture: &Architecture,
        output: PathBuf,
        cache: &Cache,
    ) -> Result<Self> {
        let external = checkout.join("buildroot");
        let pinned = pin::read(&external)?;
        let source = tree::provide(&pinned, &tree::Source::of_environment(), cache)?;
        let defconfig = format!("portcullis_{}_defconfig", architecture.name);
        let version = pinned.pin.version.clone();
        let downloads = cache.folder().join("downloads");
        Ok(Self { pinned, make: Make { source, external, output, defconfig, downloads, version } })
    }

    /// What it hands to the image builder.
    pub fn base(&self) -> PathBuf {
        base_folder(&self.make.output)
    }

    /// Programs of the host that it built.
    pub fn host_tools(&self) -> Vec<PathBuf> {
        ["host/bin", "host/sbin"].map(|folder| self.make.output.join(folder)).to_vec()
    }
}

/// The targets of a whole build. Buildroot cannot tell that the checkout has changed: our program is looked at each
/// time, which takes seconds when it is in the cache.
pub fn everything() -> Vec<String> {
    ["portcullis-rebuild", "all"].map(str::to_owned).to_vec()
}

/// Where Buildroot hands over the base in its output folder.
pub fn base_folder(output: &Path) -> PathBuf {
    output.join("images/portcullis-base")
}

/// The output folder when none is named.
pub fn default_output(checkout: &Path, architecture: &Architecture) -> PathBuf {
    checkout.join("target/buildroot").join(architecture.name)
}
