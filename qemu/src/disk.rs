//! Disks for virtual machines.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use portcullis_netns::execute;

/// A disk file and its format.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Path of the file.
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: &'static str,
}

impl Disk {
    /// A new disk at `path` that reads as `image` (raw) and keeps what is written to itself. It
    /// is `size_mib` large, or as large as the image.
    ///
    /// # Errors
    /// If the image is missing or qemu-img fails.
    pub fn overlay(image: &Path, path: &Path, size_mib: Option<u64>) -> Result<Self> {
        ensure!(image.exists(), "{} does not exist: run `make image` first", image.display());
        let image = image.canonicalize()?;
        let mut command = std::process::Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&image).arg(path);
        if let Some(size) = size_mib {
            command.arg(format!("{size}M"));
        }
        execute(&mut command)?;
        Ok(Self { path: path.to_owned(), format: "qcow2" })
    }

    /// A raw copy of `image` at `path` with holes kept, grown to `size_mib`, for tests that change
    /// bytes of the disk themselves.
    ///
    /// # Errors
    /// If the image is missing or cannot be copied.
    pub fn raw_copy(image: &Path, path: &Path, size_mib: Option<u64>) -> Result<Self> {
        ensure!(image.exists(), "{} does not exist: run `make image` first", image.display());
        execute(std::process::Command::new("cp").arg("--sparse=always").arg(image).arg(path))?;
        if let Some(size) = size_mib {
            let file = std::fs::OpenOptions::new().write(true).open(path)?;
            file.set_len(size << 20).with_context(|| path.display().to_string())?;
        }
        Ok(Self { path: path.to_owned(), format: "raw" })
    }
}
