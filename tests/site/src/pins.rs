//! A place for pinned maps and programs.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

/// A folder in the BPF file system that goes away with this value.
#[derive(Debug)]
pub struct Pins(PathBuf);

impl Pins {
    /// A path of its own; the file system is mounted if it is not.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
            let mut mount = Command::new("mount");
            portcullis_netns::execute(mount.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(PathBuf::from(format!("/sys/fs/bpf/pc-site-{}-{number}", std::process::id()))))
    }

    /// The folder; the datapath makes it.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
