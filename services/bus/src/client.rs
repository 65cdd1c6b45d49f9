//! Calling another service, and following its changes over its restarts.

use std::{future::Future, io::ErrorKind, path::Path, time::Duration};

use futures_util::StreamExt;
use tokio::{net::UnixStream, time::Instant};
use zbus::{Connection, proxy::Defaults};

use crate::{Error, OBJECT_PATH, Result, socket_path, transport::ToService};

/// How long one call may take before it fails.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause before a lost peer is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Pause before a peer is tried again whose queue of connections is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// Connects to `service`.
///
/// The socket exists from before the service's first start until shutdown, so this waits for a
/// service that is still starting instead of failing.
///
/// # Errors
/// [`Error::Failed`] with the socket's path if nobody made it, this process may not open it, or so
/// many connections wait there that it takes no more.
pub async fn connect(service: &str) -> Result<Connection> {
    connect_at(&socket_path(service), CALL_TIMEOUT).await
}

/// As [`connect`], to the socket at `path`, with calls that may take up to `call_timeout`: for the
/// few calls that carry out a long piece of work, and for tests.
///
/// # Errors
/// As [`connect`].
pub async fn connect_at(path: &Path, call_timeout: Duration) -> Result<Connection> {
    let end = Instant::now() + call_timeout;
    let failed = |e| Error::Failed(format!("cannot connect to {}: {e}", path.display()));
    let stream = loop {
        match UnixStream::connect(path).await {
            // A service that has not taken any for long. To wait for it in connect(2) would hold up
            // this process as well.
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            connected => break connected.map_err(failed)?,
        }
    };
    Ok(zbus::connection::Builder::socket(ToService(stream))
        .p2p()
        .method_timeout(call_timeout)
        .build()
        .await?)
}

/// Calls `read` with a connection to `service` at once and again after each of its `Changed`
/// signals; reconnects for as long as the caller lives.
///
/// `read` fetches what it needs through a proxy and hands it on; its error is logged and the
/// connection made anew.
pub async fn follow<P, F, Fut>(service: &'static str, mut read: F) -> std::convert::Infallible
where
    P: Defaults,
    F: FnMut(Connection) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let mut reported = false;
    loop {
        match follow_once::<P, F, Fut>(service, &mut read).await {
            Ok(()) => reported = false,
            Err(error) if !reported => {
                tracing::info!(service, %error, "bus peer lost, trying again");
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn follow_once<P, F, Fut>(service: &str, read: &mut F) -> Result<()>
where
    P: Defaults,
    F: FnMut(Connection) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let connection = connect(service).await?;
    let interface = P::INTERFACE
        .clone()
        .ok_or_else(|| Error::Failed(format!("{service}: proxy without interface")))?;
    let proxy = zbus::Proxy::new(&connection, "org.portcullis", OBJECT_PATH, interface).await?;
    // Subscribe first: a change between reading and subscribing would be lost.
    let mut changes = proxy.receive_signal("Changed").await?;
    loop {
        let mut changed = false;
        let mut reading = std::pin::pin!(read(connection.clone()));
        // Signals are taken while reading, too: once zbus's queue of them is full it takes nothing
        // more from the socket, not even the answer that `read` waits for. Any number of them is
        // one reason to read again.
        loop {
            tokio::select! {
                outcome = &mut reading => break outcome?,
                signal = changes.next() => match signal {
                    Some(_) => changed = true,
                    None => return Ok(()),
                },
            }
        }
        if !changed && changes.next().await.is_none() {
            return Ok(());
        }
    }
}
