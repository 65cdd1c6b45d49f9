//! Folders for disks and logs, which outlive nobody: they go when they are dropped, when a signal
//! ends the process, and those of a process that was killed when the next one makes its own.

use std::{
    collections::BTreeSet,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use portcullis_netns::{is_gone, remove_own};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// Begins the name of each; then come what it is for, the process and a number.
const PREFIX: &str = "portcullis-";

/// All folders of this process.
static OURS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A folder that goes away with this value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one for `purpose` (a word) in `$TMPDIR`, or else in `/var/tmp`: `/tmp` is in memory on
    /// many machines (on Debian from 13 on), and disks are large. Removes those of processes that
    /// are gone.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(purpose: &str) -> Result<Self> {
        let place = std::env::var_os("TMPDIR").filter(|place| !place.is_empty());
        Self::new_in(&place.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from), purpose)
    }

    fn new_in(place: &Path, purpose: &str) -> Result<Self> {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            if entry.file_name().to_str().and_then(owner).is_some_and(is_gone) {
                // Somebody else may remove it at the same time.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let mut ours = lock();
        let number = (0_u32..).find_map(|number| {
            let name = format!("{PREFIX}{purpose}-{}-{number}", std::process::id());
            let path = place.join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => None,
                made => Some(made.map(|()| path)),
            }
        });
        let path = number
            .context("no number is left")?
            .with_context(|| format!("a folder in {} (TMPDIR names another)", place.display()))?;
        ours.insert(path.clone());
        Ok(Self(path))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut ours = lock();
        let _ = std::fs::remove_dir_all(&self.0);
        ours.remove(&self.0);
    }
}

fn lock() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process whose folder has this name.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.rsplitn(3, '-');
    let _number: u32 = parts.next()?.parse().ok()?;
    parts.next()?.parse().ok()
}

/// From now on Ctrl-C, a closed terminal and SIGTERM take all that the process has made outside
/// itself along: namespaces with what runs in them, and folders. Machines end with it in any case.
///
/// # Errors
/// If no handler can be had.
pub fn clean_up_at_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end(128 + signal, |_| {});
        }
    });
    Ok(())
}

/// Ends the process, wherever its threads are, and leaves nothing behind; `last_look` sees each
/// folder before it goes.
pub fn end(code: i32, last_look: impl Fn(&Path)) -> ! {
    // Held to the end: a thread that fails now, because all that it uses goes, cannot begin anew.
    let ours = lock();
    remove_own();
    for folder in ours.iter() {
        last_look(folder);
        let _ = std::fs::remove_dir_all(folder);
    }
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_with_their_value_and_those_of_the_dead_with_the_next() {
        let place = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = place.path().join(format!("portcullis-e2e-{}-0", child.id()));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("disk.raw"), "large").unwrap();
        let others = ["portcullis-notes", "portcullis-e2e-1-0", "other-e2e-999999999-0"];
        for other in others {
            std::fs::create_dir(place.path().join(other)).unwrap();
        }

        let first = Scratch::new_in(place.path(), "test").unwrap();
        let second = Scratch::new_in(place.path(), "test").unwrap();
        assert!(!dead.exists());
        assert!(first.path().is_dir() && second.path().is_dir() && first.path() != second.path());
        std::fs::write(first.path().join("disk.raw"), "large").unwrap();
        drop(first);
        drop(second);
        let mut left: Vec<_> = std::fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["other-e2e-999999999-0", "portcullis-e2e-1-0", "portcullis-notes"]);
    }

    #[test]
    fn a_place_that_is_not_there_is_named() {
        let error = Scratch::new_in(Path::new("/nonexistent"), "test").unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent"), "{error:#}");
    }
}
