//! Files of the service, written so that a power cut at any instant leaves either the old or the
//! new content.
//!
//! | file | content |
//! |---|---|
//! | `config.toml` | the document in force, as its author wrote it |
//! | `last-good.toml` | the last document that no service refused |
//! | `state.json` | [`State`]: generation and what the user should know |
//! | `config.damaged-<n>.toml` | documents that could not be used when another one was applied |

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use portcullis_model::Document;
use serde::{Deserialize, Serialize};

/// The document in force.
pub const CURRENT: &str = "config.toml";
/// The last document that no service refused.
pub const LAST_GOOD: &str = "last-good.toml";
/// Generation and remarks.
const STATE: &str = "state.json";
/// Documents put aside that are kept; the oldest goes first.
const MAX_ASIDE: usize = 5;

/// A file of the service cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct StorageError {
    /// The file.
    pub path: PathBuf,
    /// What the kernel said, or what is wrong with the content.
    pub source: io::Error,
}

/// What is known about the document in force besides its text.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct State {
    /// Counted up with each document that comes into force.
    pub generation: u64,
    /// When it came into force (seconds since the epoch).
    pub since_unix_s: u64,
    /// As in [`portcullis_bus::config::ConfigStatus`].
    pub source: String,
    /// As in [`portcullis_bus::config::ConfigStatus`].
    pub problem: String,
    /// Services that have not taken their part of it: asked again when this service starts, and with
    /// the next document.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unfinished: BTreeSet<String>,
}

/// The folder of the service.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// A store in `folder`, which exists.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Reads a document file; none if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read, is too long or not UTF-8.
    pub fn read(&self, name: &str) -> Result<Option<String>, StorageError> {
        read_limited(&self.folder.join(name))
    }

    /// What is known about the document in force; the default if nothing was ever stored or the
    /// file is damaged, which is logged.
    pub fn state(&self) -> State {
        let text = match self.read(STATE) {
            Ok(Some(text)) => text,
            Ok(None) => return State::default(),
            Err(error) => {
                tracing::error!(%error, "state of the configuration is lost, counting from 0");
                return State::default();
            }
        };
        serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::error!(%error, "state of the configuration is damaged, counting from 0");
            State::default()
        })
    }

    /// Stores a document in force, in the place of `before`, which was in force until now. What else
    /// is in its place could not be used, and is put aside for a person to look at.
    ///
    /// The state goes first: if the power fails in between, a generation number is skipped, and
    /// none ever names two documents.
    ///
    /// # Errors
    /// If writing fails; the previous document is still there then.
    pub fn put(&self, state: &State, text: &str, before: &str) -> Result<(), StorageError> {
        self.put_state(state)?;
        let unusable = match self.read(CURRENT) {
            Ok(None) => false,
            Ok(Some(stored)) => stored != before,
            Err(_) => true,
        };
        let aside = unusable.then(|| self.put_aside(CURRENT));
        self.replace(CURRENT, text.as_bytes()).inspect_err(|_| {
            // It is in its place still.
            if let Some(Ok(aside)) = &aside {
                let _ = fs::remove_file(self.folder.join(aside));
            }
        })?;
        match aside {
            Some(Ok(aside)) => tracing::info!(aside, "{CURRENT} could not be used and is kept"),
            Some(Err(error)) => {
                tracing::warn!(%error, "{CURRENT} could not be used and is replaced")
            }
            None => {}
        }
        Ok(())
    }

    /// Stores what is known about the document in force.
    ///
    /// # Errors
    /// If writing fails.
    pub fn put_state(&self, state: &State) -> Result<(), StorageError> {
        let json = serde_json::to_vec(state).map_err(|error| StorageError {
            path: self.folder.join(STATE),
            source: error.into(),
        })?;
        self.replace(STATE, &json)
    }

    /// Remembers `text` as the document to fall back to.
    ///
    /// # Errors
    /// If writing fails; the previous one is still there then.
    pub fn put_last_good(&self, text: &str) -> Result<(), StorageError> {
        match self.read(LAST_GOOD) {
            Ok(Some(stored)) if stored == text => Ok(()),
            _ => self.replace(LAST_GOOD, text.as_bytes()),
        }
    }

    /// Keeps a document as `config.damaged-<n>.toml`, too, and removes the oldest of these beyond a
    /// few. Returns the new name. It is not renamed: what is to take its place may not find room.
    ///
    /// # Errors
    /// If the disk fails.
    fn put_aside(&self, name: &str) -> Result<String, StorageError> {
        let mut numbers = self.numbers_aside()?;
        let number = numbers.last().map_or(1, |last| last.saturating_add(1));
        let aside = aside_name(number);
        let path = self.folder.join(name);
        fs::hard_link(&path, self.folder.join(&aside))
            .and_then(|()| self.sync())
            .map_err(|source| StorageError { path, source })?;
        numbers.push(number);
        for old in numbers.iter().rev().skip(MAX_ASIDE) {
            let path = self.folder.join(aside_name(*old));
            if let Err(source) = fs::remove_file(&path) {
                tracing::warn!(error = %StorageError { path, source }, "old damaged document stays");
            }
        }
        Ok(aside)
    }

    fn numbers_aside(&self) -> Result<Vec<u64>, StorageError> {
        let error = |source| StorageError { path: self.folder.clone(), source };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let number: Option<u64> = name
                .to_str()
                .and_then(|name| name.strip_prefix("config.damaged-")?.strip_suffix(".toml"))
                .and_then(|number| number.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Writes beside, flushes, renames over, flushes the folder.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        let path = self.folder.join(name);
        let temporary = self.folder.join(format!(".{name}.new"));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            self.sync()
        };
        write().map_err(|source| {
            // On a full disk half a document is what is missing for the next one.
            let _ = fs::remove_file(&temporary);
            StorageError { path: path.clone(), source }
        })
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

fn aside_name(number: u64) -> String {
    format!("config.damaged-{number}.toml")
}

/// Reads a text file of at most [`Document::MAX_BYTES`]; none if it does not exist.
///
/// # Errors
/// If it cannot be read, is too long or not UTF-8.
pub fn read_limited(path: &Path) -> Result<Option<String>, StorageError> {
    let read = || {
        let limit = Document::MAX_BYTES as u64;
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let message = format!("longer than {limit} bytes");
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        String::from_utf8(bytes).map_err(|error| {
            let message = format!("not UTF-8 text: {}", error.utf8_error());
            io::Error::new(ErrorKind::InvalidData, message)
        })
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StorageError { path: path.to_owned(), source }),
    }
}
