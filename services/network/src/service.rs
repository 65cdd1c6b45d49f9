//! The service's loop: one task that owns the configuration and the kernel's state, woken by the
//! kernel, by DHCP clients and by the bus.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use portcullis_bus::network::{InterfaceStatus, Network1, WanLease};
use portcullis_bus::server::Notifier;
use portcullis_model::{Ipv4, Name, part::NetworkPart};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use crate::{
    api::Request,
    client::{
        machine::Identity,
        shell::{Handle, Place},
    },
    kernel::{
        Actual,
        netlink::{Kernel, KernelError},
        plan::{Change, Step, plan},
    },
    status,
    wanted::{Guard, Present, Target, target},
};

/// Changes of the kernel's state come in bursts; what comes within this time is one.
const SETTLE: Duration = Duration::from_millis(50);

/// The state is checked this often without a reason, should a message of the kernel be lost.
const CHECK: Duration = Duration::from_secs(60);

/// Pause before refused changes are tried again, doubled up to [`CHECK`].
const RETRY: Duration = Duration::from_secs(1);

/// A device that is not brought up for this long for want of a firewall is a problem.
const HELD: Duration = Duration::from_secs(20);

/// Plans in one go: side effects of one are mended by the next, two do. More are a fight with
/// somebody else, which waits for the next check.
const PASSES: u32 = 4;

/// A change that the kernel refused.
struct Refused {
    /// Whether a DHCP server asked for it, not the configuration.
    of_lease: bool,
    text: String,
}

/// Everything that the loop owns.
pub struct Network {
    kernel: Kernel,
    part: NetworkPart,
    clients: BTreeMap<Name, Handle>,
    /// Notified by clients whose lease or state changed.
    woken: Arc<Notify>,
    original_mtus: BTreeMap<String, u32>,
    all_ports: bool,
    /// Which devices are behind the firewall.
    guard: watch::Receiver<Guard>,
    /// Since when devices are down for want of it.
    held_since: Option<Instant>,
    state_folder: PathBuf,
    target: Target,
    /// Addresses that are set and cannot be used, for people.
    duplicates: Vec<String>,
    /// What was told last, so that the same is not told again.
    shown: (Vec<InterfaceStatus>, Vec<WanLease>),
    problems: Vec<String>,
    retry: Duration,
    next_check: Instant,
}

