//! The supervisor at work: one task that turns what processes, sockets and users do into events
//! of the core and carries out its actions. Nothing in it waits for a service.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use portcullis_bus::init::ServiceStatus;
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use tokio::{
    net::{UnixDatagram, unix::pipe},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    cgroup::Cgroup,
    core::{Action, Core, Event, Id, Rules, State},
    notify,
    process::{self, Program, Surroundings},
    sockets::{self, Sockets},
};
use crate::{
    clock::since_start,
    journal::Journal,
    manifest::{self, Manifest},
    places::Places,
};

/// What a supervisor runs, where and how.
#[derive(Debug)]
pub struct Settings {
    /// The services.
    pub manifests: Vec<Manifest>,
    /// Folders.
    pub places: Places,
    /// What becomes a service when it is started with the service's name.
    pub program: Program,
    /// Terminal for the service with `console = true`.
    pub console: Option<PathBuf>,
}

/// Whether the services do their work.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Health {
    /// What is wrong, one sentence each; empty if nothing.
    pub problems: Vec<String>,
    /// Whether all essential services are ready. They may still have something to do: see `problems`.
    pub ready: bool,
    /// Counted up with every change of any service.
    pub changes: u64,
}

/// Asks the supervisor; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    health: watch::Receiver<Health>,
}

/// A service of this name does not exist, or the supervisor has ended.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OrderError {
    /// With the names that there are.
    #[error("no service `{name}`; there are: {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// During shutdown.
    #[error("the supervisor has ended")]
    Ended,
}

#[derive(Debug)]
enum Order {
    Restart(String, oneshot::Sender<Result<(), OrderError>>),
    Kill(String, oneshot::Sender<Result<(), OrderError>>),
    Services(oneshot::Sender<Vec<ServiceStatus>>),
    StopAll(oneshot::Sender<()>),
}

impl Handle {
    /// Stops and starts a service.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn restart(&self, service: String) -> Result<(), OrderError> {
        self.ask(|reply| Order::Restart(service, reply)).await?
    }

    /// Kills a service, which is then restarted by the rules.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn kill(&self, service: String) -> Result<(), OrderError> {
        self.ask(|reply| Order::Kill(service, reply)).await?
    }

    /// All services as they are now.
    ///
    /// # Errors
    /// [`OrderError::Ended`].
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, OrderError> {
        self.ask(Order::Services).await
    }

    /// Ends all services in order and returns when none is left.
    ///
    /// # Errors
    /// [`OrderError::Ended`].
    pub async fn stop_all(&self) -> Result<(), OrderError> {
        self.ask(Order::StopAll).await
    }

    /// Health, and its changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Result<T, OrderError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| OrderError::Ended)?;
        answer.await.map_err(|_| OrderError::Ended)
    }
}

/// What the tasks around a process report.
#[derive(Debug)]
struct Said {
    id: Id,
    run: u64,
    message: notify::Message,
}

/// What belongs to one service besides its state in the core.
#[derive(Debug)]
struct Entry {
    manifest: Manifest,
    callers: String,
    controllers: String,
    sockets: Sockets,
    cgroup: Option<Cgroup>,
    oom_kills: u64,
    pid: Option<Pid>,
    run: u64,
    listener: Option<JoinHandle<()>>,
    status_text: String,
    /// What it still has to do to be whole.
    pending: String,
    last_exit: String,
    since_unix_s: u64,
    /// When this run began, since the kernel started.
    started: Duration,
}

/// The supervisor, to be [`run`](Self::run).
#[derive(Debug)]
pub struct Supervisor {
    core: Core,
    entries: Vec<Entry>,
    places: Places,
    program: Program,
    console: Option<PathBuf>,
    journal: Journal,
    said: (mpsc::Sender<Said>, mpsc::Receiver<Said>),
    orders: mpsc::Receiver<Order>,
    health: watch::Sender<Health>,
    waiting_for_end: Vec<oneshot::Sender<()>>,
    /// Events that actions led to, to be handled after them.
    pending: Vec<Event>,
}

