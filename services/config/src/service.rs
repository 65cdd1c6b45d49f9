//! `org.portcullis.Config1`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use async_trait::async_trait;
use portcullis_bus::{
    Error, Result,
    config::{ApplyReport, Config1, ConfigApi, ConfigStatus, Problem, ServiceOutcome},
    server::Notifier,
};
use portcullis_model::Document;
use portcullis_runtime::unix_now_s;

use crate::{
    check::{check, summary},
    load::Loaded,
    rollout,
    storage::{State, StorageError, Store},
};

/// The service.
pub struct Config {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    in_force: Mutex<Arc<Loaded>>,
    /// Held during an apply: documents are applied one after the other.
    applying: tokio::sync::Mutex<()>,
    notifier: OnceLock<Notifier<Config1>>,
}

impl Config {
    /// A service with the document in force.
    pub fn new(store: Store, loaded: Loaded) -> Self {
        let shared = Shared {
            store,
            in_force: Mutex::new(Arc::new(loaded)),
            applying: tokio::sync::Mutex::default(),
            notifier: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sends the `Changed` signal through `notifier` from now on.
    pub fn notify_through(&self, notifier: Notifier<Config1>) {
        // Called once; a second notifier would be of the same server.
        let _ = self.shared.notifier.set(notifier);
    }

    /// Hands the document in force to those who had not taken their part of it when this service
    /// ended: it may have been killed in the middle of an apply.
    pub async fn finish(&self) -> Result<()> {
        let _applying = self.shared.applying.lock().await;
        let (generation, parts) = {
            let in_force = self.shared.in_force();
            (in_force.state.generation, unfinished_parts(&in_force.state, &in_force.document)?)
        };
        if !parts.is_empty() {
            self.shared.hand_out(generation, parts).await;
        }
        Ok(())
    }

    /// Ends when no apply is under way.
    pub async fn wait_for_apply(&self) {
        drop(self.shared.applying.lock().await);
    }
}

impl Shared {
    fn in_force(&self) -> Arc<Loaded> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn apply(self: Arc<Self>, text: String) -> Result<ApplyReport> {
        let _applying = self.applying.lock().await;
        let before = self.in_force();
        let document = match check(&text) {
            Ok(document) => document,
            Err(problems) => {
                tracing::warn!(problems = summary(&problems), "document refused");
                return Ok(ApplyReport {
                    accepted: false,
                    generation: before.state.generation,
                    problems,
                    services: Vec::new(),
                });
            }
        };
        let mut parts = rollout::changed_parts(&before.document, &document).map_err(failed)?;
        for (service, part) in unfinished_parts(&before.state, &document)? {
            if !parts.iter().any(|(name, _)| *name == service) {
                parts.push((service, part));
            }
        }
        let order = |name: &str| rollout::SERVICES.iter().position(|service| *service == name);
        parts.sort_by_key(|(name, _)| order(name));

        let concerned = parts.iter().map(|(name, _)| (*name).to_owned()).collect();
        let generation = self.come_into_force(&before, document, &text, concerned).await?;
        tracing::info!(generation, "document in force");
        let services = self.hand_out(generation, parts).await;
        if let Some(notifier) = self.notifier.get() {
            notifier.changed();
        }
        Ok(ApplyReport { accepted: true, generation, problems: Vec::new(), services })
    }

    /// Hands parts out and remembers who took theirs; a document that all have taken is a good one.
    async fn hand_out(
        &self,
        generation: u64,
        parts: Vec<(&'static str, String)>,
    ) -> Vec<ServiceOutcome> {
        let mut unfinished = self.in_force().state.unfinished.clone();
        let mut services: Vec<ServiceOutcome> = Vec::new();
        for (service, part) in parts {
            let outcome = rollout::hand_over(service, part).await;
            if outcome.applied {
                unfinished.remove(service);
                tracing::info!(generation, service, "part applied");
            } else {
                tracing::error!(generation, service, error = outcome.message, "part not applied");
            }
            services.push(outcome);
        }
        let finished = unfinished.is_empty();
        self.remember(unfinished).await;
        if finished {
            let loaded = self.in_force();
            let stored = self.blocking(move |store| store.put_last_good(&loaded.text)).await;
            if let Err(error) = stored {
                tracing::error!(%error, "last good document not stored");
            }
        }
        services
    }

    /// Stores `document` and puts it in force; returns its generation.
    async fn come_into_force(
        &self,
        before: &Arc<Loaded>,
        document: Document,
        text: &str,
        unfinished: BTreeSet<String>,
    ) -> Result<u64> {
        let state = State {
            generation: before.state.generation + 1,
            since_unix_s: unix_now_s(),
            source: "stored".to_owned(),
            problem: String::new(),
            unfinished,
        };
        let loaded = Arc::new(Loaded { document, text: text.to_owned(), state });
        let (stored, before) = (loaded.clone(), before.clone());
        self.blocking(move |store| store.put(&stored.state, &stored.text, &before.text))
            .await
            .map_err(|error| {
                Error::Failed(format!("the document is not stored and not applied: {error}"))
            })?;
        let generation = loaded.state.generation;
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(generation)
    }

    /// Remembers who has not taken its part, also over a restart of this service.
    async fn remember(&self, unfinished: BTreeSet<String>) {
        let state = {
            let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            if in_force.state.unfinished == unfinished {
                return;
            }
            let state = &mut Arc::make_mut(&mut in_force).state;
            state.unfinished = unfinished;
            state.clone()
        };
        if let Err(error) = self.blocking(move |store| store.put_state(&state)).await {
            tracing::error!(%error, "state of the configuration not stored");
        }
    }

    /// Flushing a file can take long on a slow disk; the watchdog goes on meanwhile.
    async fn blocking(
        &self,
        write: impl FnOnce(Store) -> std::result::Result<(), StorageError> + Send + 'static,
    ) -> std::result::Result<(), String> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || write(store)).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What those of `state` who have not taken their part are to get.
fn unfinished_parts(state: &State, document: &Document) -> Result<Vec<(&'static str, String)>> {
    let mut parts = Vec::new();
    for service in rollout::SERVICES {
        if state.unfinished.contains(service) {
            let part = rollout::part(document, service).transpose().map_err(failed)?;
            parts.extend(part.map(|part| (service, part)));
        }
    }
    Ok(parts)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

#[async_trait]
impl ConfigApi for Config {
    async fn document(&self) -> Result<String> {
        self.shared.in_force().document.to_toml().map_err(failed)
    }

    async fn status(&self) -> Result<ConfigStatus> {
        let State { generation, source, problem, since_unix_s, .. } =
            self.shared.in_force().state.clone();
        Ok(ConfigStatus { generation, source, problem, since_unix_s })
    }

    async fn check(&self, toml: String) -> Result<Vec<Problem>> {
        Ok(check(&toml).err().unwrap_or_default())
    }

    async fn apply(&self, toml: String) -> Result<ApplyReport> {
        // A task of its own: a caller that goes away must not stop an apply halfway.
        tokio::spawn(self.shared.clone().apply(toml)).await.map_err(failed)?
    }

    async fn part(&self, service: String) -> Result<String> {
        match rollout::part(&self.shared.in_force().document, &service) {
            Some(part) => part.map_err(failed),
            None => Err(Error::NotFound(format!(
                "no service `{service}` has a part; allowed: {}",
                rollout::SERVICES.join(", ")
            ))),
        }
    }
}
