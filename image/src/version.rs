//! Version and time of an image: from the workspace's version and the commit, never from the clock.

use crate::tool::GIT;
use anyhow::{Context, Result};
use portcullis_bundle::Version;
use std::env;
use std::path::Path;
use std::process::Command;

/// The commit a checkout is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// First 12 hexadecimal digits of its hash.
    pub hash: String,
    /// When it was committed, in seconds since 1970.
    pub time: u64,
    /// Tracked files differ from it.
    pub changed: bool,
}

/// The commit of the checkout at `folder`, or nothing when it is not a Git checkout (a source archive).
///
/// # Errors
/// When Git is missing or gives an answer that cannot be read.
pub fn commit(folder: &Path) -> Result<Option<Commit>> {
    if !folder.join(".git").exists() {
        return Ok(None);
    }
    let git = |arguments: &[&str]| -> Result<String> {
        let mut command: Command = GIT.command(["-C"]);
        command.arg(folder).args(arguments);
        Ok(GIT.text(command)?.trim().to_owned())
    };
    let time = git(&["log", "-1", "--format=%ct"])?;
    Ok(Some(Commit {
        hash: git(&["rev-parse", "--short=12", "HEAD"])?,
        time: time
            .parse()
            .with_context(|| format!("git gave {time:?} as the time of the commit"))?,
        changed: !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty(),
    }))
}

/// The version of an image: `0.1.0+g0123456789ab`, with `.changed` at the end when the checkout differs from the commit
/// (Semantic Versioning 2.0.0, build metadata).
///
/// # Errors
/// When the result is not a version the manifest can hold.
pub fn version(workspace: &str, commit: Option<&Commit>) -> Result<Version> {
    let text = match commit {
        Some(Commit { hash, changed: true, .. }) => format!("{workspace}+g{hash}.changed"),
        Some(Commit { hash, .. }) => format!("{workspace}+g{hash}"),
        None => workspace.to_owned(),
    };
    text.parse().with_context(|| format!("{text:?} is not a version"))
}

/// The time that all files of the image have: `SOURCE_DATE_EPOCH`, else the commit's, else 1980, the first year FAT
/// knows.
///
/// # Errors
/// When `SOURCE_DATE_EPOCH` is not a number of seconds since 1970.
pub fn epoch(commit: Option<&Commit>) -> Result<u64> {
    const YEAR_1980: u64 = 315_532_800;
    let epoch = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| {
            format!("SOURCE_DATE_EPOCH is {text:?}, seconds since 1970 are needed")
        })?,
        Err(_) => commit.map_or(YEAR_1980, |commit| commit.time),
    };
    Ok(epoch.max(YEAR_1980))
}

#[cfg(test)]
mod tests {
    use super::{Commit, commit, version};

    #[test]
    fn the_version_names_the_commit() {
        let mut commit = Commit { hash: "0123456789ab".into(), time: 0, changed: false };
        assert_eq!(version("0.1.0", Some(&commit)).unwrap().as_str(), "0.1.0+g0123456789ab");
        commit.changed = true;
        assert_eq!(
            version("0.1.0", Some(&commit)).unwrap().as_str(),
            "0.1.0+g0123456789ab.changed"
        );
        assert_eq!(version("0.1.0", None).unwrap().as_str(), "0.1.0");
        assert!(version("", None).is_err());
    }

    #[test]
    fn a_source_archive_has_no_commit() {
        assert_eq!(commit(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }
}
