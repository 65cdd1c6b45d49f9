//! Wiring: bus, network service, timers, kernel notifications.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use portcullis_bus::{
    Error as BusError,
    firewall::{
        Attachment, CaptureRequest, Counter, DatapathStatus, DropCount, Explanation, Firewall1,
        FirewallApi, FlowPage, FlowQuery, RuleFinding,
    },
    init::InitBusProxy,
    network::NetworkBusProxy,
    server::Notifier,
};
use portcullis_model::{firewall::Datapath, part::FirewallPart};
use portcullis_runtime::{Service, fetch_part, parse_part};
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};

use crate::{
    causes::with_causes,
    datapath::PINS,
    engine::{Engine, EngineError},
    routes::Routes,
    service::Firewall,
    telemetry::events,
};

/// Folder of the pins, for tests on a development machine; init does not pass it on.
const PINS_VARIABLE: &str = "PORTCULLIS_BPF_DIR";

/// Time between two passes over the flow table.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);
/// The same while the table is nearly full.
const URGENT_PERIOD: Duration = Duration::from_secs(1);
/// Age at which cached next hops are confirmed even if nothing was heard of a change.
const CONFIRM_PERIOD: Duration = Duration::from_secs(8);
/// Changes of routes are put together for this long.
const ROUTES_PAUSE: Duration = Duration::from_millis(100);
/// What could not be attached is tried again after this long, then after twice as long, and so on.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// But at least this often.
const RETRY_LAST: Duration = Duration::from_secs(60);
/// How long the network service may take to report before this one is ready without it.
const NETWORK_PATIENCE: Duration = Duration::from_secs(5);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The service's `main`.
pub fn main() -> ExitCode {
    portcullis_runtime::run("firewall", run)
}

async fn run(mut service: Service) -> Result<()> {
    let pins = std::env::var_os(PINS_VARIABLE).map_or_else(|| PathBuf::from(PINS), PathBuf::from);
    let news = Arc::new(Notify::new());
    // The config service starts at the same time: the kernel has work until it answers.
    let foreseen = Firewall::foresee(&pins, news.clone()).unwrap_or_else(|error| {
        tracing::info!(%error, "programs wait for the configuration");
        None
    });
    let part: FirewallPart = fetch_part("firewall").await?;
    have_modules(&part).await;
    let shared = Shared {
        engine: Arc::new(Mutex::new(Engine::begin(pins, part, foreseen, news.clone())?)),
        changed: Arc::new(Notify::new()),
        switched: Arc::new(Notify::new()),
        stand: Arc::new(watch::Sender::default()),
    };
    let notifier = service.serve_bus(Firewall1(Arc::new(shared.clone())))?;
    tokio::spawn(announce(shared.changed.clone(), notifier));
    shared.clone().spawn_ageing();
    shared.clone().spawn_route_watch()?;
    shared.clone().spawn_retries();
    tokio::spawn(shared.clone().follow_events());
    tokio::spawn(shared.clone().follow_network());
    tokio::select! {
        error = shared.clone().follow_loading(news) => Err(error.into()),
        // Programs, maps and attachments stay: packets flow on while this service is away.
        () = service.shutdown() => Ok(()),
        () = tell_init(&service, shared.stand.subscribe()) => Ok(()),
    }
}

