//! The services: each answers with what it was given, and records what it was told.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use portcullis_bus::{
    Error, Result,
    config::{ApplyReport, ConfigApi, ConfigStatus, Problem, ServiceOutcome},
    dhcp::{DhcpApi, Lease},
    dns::{DnsApi, DnsStatus},
    firewall::{
        Attachment, CaptureRequest, Counter, DatapathStatus, DropCount, Explanation, FirewallApi,
        FlowPage, FlowQuery, RuleFinding,
    },
    init::{InitApi, JournalPage, JournalQuery, JournalRecord, ServiceStatus, SystemStatus},
    network::{InterfaceStatus, NetworkApi, WanLease},
    web::{CertificateStatus, WebApi},
};

use crate::sample;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Any service that takes a part: records the parts, and refuses or hesitates if told so.
#[derive(Default)]
pub struct Receiver {
    parts: Mutex<Vec<String>>,
    refusal: Mutex<Option<String>>,
    delay: Mutex<Duration>,
    nobody: Mutex<bool>,
    /// What captures were asked for.
    pub captures: Mutex<Vec<CaptureRequest>>,
    /// What flows were asked for.
    pub queries: Mutex<Vec<FlowQuery>>,
}

impl Receiver {
    /// Nobody has a lease from now on.
    pub fn nobody(&self) {
        *lock(&self.nobody) = true;
    }

    /// The parts taken so far, those refused included.
    pub fn parts(&self) -> Vec<String> {
        lock(&self.parts).clone()
    }

    /// Refuses every further part with this text; none takes them again.
    pub fn refuse(&self, text: Option<&str>) {
        *lock(&self.refusal) = text.map(str::to_owned);
    }

    /// Takes this long over a part.
    pub fn hesitate(&self, delay: Duration) {
        *lock(&self.delay) = delay;
    }

