//! Serving an interface to many peers, each with a connection of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::UnixListener,
    sync::{Notify, Semaphore},
};
use zbus::{Connection, Guid, OwnedGuid, object_server::Interface};

use crate::{OBJECT_PATH, transport::FromCaller};

/// Bytes of the longest message from a caller: the longest configuration document, whose parts grow
/// to several times its size where they spell out what it left to the defaults.
const LONGEST_MESSAGE: usize = 16 << 20;

/// Connections of one user at a time. Services have a few each; a call of `pctl` has one.
const MOST_CONNECTIONS: usize = 64;

/// Calls of one user under way at a time; further ones wait.
const MOST_CALLS: usize = 16;

/// How long a caller may take to begin, as far as zbus's handshake goes.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Emission of the `Changed` signal that every interface has.
pub trait Signals {
    /// Tells the peer behind `connection` that something changed.
    fn emit_changed(connection: &Connection) -> impl Future<Output = zbus::Result<()>> + Send;
}

/// An object for callers that may ask but not order.
pub trait Restrict {
    /// The same object, whose methods of control answer that they are denied.
    fn restricted(&self) -> Self;
}

/// Who may call.
#[derive(Clone, Debug)]
pub enum Callers {
    /// Users with these ids (and root, which is init).
    Only(BTreeSet<u32>),
    /// Whoever can open the socket: a run outside the appliance.
    SocketModeDecides,
}

impl Callers {
    fn allow(&self, uid: u32) -> bool {
        match self {
            Self::Only(uids) => uid == 0 || uids.contains(&uid),
            Self::SocketModeDecides => true,
        }
    }
}

/// One interface, served on one listening socket. What a caller may cost is bounded: length of a
/// message, number of connections and of calls under way, time for the handshake.
pub struct Server<I> {
    objects: Objects<I>,
    callers: Callers,
    peers: Peers,
    longest_message: usize,
    most_calls: usize,
    handshake: Duration,
}

/// The object for a caller with this user id.
type Objects<I> = Box<dyn Fn(u32) -> I + Send + Sync>;

/// The open connections, by a number of ours: a peer-to-peer connection has no unique name.
type Peers = Arc<Mutex<BTreeMap<u64, Peer>>>;

struct Peer {
    uid: u32,
    /// Wakes the connection's task to tell its peer of a change.
    changes: Arc<Notify>,
}

impl<I: Interface + Signals + Clone> Server<I> {
    /// A server for `object`, open to `callers`.
    pub fn new(object: I, callers: Callers) -> Self {
        Self::per_caller(move |_| object.clone(), callers)
    }

    /// A server for `object`, open to `callers`, of whom only `controllers` may give orders.
    pub fn with_controllers(object: I, callers: Callers, controllers: Callers) -> Self
    where
        I: Restrict,
    {
        let of = move |uid| match controllers.allow(uid) {
            true => object.clone(),
            false => object.restricted(),
        };
        Self::per_caller(of, callers)
    }

    /// A server whose object knows its caller: `object` is asked for one with the user id of each
    /// that connects, so that what is allowed may differ between them.
    pub fn per_caller(object: impl Fn(u32) -> I + Send + Sync + 'static, callers: Callers) -> Self {
        Self {
            objects: Box::new(object),
            callers,
            peers: Peers::default(),
            longest_message: LONGEST_MESSAGE,
            most_calls: MOST_CALLS,
            handshake: HANDSHAKE,
        }
    }

    /// The same with another limit for messages of callers, in bytes; 16 MiB by default.
    pub fn with_longest_message(self, bytes: usize) -> Self {
        Self { longest_message: bytes, ..self }
    }

    /// The same with another limit for the calls of a user that have no answer yet, or none that it
    /// has read; 16 by default.
    pub fn with_most_calls(self, calls: usize) -> Self {
        Self { most_calls: calls, ..self }
    }

    /// The same with another limit for the time of the handshake; 10 s by default.
    pub fn with_handshake(self, limit: Duration) -> Self {
        Self { handshake: limit, ..self }
    }

    /// What tells all connected peers of a change.
    pub fn notifier(&self) -> Notifier<I> {
        Notifier { peers: self.peers.clone(), object: std::marker::PhantomData }
    }

    /// Accepts peers until the task is dropped.
    pub async fn run(self, listener: UnixListener) -> std::convert::Infallible {
        let guid = OwnedGuid::from(Guid::generate());
        let mut number = 0_u64;
        let mut calls: BTreeMap<u32, Arc<Semaphore>> = BTreeMap::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "bus accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match stream.peer_cred() {
                Ok(peer) if self.callers.allow(peer.uid()) => {
                    let uid = peer.uid();
                    let peers = self.peers.clone();
                    if lock(&peers).values().filter(|peer| peer.uid == uid).count()
                        >= MOST_CONNECTIONS
                    {
                        tracing::warn!(uid, pid = peer.pid(), "too many bus connections");
                        continue;
                    }
                    number += 1;
                    let object = (self.objects)(uid);
                    let guid = guid.clone();
                    // Known before it can ask anything: what changes after an answer is told.
                    let changes = Arc::new(Notify::new());
                    lock(&peers).insert(number, Peer { uid, changes: changes.clone() });
                    let calls = calls
                        .entry(uid)
                        .or_insert_with(|| Arc::new(Semaphore::new(self.most_calls)))
                        .clone();
                    let transport =
                        FromCaller { stream, uid, longest: self.longest_message, calls };
                    let handshake = self.handshake;
                    tokio::spawn(async move {
                        let connected = connect(transport, guid, object);
                        let outcome = match tokio::time::timeout(handshake, connected).await {
                            Ok(Ok(connection)) => serve_peer::<I>(&connection, &changes).await,
                            Ok(Err(error)) => Err(error),
                            Err(_) => Err(zbus::Error::Handshake("it takes too long".to_owned())),
                        };
                        if let Err(error) = outcome {
                            tracing::debug!(%error, "bus peer");
                        }
                        lock(&peers).remove(&number);
                    });
                }
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), pid = peer.pid(), "bus caller refused")
                }
                Err(error) => tracing::warn!(%error, "bus peer without credentials refused"),
            }
        }
    }
}

async fn connect<I: Interface>(
    transport: FromCaller,
    guid: OwnedGuid,
    object: I,
) -> zbus::Result<Connection> {
    zbus::connection::Builder::socket(transport)
        .server(guid)
        .p2p()
        .serve_at(OBJECT_PATH, object)
        .build()
        .await
}

async fn serve_peer<I: Signals>(connection: &Connection, changes: &Notify) -> zbus::Result<()> {
    // zbus reads in a task of its own; this one tells of changes until the connection ends.
    let mut closed = std::pin::pin!(connection.closed());
    loop {
        tokio::select! {
            () = &mut closed => return Ok(()),
            () = changes.notified() => I::emit_changed(connection).await?,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells every connected peer that something behind the getters changed. Cheap to clone.
pub struct Notifier<I> {
    peers: Peers,
    object: std::marker::PhantomData<fn() -> I>,
}

impl<I> Clone for Notifier<I> {
    fn clone(&self) -> Self {
        Self { peers: self.peers.clone(), object: std::marker::PhantomData }
    }
}

impl<I> Notifier<I> {
    /// Has `Changed` emitted to all peers. Waits for none of them: one that takes nothing more from
    /// its socket is told when it does, once for all changes until then.
    pub fn changed(&self) {
        for peer in lock(&self.peers).values() {
            peer.changes.notify_one();
        }
    }
}