/// Tells init when packets are filtered, and how far the datapath is loaded, until the service ends.
async fn tell_init(service: &Service, mut stand: watch::Receiver<Stand>) {
    let in_force = stand.wait_for(|stand| stand.in_force);
    if tokio::time::timeout(NETWORK_PATIENCE, in_force).await.is_err() {
        // Not for as long as programs are loaded that nothing can be attached without.
        let outcome = stand.wait_for(|stand| stand.in_force || stand.pending.is_none()).await;
        if outcome.is_ok_and(|stand| !stand.in_force) {
            service.ready("waiting for the network service");
        }
    }
    let mut told = false;
    loop {
        let Stand { in_force, pending, .. } = stand.borrow_and_update().clone();
        service.pending(pending.as_deref());
        if in_force && !told {
            service.ready("filtering");
            told = true;
        }
        if stand.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the bus of changes, however they came about.
async fn announce(changed: Arc<Notify>, notifier: Notifier<Firewall1>) {
    loop {
        changed.notified().await;
        notifier.changed();
    }
}

/// The kernel looks routes up for the datapath only where forwarding is on. It is off until the
/// filters are attached, so that nothing is forwarded before.
fn open_forwarding() {
    const PATHS: [&str; 2] =
        ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    for path in PATHS {
        let state = std::fs::read_to_string(path).unwrap_or_default();
        if state.trim() == "0"
            && let Err(error) = std::fs::write(path, "1")
        {
            tracing::error!(path, %error, "forwarding stays off");
        }
    }
}

/// nftables is made of modules of the kernel, which only init loads.
async fn have_modules(part: &FirewallPart) {
    if part.firewall.datapath != Datapath::Nftables {
        return;
    }
    let asked = async {
        let connection = portcullis_bus::connect("init").await?;
        InitBusProxy::new(&connection).await?.load_modules().await?;
        portcullis_bus::Result::Ok(())
    };
    if let Err(error) = asked.await {
        // They may be there or built in; if not, the kernel says so next.
        tracing::warn!(%error, "kernel modules for nftables");
    }
}

fn failed(error: EngineError) -> BusError {
    BusError::Failed(with_causes(&error))
}

/// How far the datapath is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Stand {
    /// Packets are filtered.
    in_force: bool,
    /// What is still to come.
    pending: Option<String>,
    /// A change is under way.
    changing: bool,
    /// Which datapath.
    kind: Datapath,
}

/// The state, shared by the tasks of the one thread. Locked for short steps only.
#[derive(Clone)]
struct Shared {
    engine: Arc<Mutex<Engine>>,
    changed: Arc<Notify>,
    /// The datapath may be another one.
    switched: Arc<Notify>,
    stand: Arc<watch::Sender<Stand>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and announces it if something is different now.
    fn update(
        &self,
        change: impl FnOnce(&mut Engine) -> std::result::Result<bool, EngineError>,
    ) -> portcullis_bus::Result<()> {
        self.change(change).map_err(failed)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Engine) -> std::result::Result<bool, EngineError>,
    ) -> std::result::Result<(), EngineError> {
        let mut engine = self.lock();
        let changed = change(&mut engine);
        let stand = Stand {
            in_force: engine.is_in_force(),
            pending: engine.pending(),
            changing: engine.is_changing(),
            kind: engine.kind(),
        };
        drop(engine);
        if stand.kind != self.stand.borrow().kind {
            self.switched.notify_one();
        }
        if stand.in_force && !self.stand.borrow().in_force {
            open_forwarding();
        }
        self.stand.send_if_modified(|now| std::mem::replace(now, stand.clone()) != stand);
        if changed? {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes over what the network service reports.
    async fn follow_network(self) {
        let follow = portcullis_bus::follow::<NetworkBusProxy<'_>, _, _>("network", move |peer| {
            let shared = self.clone();
            async move {
                let interfaces = NetworkBusProxy::new(&peer).await?.interfaces().await?;
                shared.update(|engine| engine.set_interfaces(interfaces))
            }
        });
        match follow.await {}
    }

    /// Goes on with each program that is loaded, until one is refused that nothing can be attached
    /// without.
    async fn follow_loading(self, news: Arc<Notify>) -> EngineError {
        loop {
            if let Err(error) = self.change(Engine::advance) {
                return error;
            }
            news.notified().await;
        }
    }

    /// Waits until no change is under way; the error of the last one.
    async fn settled(&self) -> portcullis_bus::Result<()> {
        let mut stand = self.stand.subscribe();
        // The sender is in `self`.
        let _ = stand.wait_for(|stand| !stand.changing).await;
        self.lock().take_failure().map_or(Ok(()), |error| Err(failed(error)))
    }

    fn spawn_ageing(self) {
        tokio::spawn(async move {
            let mut period = SWEEP_PERIOD;
            loop {
                tokio::time::sleep(period).await;
                period = match self.pass().await {
                    Ok(true) => URGENT_PERIOD,
                    Ok(false) => SWEEP_PERIOD,
                    Err(error) => {
                        tracing::warn!(%error, "ageing");
                        SWEEP_PERIOD
                    }
                };
            }
        });
    }

    /// One pass over the flow table; whether the next one is urgent.
    async fn pass(&self) -> std::result::Result<bool, EngineError> {
        loop {
            if let Some(urgent) = self.lock().sweep()? {
                return Ok(urgent);
            }
            // A table of millions must not keep the bus waiting.
            tokio::task::yield_now().await;
        }
    }

    /// Hears what the packet path has to tell, for as long as it is the same one.
    async fn follow_events(self) {
        loop {
            let ring = self.lock().events();
            let heard = async {
                match ring {
                    Ok(Some(ring)) => {
                        events::follow(ring, |event| self.lock().event(event)).await?
                    }
                    Ok(None) => {}
                    Err(error) => return Err(std::io::Error::other(error.to_string())),
                }
                Ok(())
            };
            let ended = tokio::select! {
                heard = heard => heard,
                () = self.switched.notified() => continue,
            };
            if let Err(error) = ended {
                tracing::error!(%error, "events of the packet path");
            }
            self.switched.notified().await;
        }
    }

    /// Attaches what could not be attached, at growing intervals: a device may be about to appear,
    /// or another program about to leave it.
    fn spawn_retries(self) {
        tokio::spawn(async move {
            let mut pause = RETRY_FIRST;
            loop {
                tokio::time::sleep(pause).await;
                if !self.lock().is_incomplete() {
                    pause = RETRY_FIRST;
                    continue;
                }
                pause = (pause * 2).min(RETRY_LAST);
                if let Err(error) = self.update(Engine::retry) {
                    tracing::warn!(%error, "attaching");
                }
            }
        });
    }

    fn spawn_route_watch(self) -> Result<()> {
        let routes = Routes::watch()?;
        tokio::spawn(async move {
            let mut confirm = tokio::time::interval(CONFIRM_PERIOD);
            confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = confirm.tick() => {}
                    heard = routes.changed() => {
                        if let Err(error) = heard {
                            tracing::warn!(%error, "route notifications");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
                if let Err(error) = self.lock().routes_changed() {
                    tracing::warn!(%error, "route generation");
                }
                tokio::time::sleep(ROUTES_PAUSE).await;
            }
        });
        Ok(())
    }
}

#[async_trait::async_trait]
impl FirewallApi for Shared {
    async fn apply(&self, part: String) -> portcullis_bus::Result<()> {
        let part = parse_part("firewall", &part)
            .map_err(|error| BusError::InvalidArgument(error.to_string()))?;
        have_modules(&part).await;
        self.update(|firewall| firewall.apply(part))?;
        self.settled().await
    }

    async fn flows(&self, limit: u32) -> portcullis_bus::Result<FlowPage> {
        self.find_flows(FlowQuery { limit, ..FlowQuery::default() }).await
    }

    async fn counters(&self) -> portcullis_bus::Result<Vec<Counter>> {
        self.lock().counters().map_err(failed)
    }

    async fn attachments(&self) -> portcullis_bus::Result<Vec<Attachment>> {
        Ok(self.lock().attachments())
    }

    async fn guarded(&self) -> portcullis_bus::Result<Vec<u32>> {
        Ok(self.lock().guarded())
    }

    async fn datapath(&self) -> portcullis_bus::Result<DatapathStatus> {
        self.lock().status().map_err(failed)
    }

    async fn find_flows(&self, query: FlowQuery) -> portcullis_bus::Result<FlowPage> {
        self.lock().find_flows(&query).map_err(BusError::InvalidArgument)
    }

    async fn drops(&self) -> portcullis_bus::Result<Vec<DropCount>> {
        self.lock().drops().map_err(failed)
    }

    async fn capture(&self, request: CaptureRequest) -> portcullis_bus::Result<zbus::OwnedFd> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()
            .map_err(|error| BusError::Failed(error.to_string()))?;
        let running = self.lock().begin_capture(&request).map_err(BusError::InvalidArgument)?;
        let (shared, session) = (self.clone(), running.session());
        tokio::spawn(async move {
            if let Err(error) = running.carry(ours).await {
                tracing::warn!(%error, "capture");
            }
            if let Err(error) = shared.lock().end_capture(session) {
                tracing::warn!(%error, "capture");
            }
        });
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }

    async fn explain(&self, packet: String) -> portcullis_bus::Result<Explanation> {
        self.lock().explain(&packet).map_err(BusError::InvalidArgument)
    }

    async fn findings(&self) -> portcullis_bus::Result<Vec<RuleFinding>> {
        Ok(self.lock().findings())
    }

    async fn nftables(&self) -> portcullis_bus::Result<String> {
        Ok(self.lock().nftables())
    }

    async fn reevaluate(&self) -> portcullis_bus::Result<u64> {
        self.lock().reevaluate().map_err(failed)
    }

    async fn purge(&self, addresses: String) -> portcullis_bus::Result<u64> {
        self.lock().purge(&addresses).map_err(BusError::InvalidArgument)
    }
}
