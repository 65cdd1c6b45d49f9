//! Which Buildroot it must be: `buildroot/version.env`.

use crate::base::buildroot::Pin;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A tag, the commit that it must be, and that commit's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Tag and commit.
    pub pin: Pin,
    /// Id of the commit's Git tree: it says whether a folder without Git data has the same files.
    pub tree: String,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A line is no assignment.
    #[error("{path}, line {line}: {text:?} is not NAME=VALUE")]
    Line {
        /// The file.
        path: String,
        /// Number of the line.
        line: usize,
        /// The line.
        text: String,
    },
    /// A name is missing.
    #[error("{path}: {name} is missing")]
    Missing {
        /// The file.
        path: String,
        /// What is missing.
        name: &'static str,
    },
    /// An id is none.
    #[error("{path}: {name} is {value:?}; a Git id of 40 hexadecimal digits is needed")]
    Id {
        /// The file.
        path: String,
        /// Which.
        name: &'static str,
        /// What it is.
        value: String,
    },
}

/// Reads `version.env` in the external tree.
///
/// # Errors
/// Names the line or variable that is wrong.
pub fn read(external: &Path) -> Result<Pinned, PinError> {
    let path = external.join("version.env");
    let shown = path.display().to_string();
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text, &shown),
        Err(source) => Err(PinError::Read { path: shown, source }),
    }
}

fn parse(text: &str, path: &str) -> Result<Pinned, PinError> {
    let mut values = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let assignment = text.split('#').next().unwrap_or_default().trim();
        if assignment.is_empty() {
            continue;
        }
        let (name, value) = assignment.split_once('=').ok_or_else(|| PinError::Line {
            path: path.to_owned(),
            line,
            text: text.to_owned(),
        })?;
        values.insert(name, value);
    }
    let value = |name| {
        values
            .get(name)
            .map(|&value| value.to_owned())
            .filter(|value| !value.is_empty())
            .ok_or(PinError::Missing { path: path.to_owned(), name })
    };
    let id = |name| {
        let value = value(name)?;
        if value.len() == 40 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            Ok(value)
        } else {
            Err(PinError::Id { path: path.to_owned(), name, value })
        }
    };
    Ok(Pinned {
        pin: Pin { version: value("BUILDROOT_VERSION")?, commit: id("BUILDROOT_COMMIT")? },
        tree: id("BUILDROOT_TREE")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{parse, read};
    use std::path::Path;

    const GOOD: &str = "# pinned\nBUILDROOT_VERSION=2026.05.1\n\
                        BUILDROOT_COMMIT=cb857ba4c87a93e5265a9e4a3f32071abf39e14a # tag\n\
                        BUILDROOT_TREE=b6d1e45b932071a88419c4ccb0fec15c0617dfd8\n";

    #[test]
    fn reads_tag_commit_and_tree() {
        let pinned = parse(GOOD, "x").unwrap();
        assert_eq!(pinned.pin.version, "2026.05.1");
        assert_eq!(pinned.pin.commit, "cb857ba4c87a93e5265a9e4a3f32071abf39e14a");
        assert_eq!(pinned.tree, "b6d1e45b932071a88419c4ccb0fec15c0617dfd8");
    }

    #[test]
    fn says_what_is_wrong() {
        for (from, to, expected) in [
            ("BUILDROOT_VERSION=2026.05.1", "", "x: BUILDROOT_VERSION is missing"),
            ("BUILDROOT_VERSION=2026.05.1", "2026.05.1", "x, line 2"),
            (
                "cb857ba4c87a93e5265a9e4a3f32071abf39e14a",
                "cb857ba",
                "x: BUILDROOT_COMMIT is \"cb857ba\"",
            ),
            ("BUILDROOT_TREE=", "OTHER=", "x: BUILDROOT_TREE is missing"),
        ] {
            let error = parse(&GOOD.replace(from, to), "x").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_checkout_pins_one() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        read(&checkout.join("buildroot")).unwrap();
        let error = read(Path::new("/no-such-folder")).unwrap_err().to_string();
        assert!(error.contains("/no-such-folder/version.env"), "{error}");
    }
}