impl Supervisor {
    /// Makes folders, cgroups and all sockets; nothing is started yet. What cannot be made is
    /// reported in the journal and counts against the services that need it.
    pub fn new(settings: Settings, journal: Journal) -> (Self, Handle) {
        let Settings { manifests, places, program, console } = settings;
        for folder in [places.bus(), places.run.join("notify")] {
            if let Err(error) = std::fs::create_dir_all(&folder) {
                tracing::error!(path = %folder.display(), %error, "folder of sockets");
            }
        }
        let core = Core::new(manifests.iter().map(Rules::from).collect(), since_start());
        let entries = manifests.iter().map(|m| Entry::new(m, &manifests, &places)).collect();
        let (order_sender, orders) = mpsc::channel(32);
        let (health, health_receiver) = watch::channel(Health::default());
        let supervisor = Self {
            core,
            entries,
            places,
            program,
            console,
            journal,
            said: mpsc::channel(64),
            orders,
            health,
            waiting_for_end: Vec::new(),
            pending: Vec::new(),
        };
        (supervisor, Handle { orders: order_sender, health: health_receiver })
    }

    /// Supervises until the process ends. `alive` is called at least once a second.
    ///
    /// # Errors
    /// If the kernel refuses a handler for SIGCHLD at the start.
    pub async fn run(mut self, mut alive: impl FnMut()) -> io::Result<std::convert::Infallible> {
        let mut children = signal(SignalKind::child())?;
        self.event(Event::Tick);
        loop {
            alive();
            let deadline = self.core.deadline().map(|t| t.saturating_sub(since_start()));
            // A small margin: a timer must not fire before the deadline as the core sees it.
            let wait = deadline.map_or(Duration::from_secs(1), |d| {
                d.min(Duration::from_secs(1)) + Duration::from_millis(1)
            });
            tokio::select! {
                _ = children.recv() => {}
                Some(said) = self.said.1.recv() => self.said(said),
                Some(order) = self.orders.recv() => self.order(order),
                () = tokio::time::sleep(wait) => {}
            }
            self.reap();
            self.event(Event::Tick);
            if self.core.all_stopped() {
                for reply in self.waiting_for_end.drain(..) {
                    let _ = reply.send(());
                }
            }
        }
    }

    fn said(&mut self, Said { id, run, message }: Said) {
        if let Some(entry) = self.entries.get_mut(id)
            && entry.run == run
            && let Some(text) = message.status
        {
            entry.status_text = text;
            self.health.send_modify(|h| h.changes += 1);
        }
        if let Some(entry) = self.entries.get_mut(id)
            && entry.run == run
            && let Some(text) = message.pending
        {
            entry.pending = text;
            self.tell_health();
        }
        if message.ready {
            self.event(Event::Ready { id, run });
        }
        if message.alive {
            self.event(Event::Alive { id, run });
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Services(reply) => {
                let _ = reply.send(self.statuses());
            }
            Order::StopAll(reply) => {
                self.waiting_for_end.push(reply);
                self.event(Event::StopAll);
            }
            Order::Restart(name, reply) => {
                let found = self.find(&name).map(|id| {
                    tracing::info!(service = name, "restart requested");
                    self.event(Event::Restart { id });
                });
                let _ = reply.send(found);
            }
            Order::Kill(name, reply) => {
                let found = self.find(&name).map(|id| self.kill(id, "kill requested"));
                let _ = reply.send(found);
            }
        }
    }

