//! Which document comes into force at start.
//!
//! ```text
//! config.toml usable                -> it ("stored")
//! config.toml damaged or missing    -> last-good.toml ("last-good"), else defaults ("defaults")
//! nothing stored: volume's file     -> it, if valid ("volume"), else defaults
//! ```
//!
//! A document that cannot be used stays where it is, and the reason in the status, until another one
//! is applied: it may be one of a newer release, to which the router goes back, and then it is in force
//! again.

use std::path::Path;

use portcullis_model::Document;

use crate::{
    check::{check, summary},
    storage::{CURRENT, LAST_GOOD, State, StorageError, Store, read_limited},
};

/// The document in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The document, which is valid.
    pub document: Document,
    /// As its author wrote it; empty for the defaults.
    pub text: String,
    /// Generation, source and what the user should know.
    pub state: State,
}

/// Finds the document in force. Never fails: the last resort are the defaults.
pub fn load(store: &Store, volume: &Path, now_unix_s: u64) -> Loaded {
    let state = store.state();
    match usable(store.read(CURRENT)) {
        Ok(Some((document, text))) => {
            let state = if state.problem.is_empty() {
                State { source: "stored".to_owned(), ..state }
            } else {
                usable_again(store, &state, now_unix_s)
            };
            Loaded { document, text, state }
        }
        Ok(None) if was_ever_stored(store, &state) => {
            let problem = if state.problem.is_empty() {
                format!("{CURRENT} was missing")
            } else {
                state.problem.clone()
            };
            fall_back(store, state, problem, now_unix_s)
        }
        Ok(None) => first_boot(store, state, volume, now_unix_s),
        Err(reason) => {
            let problem = format!(
                "{CURRENT} cannot be used, and stays as it is until another document is applied: {reason}"
            );
            fall_back(store, state, problem, now_unix_s)
        }
    }
}

/// A document with its text; none if there is no file.
fn usable(
    content: Result<Option<String>, StorageError>,
) -> Result<Option<(Document, String)>, String> {
    match content {
        Ok(Some(text)) => match check(&text) {
            Ok(document) => Ok(Some((document, text))),
            Err(problems) => Err(summary(&problems)),
        },
        Ok(None) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Not by the generation: power may have failed before the very first document was written.
fn was_ever_stored(store: &Store, state: &State) -> bool {
    !state.problem.is_empty() || !matches!(store.read(LAST_GOOD), Ok(None))
}

/// Another document was in force meanwhile.
fn usable_again(store: &Store, before: &State, now_unix_s: u64) -> State {
    let state = State {
        generation: before.generation + 1,
        since_unix_s: now_unix_s,
        source: "stored".to_owned(),
        ..State::default()
    };
    tracing::info!(before = before.problem, "the stored configuration is in force again");
    put_state(store, &state);
    state
}

fn put_state(store: &Store, state: &State) {
    if let Err(error) = store.put_state(state) {
        tracing::error!(%error, "state of the configuration not stored");
    }
}

fn fall_back(store: &Store, before: State, mut problem: String, now_unix_s: u64) -> Loaded {
    let (document, text, source) = match usable(store.read(LAST_GOOD)) {
        Ok(Some((document, text))) => (document, text, "last-good"),
        Ok(None) => (Document::default(), String::new(), "defaults"),
        Err(reason) => {
            problem = format!("{problem}; {LAST_GOOD} cannot be used: {reason}");
            (Document::default(), String::new(), "defaults")
        }
    };
    tracing::error!(source, problem, "the stored configuration is not in force");
    if before.source == source && before.problem == problem {
        // Nothing new since the previous start.
        return Loaded { document, text, state: before };
    }
    let state = State {
        generation: before.generation + 1,
        since_unix_s: now_unix_s,
        source: source.to_owned(),
        problem,
        ..State::default()
    };
    put_state(store, &state);
    Loaded { document, text, state }
}

fn first_boot(store: &Store, before: State, volume: &Path, now_unix_s: u64) -> Loaded {
    let defaults = |problem: String| Loaded {
        document: Document::default(),
        text: String::new(),
        state: State {
            generation: before.generation,
            since_unix_s: now_unix_s,
            source: "defaults".to_owned(),
            problem,
            ..State::default()
        },
    };
    match usable(read_limited(volume)) {
        Ok(None) => defaults(String::new()),
        Err(reason) => {
            let problem = format!("config.toml on the volume PORTCULLIS is not used: {reason}");
            tracing::error!(problem, "defaults are in force");
            defaults(problem)
        }
        Ok(Some((document, text))) => {
            let mut state = State {
                generation: before.generation + 1,
                since_unix_s: now_unix_s,
                source: "volume".to_owned(),
                ..State::default()
            };
            tracing::info!("configuration taken from the volume PORTCULLIS");
            if let Err(error) =
                store.put(&state, &text, "").and_then(|()| store.put_last_good(&text))
            {
                tracing::error!(%error, "configuration of the volume not stored");
                // Who takes the volume away would find the defaults at the next start.
                state.problem = format!(
                    "in force, but not stored: the volume is needed at the next start: {error}"
                );
            }
            Loaded { document, text, state }
        }
    }
}
