//! The config service: keeps the one configuration document and hands each service its part.
//!
//! ```text
//! start:  storage::Store  -> load::load      the document in force, and what the user should know
//! apply:  text -> check::check -> Store      all problems, or stored
//!              -> rollout::changed_parts     which services it concerns
//!              -> rollout::hand_over         each in order, with its outcome
//! ```
//!
//! [`service::Config`] ties these together behind `org.portcullis.Config1`. A service that is down
//! while a document is applied fetches its part when it starts. If this service is killed in the middle
//! of an apply, it goes on with it when it starts again.

pub mod check;
pub mod load;
pub mod rollout;
pub mod service;
pub mod storage;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use portcullis_bus::config::Config1;

/// Name on the bus.
const NAME: &str = "config";

/// Runs the service.
pub fn main() -> ExitCode {
    portcullis_runtime::run(NAME, |mut service| async move {
        let folder = portcullis_runtime::state_dir(NAME).context("state folder")?;
        let store = storage::Store::new(folder);
        let loaded = load::load(&store, &volume_file(), portcullis_runtime::unix_now_s());
        let line = format!("generation {}, {}", loaded.state.generation, loaded.state.source);
        let config = Arc::new(service::Config::new(store, loaded));
        let notifier = service.serve_bus(Config1(config.clone()))?;
        config.notify_through(notifier);
        service.ready(&line);
        let unfinished = config.clone();
        tokio::spawn(async move {
            if let Err(error) = unfinished.finish().await {
                tracing::error!(%error, "parts not handed out");
            }
        });
        service.shutdown().await;
        // An apply that is under way has stored its document; let it reach the services, too.
        config.wait_for_apply().await;
        Ok(())
    })
}

/// Where PID 1, which may mount, leaves the `config.toml` of a volume labelled PORTCULLIS.
fn volume_file() -> PathBuf {
    std::env::var_os("PORTCULLIS_RUN_DIR")
        .map_or_else(|| PathBuf::from("/run/portcullis"), PathBuf::from)
        .join("volume/config.toml")
}