    fn find(&self, name: &str) -> Result<Id, OrderError> {
        self.entries.iter().position(|e| e.manifest.name == name).ok_or_else(|| {
            OrderError::Unknown {
                name: name.to_owned(),
                known: self
                    .entries
                    .iter()
                    .map(|e| e.manifest.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            }
        })
    }

    /// Hands an event to the core and does what it says, and what follows from that.
    fn event(&mut self, event: Event) {
        self.pending.push(event);
        while let Some(event) = self.pending.pop() {
            for action in self.core.handle(since_start(), &event) {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { id, run } => self.start(id, run),
            Action::Terminate { id } => {
                if let Some(pid) = self.entries.get(id).and_then(|e| e.pid) {
                    // Not reaped yet, so the number cannot be another process's.
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
            Action::Kill { id, reason } => self.kill(id, reason),
            Action::Changed { id, state } => self.changed(id, state),
            // Told by `run`, also to who asks later.
            Action::AllStopped => {}
        }
    }

    fn start(&mut self, id: Id, run: u64) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let name = entry.manifest.name.clone();
        entry.run = run;
        entry.started = since_start();
        entry.status_text.clear();
        entry.pending.clear();
        let tell = (self.said.0.clone(), self.journal.clone());
        if let Err(error) =
            entry.start(id, &self.places, &self.program, self.console.as_ref(), tell)
        {
            tracing::error!(service = name, %error, "cannot be started");
            entry.last_exit = format!("cannot be started: {error}");
            self.pending.push(Event::Ended { id, run });
        }
    }

    fn kill(&mut self, id: Id, reason: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let Some(pid) = entry.pid else { return };
        tracing::warn!(service = entry.manifest.name, reason, "killed");
        if let Some(Err(error)) = entry.cgroup.as_ref().map(Cgroup::kill) {
            tracing::warn!(service = entry.manifest.name, %error, "cgroup.kill");
        }
        let _ = kill_process(pid, Signal::KILL);
    }

    fn changed(&mut self, id: Id, state: State) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.since_unix_s = unix_now_s();
        let name = &entry.manifest.name;
        match state {
            State::Failed => tracing::error!(
                service = name,
                last_exit = entry.last_exit,
                "failed: ends again and again; tried once a minute"
            ),
            State::BackingOff => {
                tracing::warn!(service = name, last_exit = entry.last_exit, "ended");
            }
            State::Ready => {
                let took = since_start().saturating_sub(entry.started);
                let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(service = name, milliseconds, "ready");
            }
            _ => tracing::debug!(service = name, state = state.name(), "state"),
        }
        self.tell_health();
    }

    fn tell_health(&self) {
        let mut problems: Vec<String> = self
            .core
            .missing()
            .map(|(name, state)| format!("essential service {name} is {}", state.name()))
            .collect();
        let ready = problems.is_empty();
        for (id, Entry { manifest, pending, .. }) in self.entries.iter().enumerate() {
            let is_ready = self.core.state(id) == Some(State::Ready);
            if manifest.essential && is_ready && !pending.is_empty() {
                problems
                    .push(format!("essential service {} is ready, but {pending}", manifest.name));
            }
        }
        self.health.send_modify(|health| {
            (health.problems, health.ready) = (problems, ready);
            health.changes += 1;
        });
    }

    /// Takes the status of every process that ended: services, and orphans that PID 1 inherited.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some(id) = self.entries.iter().position(|e| e.pid == Some(pid)) else { continue };
            let Some(entry) = self.entries.get_mut(id) else { continue };
            entry.ended(process::words(status));
            let run = entry.run;
            self.event(Event::Ended { id, run });
        }
    }

