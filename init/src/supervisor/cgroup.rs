//! One cgroup (version 2) per service: limits, use, and an end that no process escapes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A service's cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

/// What a cgroup used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Memory charged, bytes.
    pub memory_bytes: u64,
    /// CPU time, milliseconds.
    pub cpu_ms: u64,
    /// Processes killed for want of memory since the cgroup was made.
    pub oom_kills: u64,
}

/// Makes the parent of all services' cgroups and hands the controllers down to it.
///
/// # Errors
/// With the file that could not be written; limits would not hold then.
pub fn prepare(parent: &Path) -> io::Result<()> {
    const CONTROLLERS: &str = "+cpu +memory +pids";
    let Some(root) = parent.parent() else {
        return Err(io::Error::other("the services' cgroup has no parent"));
    };
    write(&root.join("cgroup.subtree_control"), CONTROLLERS)?;
    make(parent)?;
    write(&parent.join("cgroup.subtree_control"), CONTROLLERS)
}

impl Cgroup {
    /// Makes the cgroup at `path`, or takes the one that is there, and sets its limits.
    ///
    /// # Errors
    /// With the file that could not be written.
    pub fn new(path: PathBuf, memory_bytes: u64, tasks: u32) -> io::Result<Self> {
        make(&path)?;
        write(&path.join("memory.max"), &memory_bytes.to_string())?;
        // All of a service or nothing: one thread's process killed would leave a torso.
        write(&path.join("memory.oom.group"), "1")?;
        write(&path.join("pids.max"), &tasks.to_string())?;
        Ok(Self { path })
    }

    /// SIGKILL to every process in it.
    ///
    /// # Errors
    /// If the kernel does not take the order.
    pub fn kill(&self) -> io::Result<()> {
        write(&self.path.join("cgroup.kill"), "1")
    }

    /// What it uses; zeros for what cannot be read.
    pub fn usage(&self) -> Usage {
        let read = |file: &str| fs::read_to_string(self.path.join(file)).unwrap_or_default();
        Usage {
            memory_bytes: read("memory.current").trim().parse().unwrap_or(0),
            cpu_ms: field(&read("cpu.stat"), "usage_usec") / 1000,
            oom_kills: field(&read("memory.events"), "oom_kill"),
        }
    }
}

/// Value of `key` in a file of `key value` lines; 0 if it is not there.
fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(k, _)| *k == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(with_path(path, &e)),
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|e| with_path(path, &e))
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_flat_keyed_files() {
        let text = "low 0\noom 2\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(field(text, "oom_kill"), 3);
        assert_eq!(field(text, "max"), 0);
    }
}
