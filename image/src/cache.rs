//! The cache outside the checkout: what was built once from the same inputs is not built again, by any checkout.
//!
//! An entry is `KIND/KEY` with the digest of its content beside it in `KIND/KEY.sha256`. An entry whose content does
//! not match its digest (a full disk, a bad sector, a half-written file) counts as missing and is made anew. Of each kind
//! the entries used last are kept.

use crate::digest::Digest;
use crate::{output, progress};
use anyhow::{Context, Result, bail};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Entries kept of each kind: several checkouts' worth of programs and kernels.
const KEPT: usize = 24;

/// A folder of cached files.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache of this user: `$XDG_CACHE_HOME/portcullis`, by default `~/.cache/portcullis`.
    ///
    /// # Errors
    /// When neither `XDG_CACHE_HOME` nor `HOME` is an absolute path.
    pub fn of_user() -> Result<Self> {
        let absolute =
            |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base =
            absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        match base {
            Some(base) => Ok(Self::at(base.join("portcullis"))),
            None => bail!("no place for the cache: set XDG_CACHE_HOME or HOME to an absolute path"),
        }
    }

    /// A cache in this folder, which need not exist yet.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The content of the entry, made by `make` (which writes the file it is given) when it is not there intact.
    ///
    /// Builds that want the same entry at the same time wait for the first one.
    ///
    /// # Errors
    /// Those of `make`, and when the cache folder cannot be written.
    pub fn get_or_make(
        &self,
        kind: &str,
        key: Digest,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.folder.join(kind).join(key.to_string());
        let folder = self.folder.join(kind);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path)
            .with_context(|| format!("cannot create {}", lock_path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;

        match check(&path)? {
            Entry::Intact => {
                // Its time is when it was last of use, see `evict`.
                let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                return Ok(path);
            }
            Entry::Missing => {}
            Entry::Corrupt => progress::note(&format!(
                "the cache entry {} is corrupt and made anew",
                path.display()
            )),
        }
        output::write_with(&path, make)?;
        // The digest comes last: an entry without it was interrupted and does not count.
        output::write(&digest_path(&path), digest_of_file(&path)?.to_string().as_bytes())?;
        evict(&folder, KEPT)?;
        Ok(path)
    }

    /// Makes an entry count as missing. Its file stays for whoever reads it now.
    ///
    /// # Errors
    /// When the cache folder cannot be written.
    pub fn forget(&self, kind: &str, key: Digest) -> Result<()> {
        let path = digest_path(&self.folder.join(kind).join(key.to_string()));
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Removes all but the `keep` entries of a kind that were used last.
fn evict(folder: &Path, keep: usize) -> Result<()> {
    let mut entries = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        // An entry's file has no extension; those beside it go with it. The lock stays: it may be held.
        if let (None, Ok(used)) =
            (path.extension(), path.metadata().and_then(|data| data.modified()))
        {
            entries.push((used, path));
        }
    }
    entries.sort();
    let surplus = entries.len().saturating_sub(keep);
    for (_, path) in entries.into_iter().take(surplus) {
        // Another build may have removed it at the same time.
        let _ = fs::remove_file(digest_path(&path));
        let _ = fs::remove_file(path);
    }
    Ok(())
}

enum Entry {
    Intact,
    Missing,
    Corrupt,
}

fn check(path: &Path) -> Result<Entry> {
    let Ok(expected) = fs::read_to_string(digest_path(path)) else { return Ok(Entry::Missing) };
    if !path.exists() {
        return Ok(Entry::Missing);
    }
    Ok(if digest_of_file(path)?.to_string() == expected.trim() {
        Entry::Intact
    } else {
        Entry::Corrupt
    })
}

fn digest_path(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

fn digest_of_file(path: &Path) -> Result<Digest> {
    Ok(Digest::of(&fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
}

#[cfg(test)]
mod tests {
    use super::{Cache, KEPT};
    use crate::digest::Digest;
    use std::cell::Cell;
    use std::fs;

    #[test]
    fn an_entry_is_made_once_and_again_when_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let made = Cell::new(0);
        let get = || {
            let path = cache
                .get_or_make("thing", Digest::of(b"inputs"), |file| {
                    made.set(made.get() + 1);
                    Ok(fs::write(file, b"content")?)
                })
                .unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"content");
            path
        };
        let path = get();
        get();
        assert_eq!(made.get(), 1);

        fs::write(&path, b"c0ntent").unwrap();
        get();
        assert_eq!(made.get(), 2);

        cache.forget("thing", Digest::of(b"inputs")).unwrap();
        get();
        assert_eq!(made.get(), 3);
    }

    #[test]
    fn the_entries_used_last_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let get = |number: usize| {
            let key = Digest::of(&number.to_le_bytes());
            cache.get_or_make("thing", key, |file| Ok(fs::write(file, [1])?)).unwrap()
        };
        let first = get(0);
        let second = get(1);
        for number in 2..=KEPT {
            get(0);
            get(number);
        }
        assert!(first.exists() && !second.exists());
        let entries = fs::read_dir(first.parent().unwrap()).unwrap();
        let digests = entries.filter(|entry| {
            entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "sha256")
        });
        assert_eq!(digests.count(), KEPT);
    }

    #[test]
    fn a_failed_build_leaves_no_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let key = Digest::of(b"inputs");
        assert!(cache.get_or_make("thing", key, |_| anyhow::bail!("no compiler")).is_err());
        let path = cache.get_or_make("thing", key, |file| Ok(fs::write(file, b"fine")?)).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"fine");
    }
}