    async fn take(&self, part: String) -> Result<()> {
        let delay = *lock(&self.delay);
        tokio::time::sleep(delay).await;
        lock(&self.parts).push(part);
        match &*lock(&self.refusal) {
            Some(text) => Err(Error::Failed(text.clone())),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl DhcpApi for Receiver {
    async fn apply(&self, part: String) -> Result<()> {
        self.take(part).await
    }
    async fn leases(&self) -> Result<Vec<Lease>> {
        Ok(if *lock(&self.nobody) { Vec::new() } else { sample::leases() })
    }
}

#[async_trait]
impl DnsApi for Receiver {
    async fn apply(&self, part: String) -> Result<()> {
        self.take(part).await
    }
    async fn status(&self) -> Result<DnsStatus> {
        Ok(sample::dns_status())
    }
}

#[async_trait]
impl FirewallApi for Receiver {
    async fn apply(&self, part: String) -> Result<()> {
        self.take(part).await
    }
    async fn flows(&self, limit: u32) -> Result<FlowPage> {
        let mut page = sample::flows();
        page.flows.truncate(limit as usize);
        Ok(page)
    }
    async fn counters(&self) -> Result<Vec<Counter>> {
        Ok(sample::counters())
    }
    async fn attachments(&self) -> Result<Vec<Attachment>> {
        Ok(sample::attachments())
    }
    async fn guarded(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }
    async fn datapath(&self) -> Result<DatapathStatus> {
        Ok(sample::datapath())
    }
    async fn find_flows(&self, query: FlowQuery) -> Result<FlowPage> {
        let mut page = sample::flows();
        page.flows.truncate(query.limit as usize);
        lock(&self.queries).push(query);
        Ok(page)
    }
    async fn drops(&self) -> Result<Vec<DropCount>> {
        Ok(sample::drops())
    }
    async fn capture(&self, request: CaptureRequest) -> Result<zbus::OwnedFd> {
        if request.zone == "dmz" {
            return Err(Error::InvalidArgument("zone: there is no `dmz`: lan, wan".into()));
        }
        lock(&self.captures).push(request);
        let failed = |error: std::io::Error| Error::Failed(error.to_string());
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let file = sample::capture().map_err(|error| Error::Failed(error.to_string()))?;
        // In two parts, as a file comes that grows.
        std::thread::spawn(move || {
            let (first, second) = file.split_at(file.len() / 2);
            for part in [first, second] {
                let _ = std::io::Write::write_all(&mut &ours, part);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }
    async fn explain(&self, packet: String) -> Result<Explanation> {
        if !packet.contains("->") {
            return Err(Error::InvalidArgument(format!("`{packet}`: `->` is missing")));
        }
        Ok(sample::explanation())
    }
    async fn findings(&self) -> Result<Vec<RuleFinding>> {
        Ok(sample::findings())
    }
    async fn nftables(&self) -> Result<String> {
        Ok("table inet portcullis {\n}\n".to_owned())
    }
    async fn reevaluate(&self) -> Result<u64> {
        Ok(3)
    }
    async fn purge(&self, addresses: String) -> Result<u64> {
        if addresses == "203.0.113.57" { Ok(12) } else { Ok(0) }
    }
}

#[async_trait]
impl WebApi for Receiver {
    async fn apply(&self, part: String) -> Result<()> {
        self.take(part).await
    }
    async fn certificate(&self) -> Result<CertificateStatus> {
        Ok(sample::certificate())
    }
}

/// The network service.
pub struct FakeNetwork {
    /// What it was told.
    pub received: Receiver,
    /// Its interfaces.
    pub interfaces: Mutex<Vec<InterfaceStatus>>,
    /// Its leases.
    pub wan: Mutex<Vec<WanLease>>,
}

impl Default for FakeNetwork {
    fn default() -> Self {
        Self {
            received: Receiver::default(),
            interfaces: Mutex::new(sample::interfaces()),
            wan: Mutex::new(sample::wan()),
        }
    }
}

#[async_trait]
impl NetworkApi for FakeNetwork {
    async fn apply(&self, part: String) -> Result<()> {
        self.received.take(part).await
    }
    async fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        Ok(lock(&self.interfaces).clone())
    }
    async fn wan_leases(&self) -> Result<Vec<WanLease>> {
        Ok(lock(&self.wan).clone())
    }
}

/// What PID 1 was told to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Control {
    /// Restart this service.
    Restart(String),
    /// Kill this service.
    Kill(String),
    /// Reboot.
    Reboot,
    /// Power off.
    Shutdown,
}

/// What PID 1 was told to do, in order.
pub type Controls = Arc<Mutex<Vec<Control>>>;

/// PID 1.
pub struct FakeInit {
    /// What it was told.
    pub controls: Controls,
    /// Its system status.
    pub system: Mutex<SystemStatus>,
    /// Its services.
    pub services: Mutex<Vec<ServiceStatus>>,
    /// Its journal.
    pub journal: Mutex<Vec<JournalRecord>>,
}

impl Default for FakeInit {
    fn default() -> Self {
        Self {
            controls: Controls::default(),
            system: Mutex::new(sample::system()),
            services: Mutex::new(sample::services()),
            journal: Mutex::new(sample::journal()),
        }
    }
}

impl FakeInit {
    fn known(&self, service: String) -> Result<String> {
        let services = lock(&self.services);
        let mut names = services.iter().map(|known| known.name.as_str());
        if names.any(|name| name == service) {
            return Ok(service);
        }
        let names: Vec<_> = services.iter().map(|known| known.name.as_str()).collect();
        Err(Error::NotFound(format!("no service `{service}`; allowed: {}", names.join(", "))))
    }

    fn control(&self, control: Control) -> Result<()> {
        lock(&self.controls).push(control);
        Ok(())
    }
}

#[async_trait]
impl InitApi for FakeInit {
    async fn services(&self) -> Result<Vec<ServiceStatus>> {
        Ok(lock(&self.services).clone())
    }
    async fn system(&self) -> Result<SystemStatus> {
        Ok(lock(&self.system).clone())
    }
    async fn restart(&self, service: String) -> Result<()> {
        self.control(Control::Restart(self.known(service)?))
    }
    async fn kill(&self, service: String) -> Result<()> {
        self.control(Control::Kill(self.known(service)?))
    }
    async fn journal(&self, query: JournalQuery) -> Result<JournalPage> {
        const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
        let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
        let least = rank(&query.level).unwrap_or(LEVELS.len());
        let journal = lock(&self.journal);
        let fitting: Vec<_> = journal
            .iter()
            .filter(|record| record.cursor > query.after)
            .filter(|record| query.service.is_empty() || record.service == query.service)
            .filter(|record| rank(&record.level).unwrap_or_default() <= least)
            .cloned()
            .collect();
        let limit = query.limit as usize;
        let records = if query.after == 0 {
            fitting.into_iter().rev().take(limit).rev().collect()
        } else {
            fitting.into_iter().take(limit).collect()
        };
        let cursor = journal.last().map_or(0, |record| record.cursor);
        Ok(JournalPage { records, cursor })
    }
    async fn load_modules(&self) -> Result<()> {
        Ok(())
    }
    async fn reboot(&self) -> Result<()> {
        self.control(Control::Reboot)
    }
    async fn shutdown(&self) -> Result<()> {
        self.control(Control::Shutdown)
    }
}

/// The config service, with answers laid down; the real one has tests of its own.
pub struct FakeConfig {
    /// What `document` answers.
    pub document: Mutex<String>,
    /// What `status` answers.
    pub status: Mutex<ConfigStatus>,
    /// What `check` answers.
    pub problems: Mutex<Vec<Problem>>,
    /// What `apply` answers.
    pub outcomes: Mutex<Vec<ServiceOutcome>>,
    /// Parts by service.
    pub parts: Mutex<Vec<(String, String)>>,
    /// Documents that it was told to check or apply.
    pub received: Mutex<Vec<String>>,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            document: Mutex::new("version = 1\n".to_owned()),
            status: Mutex::new(ConfigStatus {
                generation: 4,
                source: "stored".to_owned(),
                problem: String::new(),
                since_unix_s: sample::NOW - 86_400,
            }),
            problems: Mutex::default(),
            outcomes: Mutex::default(),
            parts: Mutex::default(),
            received: Mutex::default(),
        }
    }
}

#[async_trait]
impl ConfigApi for FakeConfig {
    async fn document(&self) -> Result<String> {
        Ok(lock(&self.document).clone())
    }
    async fn status(&self) -> Result<ConfigStatus> {
        Ok(lock(&self.status).clone())
    }
    async fn check(&self, toml: String) -> Result<Vec<Problem>> {
        lock(&self.received).push(toml);
        Ok(lock(&self.problems).clone())
    }
    async fn apply(&self, toml: String) -> Result<ApplyReport> {
        lock(&self.received).push(toml);
        let problems = lock(&self.problems).clone();
        let generation = lock(&self.status).generation;
        let accepted = problems.is_empty();
        let services = if accepted { lock(&self.outcomes).clone() } else { Vec::new() };
        Ok(ApplyReport {
            accepted,
            generation: generation + u64::from(accepted),
            problems,
            services,
        })
    }
    async fn part(&self, service: String) -> Result<String> {
        lock(&self.parts)
            .iter()
            .find(|(name, _)| *name == service)
            .map(|(_, part)| part.clone())
            .ok_or_else(|| Error::NotFound(format!("no part for `{service}`")))
    }
}
