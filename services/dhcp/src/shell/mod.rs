//! The I/O around the core: one task that waits for datagrams, ARP answers, timers and bus calls,
//! hands them to [`Server`] and does what it says.

mod arp;
mod bus;
mod devices;
mod frame;
mod link;
mod udp;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use portcullis_bus::{dhcp::Dhcp1, server::Notifier};
use portcullis_model::{Name, part::DhcpPart};
use portcullis_runtime::Service;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    SERVICE,
    core::{Action, Arrival, Level, Now, Outgoing, Server},
    store::Store,
};
use devices::Device;

/// Datagrams handled together: they share one write to disk.
const BATCH: usize = 64;
/// Pause before changes that the disk did not take are tried again.
const RETRY: Duration = Duration::from_secs(15);
/// Bus calls waiting.
const CALLS: usize = 16;

/// Runs the service until it is told to stop.
///
/// # Errors
/// What keeps it from serving at all: no configuration, no socket.
pub async fn serve(mut service: Service) -> anyhow::Result<()> {
    let socket = udp::Socket::new(udp::take_or_bind(service.sockets())?)?;
    let part: DhcpPart = portcullis_runtime::fetch_part(SERVICE).await?;
    let folder = portcullis_runtime::state_dir(SERVICE).context("state folder")?;
    let clock = Clock(Instant::now());
    let (store, leases) = Store::open(&folder);
    tracing::info!(leases = leases.len(), interfaces = part.servers.len(), "DHCP server starts");
    let server = Server::new(&part, leases, clock.now());

    let (calls, mut called) = mpsc::channel(CALLS);
    let notifier = service.serve_bus(Dhcp1(std::sync::Arc::new(bus::Api::new(calls))))?;
    let mut shell = Shell {
        frames: frame::Sender::new()?,
        arp: None,
        devices: devices::follow(),
        socket,
        clock,
        server,
        store,
        notifier,
        disk_failed: false,
        retry: None,
    };
    let actions = shell.server.tick(clock.now());
    shell.carry_out(actions).await;
    service.ready(&shell.status());
    let shutdown = service.shutdown();
    tokio::pin!(shutdown);
    let mut status = tokio::time::interval(Duration::from_secs(30));

    loop {
        let deadline = shell.deadline();
        tokio::select! {
            () = &mut shutdown => break,
            // Until the devices are known nobody can be answered: requests wait in the socket, where
            // init kept them while the service was away.
            datagrams = shell.socket.receive(BATCH), if shell.devices.borrow().is_some() => {
                shell.datagrams(datagrams?).await;
            }
            Ok(()) = shell.devices.changed() => {}
            answers = arp::answers(&shell.arp) => shell.arp_answers(answers).await,
            () = tokio::time::sleep_until(deadline) => shell.time_passed().await,
            Some(call) = called.recv() => shell.call(call).await,
            _ = status.tick() => service.status(&shell.status()),
        }
    }
    if let Err(error) = shell.store.commit() {
        tracing::warn!(%error, "leases not stored at the end");
    }
    Ok(())
}