impl Network {
    /// Takes over the kernel's network state.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn open(
        part: NetworkPart,
        state_folder: PathBuf,
        all_ports: bool,
        guard: watch::Receiver<Guard>,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            kernel: Kernel::open()?,
            part,
            clients: BTreeMap::new(),
            woken: Arc::new(Notify::new()),
            original_mtus: BTreeMap::new(),
            all_ports,
            guard,
            held_since: None,
            state_folder,
            target: Target::default(),
            duplicates: Vec::new(),
            shown: Default::default(),
            problems: Vec::new(),
            retry: RETRY,
            next_check: Instant::now(),
        })
    }

    /// Serves requests and mends the kernel's state until the task is dropped, or the kernel can
    /// no longer be reached.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        notifier: Notifier<Network1>,
    ) -> KernelError {
        loop {
            if self.refresh_shown().await {
                notifier.changed();
            }
            tokio::select! {
                changed = self.kernel.changed() => {
                    if let Err(error) = changed {
                        return error;
                    }
                    tokio::time::sleep(SETTLE).await;
                    self.reconcile().await;
                }
                () = self.woken.notified() => drop(self.reconcile().await),
                Ok(()) = self.guard.changed() => drop(self.reconcile().await),
                Some(request) = requests.recv() => self.serve(request).await,
                () = tokio::time::sleep_until(self.next_check) => drop(self.reconcile().await),
            }
        }
    }

    async fn serve(&mut self, request: Request) {
        // A caller that went away before its answer is no error.
        match request {
            Request::Apply(part, reply) => {
                self.release_leases(&part).await;
                self.part = part;
                tracing::info!("new configuration");
                let _ = reply.send(self.reconcile().await);
            }
            Request::Interfaces(reply) => {
                let answer = match self.read().await {
                    Ok(actual) => Ok(status::interfaces(&self.part, &self.target, &actual)),
                    Err(error) => Err(error.to_string()),
                };
                let _ = reply.send(answer);
            }
            Request::Leases(reply) => {
                let _ = reply.send(self.leases());
            }
        }
    }

    /// Brings the kernel's state to what is wanted; what the kernel refused of the configuration. What
    /// it refuses of a lease is told, but no change of the configuration fails by it.
    pub async fn reconcile(&mut self) -> Vec<String> {
        let refused = match self.reconcile_once().await {
            Ok(refused) => refused,
            Err(error) => vec![Refused { of_lease: false, text: error.to_string() }],
        };
        let mut problems: Vec<String> = refused.iter().map(|one| one.text.clone()).collect();
        problems.extend(self.target.problems.iter().chain(&self.duplicates).cloned());
        let late = self.held_since.is_some_and(|since| since.elapsed() >= HELD);
        if late {
            problems.push("links stay down: the firewall is not on them".to_owned());
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
        let pause = match (refused.is_empty(), self.held_since.is_some() && !late) {
            (true, false) => CHECK,
            (true, true) => HELD,
            (false, _) => self.retry,
        };
        self.retry = if refused.is_empty() { RETRY } else { (self.retry * 2).min(CHECK) };
        self.next_check = Instant::now() + pause;
        refused.into_iter().filter(|one| !one.of_lease).map(|one| one.text).collect()
    }

    async fn reconcile_once(&mut self) -> Result<Vec<Refused>, KernelError> {
        let mut refused = Vec::new();
        for _ in 0..PASSES {
            let actual = self.look().await?;
            self.note_held(&actual);
            self.duplicates = status::duplicates(&self.target.wanted, &actual);
            let steps = plan(&self.target.wanted, &actual);
            // What was refused before is tried again, or is as wanted by now: its device is gone, or
            // somebody else did it.
            refused.clear();
            if steps.is_empty() {
                break;
            }
            // Up without its bridge, a port would be a way into the router past the firewall.
            let mut astray = BTreeSet::new();
            for step in steps {
                if step.change == Change::SetUp && astray.contains(&step.device) {
                    continue;
                }
                if let Change::SetMtu(_) = step.change
                    && let Some(link) = actual.link(&step.device)
                {
                    self.original_mtus.entry(step.device.clone()).or_insert(link.mtu);
                }
                match self.kernel.apply(&step).await {
                    Ok(()) if step.device.is_empty() => tracing::debug!("{step}"),
                    Ok(()) => tracing::info!("{step}"),
                    // The rest does not depend on this device, or fails by itself.
                    Err(error) => {
                        let of_lease = self.target.is_of_lease(&self.part, &step);
                        refused.push(Refused { of_lease, text: error.to_string() });
                        if let Change::SetMaster(Some(_)) = step.change {
                            let down = Step { device: step.device, change: Change::SetDown };
                            if let Err(error) = self.kernel.apply(&down).await {
                                refused.push(Refused { of_lease: false, text: error.to_string() });
                            }
                            astray.insert(down.device);
                        }
                    }
                }
            }
        }
        Ok(refused)
    }

    /// Notes whether devices are down for want of a firewall.
    fn note_held(&mut self, actual: &Actual) {
        let held = self
            .target
            .wanted
            .devices
            .iter()
            .any(|(name, device)| device.held && actual.link(name).is_none_or(|link| !link.up));
        self.held_since = held.then(|| self.held_since.unwrap_or_else(Instant::now));
    }

    /// Reads the devices, lets clients know of them, and derives what is wanted now.
    async fn look(&mut self) -> Result<Actual, KernelError> {
        let links = self.kernel.links().await?;
        self.original_mtus.retain(|device, _| links.values().any(|link| link.name == *device));
        let mut target = self.target_for(&links);
        if self.tend_clients(&target, &links) {
            // A client that has just been started may bring a lease from before a restart.
            target = self.target_for(&links);
        }
        self.target = target;
        let sysctls = self.target.wanted.sysctls.iter().map(|(path, _)| path.as_str());
        self.kernel.read(links, sysctls).await
    }

    fn target_for(&self, links: &BTreeMap<u32, crate::kernel::Link>) -> Target {
        let lease = |(name, client): (&Name, &Handle)| {
            client.view().lease.map(|lease| (name.clone(), lease.grant))
        };
        let leases = self.clients.iter().filter_map(lease).collect();
        let guard = self.guard.borrow();
        let present = Present {
            links,
            leases: &leases,
            original_mtus: &self.original_mtus,
            all_ports: self.all_ports,
            guard: &guard,
        };
        target(&self.part, &present)
    }

    /// Starts and stops clients, and tells them of links. Whether any was started or stopped.
    fn tend_clients(
        &mut self,
        target: &Target,
        links: &BTreeMap<u32, crate::kernel::Link>,
    ) -> bool {
        let mut places = BTreeMap::new();
        for (name, interface) in &self.part.interfaces {
            let device = target.placed.get(name).and_then(|placed| placed.device.as_deref());
            let link = links.values().find(|link| Some(link.name.as_str()) == device);
            if let (Ipv4::Dhcp { .. }, Some(link)) = (&interface.ipv4, link)
                && let Some(mac) = link.mac
            {
                let place = Place {
                    interface: name.clone(),
                    device: link.name.clone(),
                    index: link.index,
                    identity: Identity { mac, hostname: self.part.hostname.clone() },
                };
                let up = (link.up && link.carrier).then_some(link.carrier_ups);
                places.insert(name.clone(), (place, up));
            }
        }
        let before = self.clients.len();
        self.clients.retain(|name, client| {
            places.get(name).is_some_and(|(place, _)| place == client.place())
        });
        let mut changed = before != self.clients.len();
        for (name, (place, up)) in places {
            let client = self.clients.entry(name).or_insert_with(|| {
                changed = true;
                Handle::start(place, self.state_folder.clone(), self.woken.clone())
            });
            client.link(up);
        }
        changed
    }

    /// Gives back the leases of interfaces that `next` no longer configures by DHCP, while their
    /// addresses are still there to send from.
    async fn release_leases(&mut self, next: &NetworkPart) {
        let stays = |name: &Name| {
            let interface = next.interfaces.get(name);
            interface.is_some_and(|interface| matches!(interface.ipv4, Ipv4::Dhcp { .. }))
        };
        let gone: Vec<Name> = self.clients.keys().filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            if let Some(client) = self.clients.remove(&name) {
                client.release().await;
            }
        }
    }

    async fn read(&self) -> Result<Actual, KernelError> {
        let links = self.kernel.links().await?;
        self.kernel.read(links, std::iter::empty()).await
    }

    fn leases(&self) -> Vec<WanLease> {
        status::leases(&self.part, |name| self.clients.get(name).map(Handle::view))
    }

    /// Whether something changed that peers are told of; counters alone are not.
    async fn refresh_shown(&mut self) -> bool {
        let mut interfaces = match self.read().await {
            Ok(actual) => status::interfaces(&self.part, &self.target, &actual),
            Err(_) => self.shown.0.clone(),
        };
        for interface in &mut interfaces {
            interface.rx_bytes = 0;
            interface.tx_bytes = 0;
        }
        let now = (interfaces, self.leases());
        let changed = now != self.shown;
        self.shown = now;
        changed
    }
}