    fn statuses(&self) -> Vec<ServiceStatus> {
        let mut list: Vec<_> = self
            .entries
            .iter()
            .enumerate()
            .map(|(id, entry)| {
                let usage = entry.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default();
                ServiceStatus {
                    name: entry.manifest.name.clone(),
                    description: entry.manifest.description.clone(),
                    state: self.core.state(id).map_or("", State::name).to_owned(),
                    pid: entry.pid.map(|p| p.as_raw_nonzero().get().unsigned_abs()),
                    restarts: self.core.restarts(id),
                    since_unix_s: entry.since_unix_s,
                    memory_bytes: usage.memory_bytes,
                    cpu_ms: usage.cpu_ms,
                    essential: entry.manifest.essential,
                    last_exit: entry.last_exit.clone(),
                    status_text: entry.status_text.clone(),
                }
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }
}

impl Entry {
    fn new(manifest: &Manifest, all: &[Manifest], places: &Places) -> Self {
        let name = &manifest.name;
        let mut sockets = Sockets::default();
        for error in sockets.complete(manifest, manifest.user, places) {
            tracing::error!(service = name, %error, "cannot be made");
        }
        let cgroup = places.service_cgroup(name).and_then(|path| {
            Cgroup::new(path, manifest.memory_mib << 20, manifest.tasks)
                .inspect_err(|error| tracing::error!(service = name, %error, "no cgroup"))
                .ok()
        });
        let list = |users: std::collections::BTreeSet<u32>| {
            users.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
        };
        Self {
            manifest: manifest.clone(),
            callers: list(manifest::callers(all, name)),
            controllers: list(manifest::controllers(all)),
            sockets,
            cgroup,
            oom_kills: 0,
            pid: None,
            run: 0,
            listener: None,
            status_text: String::new(),
            pending: String::new(),
            last_exit: String::new(),
            since_unix_s: unix_now_s(),
            started: Duration::ZERO,
        }
    }

    fn start(
        &mut self,
        id: Id,
        places: &Places,
        program: &Program,
        console: Option<&PathBuf>,
        (said, journal): (mpsc::Sender<Said>, Journal),
    ) -> io::Result<()> {
        let name = self.manifest.name.clone();
        for error in self.sockets.complete(&self.manifest, self.manifest.user, places) {
            tracing::error!(service = name, %error, "cannot be made");
        }
        if self.manifest.state {
            state_folder(&places.state(&name), self.manifest.user)?;
        }
        let notify_path = places.notify_socket(&name);
        let notify = sockets::notify_socket(&notify_path, self.manifest.user)?;
        let notify = UnixDatagram::from_std(notify)?;
        let console = console.filter(|_| self.manifest.console).map(open_terminal).transpose()?;
        let started = process::start(
            program,
            Surroundings {
                name: name.clone(),
                sockets: self.sockets.duplicate()?,
                notify_socket: notify_path,
                watchdog: self.manifest.watchdog(),
                callers: self.callers.clone(),
                controllers: self.controllers.clone(),
                console,
            },
        )?;
        self.pid = Some(started.pid);
        tokio::spawn(capture(name, started.output, journal));
        let run = self.run;
        let listener = tokio::spawn(async move {
            let mut datagram = [0; notify::LONGEST];
            while let Ok(length) = notify.recv(&mut datagram).await {
                let message = notify::parse(datagram.get(..length).unwrap_or_default());
                if said.send(Said { id, run, message }).await.is_err() {
                    return;
                }
            }
        });
        self.listener = Some(listener);
        Ok(())
    }

    fn ended(&mut self, mut how: String) {
        self.pid = None;
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
        if let Some(cgroup) = &self.cgroup {
            // What the service left behind must not meet its next run.
            let _ = cgroup.kill();
            let kills = cgroup.usage().oom_kills;
            if kills > self.oom_kills {
                how =
                    format!("{how}: out of memory, its limit is {} MiB", self.manifest.memory_mib);
            }
            self.oom_kills = kills;
        }
        self.last_exit = how;
    }
}

/// Reads a process's output to its end into the journal.
async fn capture(service: String, output: OwnedFd, journal: Journal) {
    use tokio::io::AsyncReadExt;
    let mut pipe = match pipe::Receiver::from_owned_fd(output) {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::error!(service, %error, "output is lost");
            return;
        }
    };
    let mut lines = crate::journal::Lines::default();
    let mut buffer = vec![0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        for line in lines.push(buffer.get(..length).unwrap_or_default()) {
            journal.service_line(&service, &line);
        }
    }
    if let Some(line) = lines.rest() {
        journal.service_line(&service, &line);
    }
}

/// Makes `/data/NAME` for its service alone, and so again after the partition was made anew.
fn state_folder(path: &std::path::Path, user: u32) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
    let context = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(context(e)),
        _ => {}
    }
    if std::fs::metadata(path).map_err(context)?.uid() != user {
        chown(path, Some(user), Some(user)).map_err(context)?;
    }
    Ok(())
}

fn open_terminal(path: &PathBuf) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let terminal = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(terminal.into())
}

fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