/// Both clocks; the monotonic one counts from the start of the process.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Now {
        Now {
            unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            up_ms: i64::try_from(self.0.elapsed().as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn instant(self, up_ms: i64) -> Instant {
        // The millisecond after, because `now` rounds down.
        self.0 + Duration::from_millis(u64::try_from(up_ms).unwrap_or(0).saturating_add(1))
    }
}

struct Shell {
    socket: udp::Socket,
    frames: frame::Sender,
    /// Open only while a probe waits for an answer: a busy LAN has much ARP to say.
    arp: Option<arp::Socket>,
    devices: watch::Receiver<Option<BTreeMap<Name, Device>>>,
    clock: Clock,
    server: Server,
    store: Store,
    notifier: Notifier<Dhcp1>,
    disk_failed: bool,
    retry: Option<Instant>,
}

impl Shell {
    fn deadline(&self) -> Instant {
        let server = self.server.next_deadline().map(|up_ms| self.clock.instant(up_ms));
        // Long enough to sleep if there is nothing to wait for.
        let never = Instant::now() + Duration::from_secs(3600);
        [server, self.retry].into_iter().flatten().fold(never, Instant::min)
    }

    async fn datagrams(&mut self, datagrams: Vec<udp::Datagram>) {
        let mut actions = self.heed_answers();
        let now = self.clock.now();
        for datagram in datagrams {
            let Some(interface) = self.interface(datagram.index) else {
                tracing::debug!(index = datagram.index, "datagram from a device without a server");
                continue;
            };
            let arrival = Arrival { interface, broadcast: datagram.broadcast };
            actions.extend(self.server.receive(&datagram.payload, &arrival, now));
        }
        self.carry_out(actions).await;
    }

    fn interface(&self, index: u32) -> Option<Name> {
        let devices = self.devices.borrow();
        let mut devices = devices.iter().flatten();
        devices.find(|(_, device)| device.index == index).map(|(name, _)| name.clone())
    }

    fn device(&self, interface: &Name) -> Option<Device> {
        self.devices.borrow().as_ref()?.get(interface).copied()
    }

    async fn arp_answers(&mut self, answers: Vec<arp::Answer>) {
        let actions = self.heed(answers);
        self.carry_out(actions).await;
    }

    fn heed(&mut self, answers: Vec<arp::Answer>) -> Vec<Action> {
        let now = self.clock.now();
        let mut actions = Vec::new();
        for answer in answers {
            if let Some(interface) = self.interface(answer.index) {
                actions.extend(self.server.in_use(&interface, answer.address, answer.mac, now));
            }
        }
        actions
    }

    /// Before the time of a probe is taken to be over: on a busy machine its answer may have been
    /// here for long, and nobody has looked.
    fn heed_answers(&mut self) -> Vec<Action> {
        let answers = self.arp.as_ref().map(arp::Socket::waiting).unwrap_or_default();
        self.heed(answers)
    }

    async fn time_passed(&mut self) {
        let mut actions = self.heed_answers();
        actions.extend(self.server.tick(self.clock.now()));
        self.carry_out(actions).await;
    }

    async fn call(&mut self, call: bus::Call) {
        let now = self.clock.now();
        match call {
            bus::Call::Apply(part, done) => {
                let actions = self.server.configure(&part, now);
                self.carry_out(actions).await;
                // The caller may have given up waiting.
                let _ = done.send(());
            }
            bus::Call::Leases(answer) => {
                let leases = self.server.records(now).into_iter().map(|record| {
                    let reserved = self.server.is_reserved(&record);
                    bus::lease(record, reserved)
                });
                let _ = answer.send(leases.collect());
            }
        }
    }

    /// Stores first, then sends: what a client was told is on disk.
    async fn carry_out(&mut self, actions: Vec<Action>) {
        let mut replies = Vec::new();
        let mut changed = false;
        for action in actions {
            match action {
                Action::Save(lease) => self.store.save(lease),
                Action::Forget(address) => self.store.forget(address),
                Action::Send(reply) => replies.push(reply),
                Action::Probe { interface, address } => self.probe(&interface, address),
                Action::Changed => changed = true,
                Action::Notice(notice) => match notice.level() {
                    Level::Warn => tracing::warn!("{notice}"),
                    Level::Info => tracing::info!("{notice}"),
                    Level::Debug => tracing::debug!("{notice}"),
                },
            }
        }
        self.commit();
        for reply in replies {
            if let Err(error) = self.send(&reply) {
                tracing::warn!(interface = %reply.interface, to = ?reply.to, %error, "reply not sent");
            }
        }
        if !self.server.probing() {
            self.arp = None;
        }
        if changed {
            self.notifier.changed();
        }
    }

    /// Writes to disk. Leases are given also while the disk takes nothing: a LAN without
    /// addresses is worse than a lease that a power cut could forget.
    fn commit(&mut self) {
        let outcome = match self.store.commit() {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "the file of leases is put aside and written anew");
                self.store.begin_anew(self.server.records(self.clock.now()))
            }
            outcome => outcome,
        };
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut self.disk_failed) {
                    tracing::info!("leases are stored again");
                }
                self.retry = None;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.disk_failed, true) {
                    tracing::warn!(%error, "leases cannot be stored; they are kept in memory");
                }
                self.retry = Some(Instant::now() + RETRY);
            }
        }
    }

    fn probe(&mut self, interface: &Name, address: std::net::Ipv4Addr) {
        let Some(device) = self.device(interface) else { return };
        let sent = match &self.arp {
            Some(socket) => socket.probe(device, address),
            None => arp::Socket::open().and_then(|socket| {
                let sent = socket.probe(device, address);
                self.arp = Some(socket);
                sent
            }),
        };
        if let Err(error) = sent {
            tracing::warn!(%interface, %address, %error, "address cannot be probed");
        }
    }

    fn send(&self, reply: &Outgoing) -> std::io::Result<()> {
        use crate::core::Destination;
        let device = self.device(&reply.interface).ok_or(std::io::ErrorKind::NotConnected)?;
        match reply.to {
            Destination::Frame { mac, address } => {
                self.frames.send(device, reply.source, mac, address, &reply.payload)
            }
            Destination::Relay(address) => {
                self.socket.send(device, reply.source, address, udp::SERVER_PORT, &reply.payload)
            }
            Destination::Unicast(address) => {
                self.socket.send(device, reply.source, address, udp::CLIENT_PORT, &reply.payload)
            }
            Destination::Broadcast => {
                let everybody = std::net::Ipv4Addr::BROADCAST;
                self.socket.send(device, reply.source, everybody, udp::CLIENT_PORT, &reply.payload)
            }
        }
    }

    fn status(&self) -> String {
        let (leases, interfaces) = self.server.size();
        let counters = self.server.counters();
        let disk = if self.disk_failed { "; leases cannot be stored" } else { "" };
        format!(
            "{leases} leases on {interfaces} interfaces; {} messages, {} malformed{disk}",
            counters.requests, counters.malformed
        )
    }
}

#[cfg(test)]
mod tests;
