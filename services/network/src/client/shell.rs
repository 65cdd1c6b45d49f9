//! The client's input and output: packet sockets, the clock, the lease's file.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use portcullis_model::Name;
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    frame::{CLIENT_PORT, SERVER_PORT},
    lease::{Lease, Time},
    machine::{Client, Identity, Input, Loss, Output},
    packet::PacketSocket,
    store::{self, Clocks, Record},
};

/// The clock is looked at this often at least: timers do not count a suspended machine's time.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The machine's epoch lies so long before the kernel's boot that any lease of an earlier boot
/// (32 bits of seconds) has a time.
const EPOCH: Duration = Duration::from_secs(1 << 32);

/// Which interface, device and host a client works for. A change of any makes a new client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name in the configuration.
    pub interface: Name,
    /// Kernel device name.
    pub device: String,
    /// Kernel index of the device.
    pub index: u32,
    /// Hardware address and host name.
    pub identity: Identity,
}

/// What others may know of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// State (RFC 2131), lower case.
    pub state: &'static str,
    /// The lease in force.
    pub lease: Option<Lease>,
    /// When it was obtained, seconds since the Unix epoch.
    pub obtained_unix_s: u64,
}

enum Command {
    Link(bool),
    Release(oneshot::Sender<()>),
}

/// A running client; stops, keeping its lease, when dropped.
pub struct Handle {
    place: Place,
    commands: mpsc::UnboundedSender<Command>,
    view: watch::Receiver<View>,
    /// Which link it was told of: [`crate::kernel::Link::carrier_ups`].
    link: Option<u32>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Starts a client; `changed` is notified when its view changes. Its first view already has
    /// the lease that was in use before a restart of this service.
    pub fn start(place: Place, folder: PathBuf, changed: Arc<Notify>) -> Self {
        let path = store::path(&folder, &place.interface);
        let mac = place.identity.mac;
        let remembered = match store::load(&path) {
            Ok(record) => record.and_then(|record| record.recall(mac, &clocks())),
            Err(error) => {
                tracing::warn!(interface = %place.interface, %error, "lease file, not used");
                None
            }
        };
        let client = Client::new(place.identity.clone(), fastrand::u64(..), remembered);
        let (commands, receiver) = mpsc::unbounded_channel();
        let (sender, view) = watch::channel(view(&client));
        let task = Task {
            place: place.clone(),
            path,
            client,
            packets: None,
            datagrams: None,
            view: sender,
            changed,
        };
        let task = tokio::spawn(task.run(receiver));
        Self { place, commands, view, link: None, task }
    }

    /// What it works for.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its state now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Tells it whether the device has a link; `link` numbers the links that the device had. One
    /// that follows another at once may lead to another network, so the loss is told, too.
    pub fn link(&mut self, link: Option<u32>) {
        if self.link == link {
            return;
        }
        // Sending fails only when the task ended, which it does only with this handle.
        if self.link.is_some() {
            let _ = self.commands.send(Command::Link(false));
        }
        if link.is_some() {
            let _ = self.commands.send(Command::Link(true));
        }
        self.link = link;
    }

