//! `org.portcullis.Init1`: PID 1 on the bus.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_bus::{
    Error, Result,
    init::{BootPhase, InitApi, JournalPage, JournalQuery, ServiceStatus, SystemStatus},
};
use tokio::sync::mpsc;

use crate::{
    journal::Journal,
    modules::OnRequest,
    report::{self, Facts},
    supervisor::Handle,
};

/// How the machine is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Start again.
    Reboot,
    /// Switch off.
    PowerOff,
}

/// What is known about this boot and grows while it goes on.
#[derive(Debug, Default)]
pub struct Boot {
    /// Steps so far.
    pub phases: Vec<BootPhase>,
    /// What went wrong at boot and stays wrong.
    pub problems: Vec<String>,
}

/// The parts of init that calls need.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Services.
    pub supervisor: Handle,
    /// Journal.
    pub journal: Journal,
    /// What does not change.
    pub facts: Arc<Facts>,
    /// This boot.
    pub boot: Arc<Mutex<Boot>>,
    /// Kernel modules for services that ask for them.
    pub modules: Arc<OnRequest>,
    /// Where reboots and shutdowns are ordered.
    pub ending: mpsc::Sender<Ending>,
}

/// The object for one caller.
#[derive(Debug)]
pub struct Api {
    parts: Parts,
    caller: u32,
    may_control: bool,
}

impl Api {
    /// The object for a caller with user id `caller`; `may_control` as the manifest's `control`.
    pub fn new(parts: Parts, caller: u32, may_control: bool) -> Self {
        Self { parts, caller, may_control }
    }

    /// Only callers with `control = true`.
    fn control(&self, what: &str) -> Result<()> {
        if self.may_control {
            tracing::info!(user = self.caller, what, "ordered");
            Ok(())
        } else {
            tracing::warn!(user = self.caller, what, "refused");
            Err(Error::Denied(format!(
                "user {} may not {what}: its service manifest has no `control = true`",
                self.caller
            )))
        }
    }

    async fn end(&self, ending: Ending) -> Result<()> {
        let sent = self.parts.ending.send(ending).await;
        sent.map_err(|_| Error::Failed("the machine ends already".to_owned()))
    }
}

#[async_trait::async_trait]
impl InitApi for Api {
    async fn services(&self) -> Result<Vec<ServiceStatus>> {
        self.parts.supervisor.services().await.map_err(|e| Error::Failed(e.to_string()))
    }

    async fn system(&self) -> Result<SystemStatus> {
        let facts = self.parts.facts.clone();
        let mut problems = self.parts.supervisor.health().borrow().problems.clone();
        let boot = {
            let boot = self.parts.boot.lock().unwrap_or_else(PoisonError::into_inner);
            problems.extend(boot.problems.iter().cloned());
            boot.phases.clone()
        };
        tokio::task::spawn_blocking(move || report::system(&facts, problems, boot))
            .await
            .map_err(|e| Error::Failed(e.to_string()))
    }

    async fn restart(&self, service: String) -> Result<()> {
        self.control(&format!("restart {service}"))?;
        let done = self.parts.supervisor.restart(service).await;
        done.map_err(|e| Error::NotFound(e.to_string()))
    }

    async fn kill(&self, service: String) -> Result<()> {
        self.control(&format!("kill {service}"))?;
        let done = self.parts.supervisor.kill(service).await;
        done.map_err(|e| Error::NotFound(e.to_string()))
    }

    async fn journal(&self, query: JournalQuery) -> Result<JournalPage> {
        let page = self.parts.journal.query(query).await;
        page.map_err(|e| Error::InvalidArgument(e.to_string()))
    }

    async fn load_modules(&self) -> Result<()> {
        let (modules, caller) = (self.parts.modules.clone(), self.caller);
        let loaded = tokio::task::spawn_blocking(move || modules.load_for(caller)).await;
        loaded.map_err(|e| Error::Failed(e.to_string()))?.map_err(|e| Error::Failed(e.to_string()))
    }

    async fn reboot(&self) -> Result<()> {
        self.control("reboot")?;
        self.end(Ending::Reboot).await
    }

    async fn shutdown(&self) -> Result<()> {
        self.control("shut down")?;
        self.end(Ending::PowerOff).await
    }
}
