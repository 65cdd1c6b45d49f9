//! Connections: who may have one, how many, how long, and TLS and HTTP on top.
//!
//! | limit | value | against |
//! |---|---|---|
//! | connections | 96, 24 of one address | memory of the box, one greedy client |
//! | TLS handshake | 10 s | clients that connect and say nothing |
//! | request head | 10 s, 16 KiB | slow loris, endless headers |
//! | connection | 2 min, then closed in good order | clients that read or send slowly |
//! | HTTP/2 streams | 16 of a connection | one connection as many |
//! | HTTP/2 windows | 64 KiB | uploads, which nothing here takes |

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::access::Access;

/// See the table above.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections of one address.
    pub connections_of_address: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for a request's head.
    pub request_head: Duration,
    /// Time for a connection as a whole.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 96,
            connections_of_address: 24,
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            connection: Duration::from_secs(120),
        }
    }
}

/// Bytes of a request's head.
const HEAD_BYTES: u32 = 16 * 1024;
/// HTTP/2 streams of one connection.
const STREAMS: u32 = 16;
/// Bytes that a client may send of a body before somebody reads it; what the protocol begins with
/// (RFC 9113 section 6.9.2).
const WINDOW: u32 = 65_535;
/// Time for what is under way when a connection's time is over.
const GRACE: Duration = Duration::from_secs(5);
/// Refused connections are told of once in this time.
const REFUSED_PERIOD: Duration = Duration::from_secs(60);
/// Pause after the kernel would not accept (no descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The HTTPS server.
pub struct Server {
    acceptor: TlsAcceptor,
    access: Access,
    router: Router,
    limits: Limits,
    open: Open,
}

impl Server {
    /// A server with the usual limits.
    pub fn new(tls: Arc<ServerConfig>, access: Access, router: Router) -> Self {
        let limits = Limits::default();
        Self { acceptor: TlsAcceptor::from(tls), access, router, limits, open: Open::default() }
    }

    /// The same server with other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Accepts connections until the task is dropped.
    pub async fn run(self, listener: TcpListener) -> Infallible {
        let mut refused = Refused::default();
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !self.access.allows(peer) {
                if let Some(count) = refused.one_more(Instant::now()) {
                    tracing::warn!(%peer, count, "connections from outside the networks refused");
                }
                continue;
            }
            let Some(place) = self.open.take(peer, &self.limits) else {
                tracing::debug!(%peer, "too many connections");
                continue;
            };
            let (acceptor, router, limits) =
                (self.acceptor.clone(), self.router.clone(), self.limits);
            tokio::spawn(async move {
                serve(stream, acceptor, router, limits).await;
                drop(place);
            });
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, router: Router, limits: Limits) {
    let stream = match timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake takes too long"),
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    // ALPN has decided; guessing from the first bytes would wait for them without a limit.
    let mut builder = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => builder.http2_only(),
        _ => builder.http1_only(),
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head)
        .max_buf_size(HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(HEAD_BYTES);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let outcome = match timeout(limits.connection, connection.as_mut()).await {
        Ok(outcome) => outcome,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            match timeout(GRACE, connection).await {
                Ok(outcome) => outcome,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection");
    }
}

/// Connections that were refused and not told of yet: the journal is not for strangers to fill.
#[derive(Default)]
struct Refused {
    count: u64,
    told: Option<Instant>,
}

impl Refused {
    /// How many to tell of, if it is time to.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < REFUSED_PERIOD) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// Open connections by address.
#[derive(Clone, Default)]
struct Open {
    counts: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

impl Open {
    fn take(&self, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = counts.values().sum();
        let of_peer = counts.get(&peer).copied().unwrap_or_default();
        if total >= limits.connections || of_peer >= limits.connections_of_address {
            return None;
        }
        counts.insert(peer, of_peer + 1);
        Some(Place { open: self.clone(), peer })
    }
}

/// One connection's place among the open ones, free again when dropped.
struct Place {
    open: Open,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_connections_are_told_of_now_and_then() {
        let mut refused = Refused::default();
        let begin = Instant::now();
        assert_eq!(refused.one_more(begin), Some(1));
        for second in 1..60 {
            assert_eq!(refused.one_more(begin + Duration::from_secs(second)), None);
        }
        assert_eq!(refused.one_more(begin + REFUSED_PERIOD), Some(60));
    }
}