    /// Gives the lease back and ends.
    pub async fn release(self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Release(done)).is_ok() {
            let _ = wait.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    place: Place,
    path: PathBuf,
    client: Client,
    /// Open while answers are awaited; each costs every packet of the device a filter run.
    packets: Option<PacketSocket>,
    /// Open while a renewal is under way.
    datagrams: Option<UdpSocket>,
    view: watch::Sender<View>,
    changed: Arc<Notify>,
}

/// What woke the task.
enum Wake {
    Command(Option<Command>),
    Frame(io::Result<Vec<u8>>),
    Datagram(io::Result<Vec<u8>>),
    Timer,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let sleep = self
                .client
                .deadline()
                .map_or(LONGEST_SLEEP, |deadline| deadline.saturating_sub(now()))
                .min(LONGEST_SLEEP);
            let wake = tokio::select! {
                command = commands.recv() => Wake::Command(command),
                frame = receive_frame(self.packets.as_ref()) => Wake::Frame(frame),
                datagram = receive_datagram(self.datagrams.as_ref()) => Wake::Datagram(datagram),
                () = tokio::time::sleep(sleep) => Wake::Timer,
            };
            match wake {
                Wake::Command(None) => return,
                Wake::Command(Some(Command::Link(true))) => self.handle(Input::LinkUp).await,
                Wake::Command(Some(Command::Link(false))) => self.handle(Input::LinkDown).await,
                Wake::Command(Some(Command::Release(done))) => {
                    self.handle(Input::Release).await;
                    let _ = done.send(());
                    return;
                }
                Wake::Frame(Ok(frame)) => self.handle(Input::Frame(&frame)).await,
                Wake::Datagram(Ok(payload)) => self.handle(Input::Datagram(&payload)).await,
                Wake::Frame(Err(error)) => {
                    // The device went down; a new socket is made when there is something to send.
                    tracing::debug!(device = self.place.device, %error, "packet socket");
                    self.packets = None;
                }
                Wake::Datagram(Err(error)) => {
                    tracing::debug!(device = self.place.device, %error, "renewal socket");
                    self.datagrams = None;
                }
                Wake::Timer => self.time_passed().await,
            }
        }
    }

    /// On a busy machine an answer may have been here for long when nobody has looked, such as one
    /// that says who has the address: it counts before the time to wait for it is over.
    async fn time_passed(&mut self) {
        let frames = self.packets.as_ref().map(PacketSocket::waiting).unwrap_or_default();
        for frame in frames {
            self.handle(Input::Frame(&frame)).await;
        }
        self.handle(Input::Timer).await;
    }

    async fn handle(&mut self, input: Input<'_>) {
        let outputs = self.client.handle(now(), input);
        // Before anything is sent, so that no answer is missed.
        self.adjust_sockets();
        for output in outputs {
            match output {
                Output::Frame(frame) => self.send_frame(&frame),
                Output::Datagram { server, payload } => self.send_datagram(server, &payload).await,
                Output::Bound(lease) => self.bound(&lease),
                Output::Lost(loss) => self.lost(&loss),
            }
        }
        let view = view(&self.client);
        let changed = self.view.send_if_modified(|old| {
            let differs = (old.state, &old.lease) != (view.state, &view.lease);
            if differs {
                *old = view;
            }
            differs
        });
        if changed {
            self.changed.notify_one();
        }
    }

    fn adjust_sockets(&mut self) {
        let listens = self.client.awaits_answers() || self.client.probes();
        if !listens {
            self.packets = None;
        } else if self.packets.is_none() {
            match PacketSocket::listening(self.place.index) {
                Ok(socket) => self.packets = Some(socket),
                Err(error) => {
                    tracing::warn!(device = self.place.device, %error, "packet socket");
                }
            }
        }
        if !matches!(self.client.state(), "renewing" | "rebinding") {
            self.datagrams = None;
        }
    }

    fn send_frame(&self, frame: &[u8]) {
        let sent = match &self.packets {
            Some(socket) => socket.send(frame),
            None => PacketSocket::sending(self.place.index).and_then(|socket| socket.send(frame)),
        };
        if let Err(error) = sent {
            tracing::warn!(device = self.place.device, %error, "cannot send");
        }
    }

    async fn send_datagram(&mut self, server: Ipv4Addr, payload: &[u8]) {
        let Some(own) = self.view.borrow().lease.as_ref().map(|l| l.grant.address.addr()) else {
            return;
        };
        let sent = match renewal_socket(&self.place.device, own) {
            Ok(socket) => {
                let target = SocketAddr::from((server, SERVER_PORT));
                let sent = socket.send_to(payload, target).await.map(drop);
                self.datagrams = Some(socket);
                sent
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!(device = self.place.device, %server, %error, "cannot ask for renewal");
        }
    }

    fn bound(&self, lease: &Lease) {
        let grant = &lease.grant;
        let old = self.view.borrow().lease.as_ref().map(|l| l.grant.address);
        let (interface, address, server) = (&self.place.interface, grant.address, grant.server);
        if old == Some(address) {
            tracing::debug!(%interface, %address, %server, lease_s = grant.lease_s, "lease renewed");
        } else {
            tracing::info!(%interface, %address, %server, lease_s = grant.lease_s, "lease obtained");
        }
        let record = Record::new(lease, self.place.identity.mac, &clocks());
        if let Err(error) = store::save(&self.path, &record) {
            tracing::warn!(%interface, %error, "cannot keep the lease over a restart");
        }
    }

    fn lost(&self, loss: &Loss) {
        tracing::warn!(interface = %self.place.interface, reason = %loss, "no lease");
        if let Err(error) = store::remove(&self.path) {
            tracing::warn!(interface = %self.place.interface, %error, "lease file");
        }
    }
}

async fn receive_frame(socket: Option<&PacketSocket>) -> io::Result<Vec<u8>> {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

async fn receive_datagram(socket: Option<&UdpSocket>) -> io::Result<Vec<u8>> {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut buffer = vec![0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

/// A UDP socket at the leased address: the kernel finds the way to the server.
fn renewal_socket(device: &str, own: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::DGRAM.nonblocking(),
        Some(socket2::Protocol::UDP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(own, CLIENT_PORT).into())?;
    UdpSocket::from_std(socket.into())
}

fn view(client: &Client) -> View {
    let lease = client.lease().cloned();
    let age = lease.as_ref().map_or(Duration::ZERO, |lease| now().saturating_sub(lease.obtained));
    let obtained_unix_s = match lease {
        Some(_) => portcullis_runtime::unix_now_s().saturating_sub(age.as_secs()),
        None => 0,
    };
    View { state: client.state(), lease, obtained_unix_s }
}

/// Time since boot, suspension included.
fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    EPOCH + Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn clocks() -> Clocks {
    // Read once: a sandbox rule (landlock) names inodes, and the kernel makes new ones for `/proc/sys`
    // after memory pressure, which it would no longer let through.
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let boot_id = BOOT_ID.get_or_init(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        read.map(|text| text.trim().to_owned()).unwrap_or_default()
    });
    Clocks { now: now(), boot_id: boot_id.clone(), unix_s: portcullis_runtime::unix_now_s() }
}

#[cfg(test)]
#[path = "shell_tests.rs"]
mod tests;
