//! Sockets, clocks and the bus around the [`Forwarder`].

mod bus;
mod exchange;
mod lookup;
mod tcp;
mod udp;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use portcullis_bus::dns::Dns1;
use portcullis_model::part::DnsPart;
use portcullis_runtime::{Service, fetch_part};
use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    forwarder::{Forwarder, Step},
    limits::{Limit, Place},
    request::{Request, Transport},
    upstreams::STALE_AFTER,
};
use lookup::Lookups;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Queries that wait for upstreams at a time, in all and of one client.
const WAITING: (usize, usize) = (512, 128);

/// Attempts at upstreams at a time: each has a socket, of which a process has 1024.
const ATTEMPTS: usize = 600;

/// How long the first answers wait for the services that names and upstreams come from.
const PATIENCE: Duration = Duration::from_secs(3);

/// State shared by the tasks of this process, which all run on one thread.
pub(crate) struct Shared {
    forwarder: Mutex<Forwarder>,
    lookups: Lookups,
    waiting: Limit,
    attempts: Semaphore,
    /// The set of upstreams, or their health, changed.
    upstreams_changed: Notify,
    /// Peers on the bus are to be told.
    peers_to_tell: Notify,
    /// From whom names and upstreams are known.
    heard: watch::Sender<Heard>,
}

/// Who has told what it knows at least once since the start.
#[derive(Clone, Copy, Default)]
struct Heard {
    network: bool,
    dhcp: bool,
}

/// What a socket does with a message.
enum Next {
    Drop,
    Send(Vec<u8>),
    Wait(Request, Place),
}

impl Shared {
    fn new(forwarder: Forwarder) -> Arc<Self> {
        Arc::new(Self {
            forwarder: Mutex::new(forwarder),
            lookups: Lookups::default(),
            waiting: Limit::new(WAITING.0, WAITING.1),
            attempts: Semaphore::new(ATTEMPTS),
            upstreams_changed: Notify::new(),
            peers_to_tell: Notify::new(),
            heard: watch::Sender::default(),
        })
    }

    /// Locked only between two waits: no task holds it over an `await`.
    fn forwarder(&self) -> MutexGuard<'_, Forwarder> {
        self.forwarder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_of_upstreams_changed(&self, changed: bool) {
        if changed {
            self.upstreams_changed.notify_one();
            self.peers_to_tell.notify_one();
        }
    }

    /// Waits until there is an answer to every question that can be answered, or for [`PATIENCE`]:
    /// what is asked meanwhile waits in the sockets. Too early a "no such name" or failure would be
    /// taken for true, and the first one even be kept.
    async fn know(&self) {
        let mut heard = self.heard.subscribe();
        let all = heard.wait_for(|heard| heard.network && heard.dhcp);
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let Heard { network, dhcp } = *self.heard.borrow();
            tracing::warn!(network, dhcp, "answering without having heard from all");
        }
    }

    fn receive(&self, bytes: &[u8], client: IpAddr, transport: Transport) -> Next {
        match self.forwarder().receive(bytes, client, transport, Instant::now()) {
            Step::Drop => Next::Drop,
            Step::Reply(reply) => Next::Send(reply),
            // Over the limit nothing is said: the client asks again when it is calmer.
            Step::Forward(request) => match self.waiting.take(client) {
                Some(place) => Next::Wait(request, place),
                None => Next::Drop,
            },
        }
    }

    /// The reply to a request that needs an upstream.
    async fn answer(self: &Arc<Self>, request: &Request) -> Vec<u8> {
        let lookup = self.lookup(&request.question);
        tokio::pin!(lookup);
        let outcome = match tokio::time::timeout(STALE_AFTER, &mut lookup).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let old = self.forwarder().old_reply(request, Instant::now());
                match old {
                    // The lookup goes on for those who ask next.
                    Some(reply) => return reply,
                    None => lookup.await,
                }
            }
        };
        self.forwarder().finish(request, &outcome, Instant::now())
    }
}

/// Runs the service until it is asked to stop.
pub(crate) async fn serve(mut service: Service) -> Result<()> {
    let udp = udp::open(&mut service)?;
    let tcp = tcp::open(&mut service)?;
    let part: DnsPart = fetch_part("dns").await?;
    let shared = Shared::new(Forwarder::new(part)?);
    let notifier = service.serve_bus(Dns1(Arc::new(bus::Api(shared.clone()))))?;
    tokio::spawn(bus::tell_peers(shared.clone(), notifier));
    tokio::spawn(bus::follow_network(shared.clone()));
    tokio::spawn(bus::follow_dhcp(shared.clone()));
    shared.know().await;
    tokio::spawn(lookup::probe(shared.clone()));
    tokio::spawn(udp::serve(shared.clone(), udp));
    tokio::spawn(tcp::serve(shared, tcp));
    service.ready("answering");
    service.shutdown().await;
    Ok(())
}
