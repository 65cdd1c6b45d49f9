//! `GET /api/v1/status`: everything about the router on one page.
//!
//! All services are asked at once and each has two seconds; a part whose service does not answer
//! is null, and `errors` says why. The answer is never an error because of one service.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::body::Bytes;
use portcullis_bus::{
    Result,
    config::{ConfigBusProxy, ConfigStatus},
    dhcp::{DhcpBusProxy, Lease},
    dns::{DnsBusProxy, DnsStatus},
    firewall::{Counter, FirewallBusProxy},
    init::{BootPhase, InitBusProxy, ServiceStatus, SlotStatus, SystemStatus},
    network::{InterfaceStatus, NetworkBusProxy, WanLease},
    peer::{PeerError, call},
    web::CertificateStatus,
};
use portcullis_runtime::unix_now_s;
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use zbus::Connection;

use crate::{access::Access, api::Web};

/// How long one service may take.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer is given again: many open pages cost the services no more than one.
const FRESH: Duration = Duration::from_millis(900);

/// The answer.
#[derive(Debug, Default, Serialize)]
pub struct Status {
    /// Version of the running image.
    pub version: String,
    /// When this was gathered (seconds since the epoch).
    pub time_unix_s: u64,
    /// Health, memory, storage.
    pub system: Option<System>,
    /// Both slots.
    pub slots: Option<Vec<SlotStatus>>,
    /// Steps of this boot.
    pub boot: Option<Vec<BootPhase>>,
    /// All services.
    pub services: Option<Vec<ServiceStatus>>,
    /// All configured interfaces.
    pub interfaces: Option<Vec<InterfaceStatus>>,
    /// The DHCP client's leases, one for each interface that has one.
    pub wan: Option<Vec<WanLease>>,
    /// Leases given to clients.
    pub leases: Option<Vec<Lease>>,
    /// How full the flow table is. Which flows there are is nobody's business before login exists.
    pub flows: Option<Flows>,
    /// Counters of the packet path.
    pub counters: Option<Vec<Counter>>,
    /// The DNS forwarder.
    pub dns: Option<DnsStatus>,
    /// Where the configuration came from.
    pub config: Option<ConfigStatus>,
    /// The page's certificate.
    pub certificate: CertificateStatus,
    /// Why a part is null: part to text.
    pub errors: BTreeMap<&'static str, String>,
}

/// The system as PID 1 sees it; slots and boot are parts of their own.
#[derive(Debug, Serialize)]
pub struct System {
    kernel: String,
    uptime_s: u64,
    healthy: bool,
    problems: Vec<String>,
    memory_total_bytes: u64,
    memory_available_bytes: u64,
    data_total_bytes: u64,
    data_free_bytes: u64,
}

/// How full the flow table is.
#[derive(Debug, Serialize)]
pub struct Flows {
    total: u64,
    capacity: u64,
}

/// Asks all services.
pub async fn gather(certificate: CertificateStatus) -> Status {
    let (init, network, leases, firewall, dns, config) = tokio::join!(
        ask("init", async |c| {
            let init = InitBusProxy::new(&c).await?;
            Ok((init.system().await?, init.services().await?))
        }),
        ask("network", async |c| {
            let network = NetworkBusProxy::new(&c).await?;
            Ok((network.interfaces().await?, network.wan_leases().await?))
        }),
        ask("dhcp", async |c| DhcpBusProxy::new(&c).await?.leases().await),
        ask("firewall", async |c| {
            let firewall = FirewallBusProxy::new(&c).await?;
            Ok((firewall.flows(1).await?, firewall.counters().await?))
        }),
        ask("dns", async |c| DnsBusProxy::new(&c).await?.status().await),
        ask("config", async |c| ConfigBusProxy::new(&c).await?.status().await),
    );
    let mut errors = Errors::default();
    let (system, services) = errors.split(init, ["system", "services"]);
    let (interfaces, wan) = errors.split(network, ["interfaces", "wan"]);
    let (flows, counters) = errors.split(firewall, ["flows", "counters"]);
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time_unix_s: unix_now_s(),
        services,
        interfaces,
        wan,
        leases: errors.part(leases, "leases"),
        flows: flows.map(|page| Flows { total: page.total, capacity: page.capacity }),
        counters,
        dns: errors.part(dns, "dns"),
        config: errors.part(config, "config"),
        certificate,
        ..Status::default()
    };
    match system {
        Some(system) => status.take_system(system),
        None => errors.copy("system", ["slots", "boot"]),
    }
    status.errors = errors.0;
    status
}

impl Status {
    fn take_system(&mut self, system: SystemStatus) {
        self.version = system.version;
        self.slots = Some(system.slots);
        self.boot = Some(system.boot);
        self.system = Some(System {
            kernel: system.kernel,
            uptime_s: system.uptime_s,
            healthy: system.healthy,
            problems: system.problems,
            memory_total_bytes: system.memory_total_bytes,
            memory_available_bytes: system.memory_available_bytes,
            data_total_bytes: system.data_total_bytes,
            data_free_bytes: system.data_free_bytes,
        });
    }
}

async fn ask<T, F>(service: &'static str, question: F) -> std::result::Result<T, PeerError>
where
    F: AsyncFnOnce(Connection) -> Result<T>,
{
    call(service, PEER_TIMEOUT, question).await
}

/// Why parts are missing.
#[derive(Default)]
struct Errors(BTreeMap<&'static str, String>);

impl Errors {
    fn part<T>(
        &mut self,
        outcome: std::result::Result<T, PeerError>,
        part: &'static str,
    ) -> Option<T> {
        outcome.map_err(|error| self.0.insert(part, error.to_string())).ok()
    }

    fn split<A, B>(
        &mut self,
        outcome: std::result::Result<(A, B), PeerError>,
        [first, second]: [&'static str; 2],
    ) -> (Option<A>, Option<B>) {
        let both = self.part(outcome, first);
        self.copy(first, [second]);
        both.unzip()
    }

    fn copy<const N: usize>(&mut self, from: &'static str, to: [&'static str; N]) {
        if let Some(error) = self.0.get(from).cloned() {
            self.0.extend(to.map(|part| (part, error.clone())));
        }
    }
}

/// The latest answer, shared by all who ask at about the same time.
#[derive(Clone)]
pub struct Cache {
    web: Arc<Web>,
    latest: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl Cache {
    /// No answer yet; `web` is this very service.
    pub fn new(web: Arc<Web>) -> Self {
        Self { web, latest: Arc::default() }
    }

    /// Who may ask, and under which name.
    pub fn access(&self) -> Access {
        self.web.access()
    }

    /// The answer as JSON, at most a second old. Those who ask while it is gathered wait for it
    /// instead of asking the services again, and all have the same bytes: who reads slowly on many
    /// streams does not take the memory of as many answers.
    pub async fn json(&self) -> Bytes {
        let mut latest = self.latest.lock().await;
        if let Some((at, json)) = &*latest
            && at.elapsed() < FRESH
        {
            return json.clone();
        }
        let json = serde_json::to_string(&gather(self.web.certificate_status()).await)
            .unwrap_or_else(|error| {
                // No field has a form that JSON lacks.
                tracing::error!(%error, "status");
                "{}".to_owned()
            });
        let json = Bytes::from(json);
        *latest = Some((Instant::now(), json.clone()));
        json
    }
}
