//! What processes that were killed have left: namespaces that nobody would remove, and what runs in
//! them.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal};

/// Where `ip netns` keeps the namespaces.
pub(crate) const NAMESPACES: &str = "/run/netns";
/// Where `ip netns exec` takes files from that programs shall see in `/etc`.
pub(crate) const FILES: &str = "/etc/netns";

/// The name of a namespace tells whose it is.
pub(crate) fn name(tag: &str, number: u32) -> String {
    format!("pc-{tag}-{}-{number}", std::process::id())
}

/// The process that made the namespace of this name, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("pc-")?.rsplitn(3, '-');
    let _number: u32 = parts.next()?.parse().ok()?;
    parts.next()?.parse().ok()
}

/// Whether there is no such process any more.
pub fn is_gone(process: u32) -> bool {
    !Path::new("/proc").join(process.to_string()).exists()
}

/// Removes the namespaces of processes that are gone. Every process does so before it makes its
/// first one.
pub fn remove_leftovers() {
    remove(is_gone);
}

/// Kills the children of this process and removes its namespaces, for one that is about to end
/// without dropping them.
pub fn remove_own() {
    // First: one that has just been started is in no namespace yet.
    kill_children();
    remove(|owner| owner == std::process::id());
}

fn remove(whose: impl Fn(u32) -> bool) {
    let mut names = BTreeSet::new();
    for folder in [NAMESPACES, FILES] {
        // Neither is there before the first namespace is.
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    for name in names.iter().filter(|name| owner(name).is_some_and(&whose)) {
        kill_all_in(name);
        delete(name);
    }
}

/// Somebody else may remove it at the same time, so that nothing here is an error.
pub(crate) fn delete(name: &str) {
    let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
    let _ = std::fs::remove_dir_all(Path::new(FILES).join(name));
}

/// A process would keep the namespace, without a name.
fn kill_all_in(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).lines().filter_map(|pid| pid.trim().parse().ok()) {
        kill(pid);
    }
}

fn kill_children() {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if parent(&stat) == Some(std::process::id()) {
            kill(pid);
        }
    }
}

/// The parent in a line of `/proc/PID/stat` (proc_pid_stat(5)); a name may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != rustix::process::getpid()) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is() {
        assert_eq!(owner(&name("a", 7)), Some(std::process::id()));
        assert_eq!(owner("pc-tag-with-parts-12-3"), Some(12));
        for other in ["", "pc-", "pc-a-1", "pc-a-b-1", "pc-a-1-b", "blue", "xpc-a-1-2"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn the_kernel_tells_the_parent() {
        assert_eq!(parent("12 (a) 3 (b) S 34 5 6"), Some(34));
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(parent(&own), Some(std::os::unix::process::parent_id()));
        assert_eq!(parent(""), None);
    }
}
