//! Connections (RFC 7766): several queries at a time, answered as they get ready; idle ones are
//! closed, and those that take no replies.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use portcullis_runtime::{Service, SocketError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::{Next, Result, Shared};
use crate::{limits::Limit, request::Transport};

/// Name of the socket in the service's manifest.
const NAME: &str = "dns-tcp";

/// Connections at a time, in all and of one client.
const CONNECTIONS: (usize, usize) = (64, 8);

/// Queries of one connection that are worked on at a time; more wait in the socket.
const PIPELINED: usize = 16;

/// A connection without a query for so long is closed (RFC 7766 section 6.2.3 wants seconds).
const IDLE: Duration = Duration::from_secs(10);

/// Bytes that a waiting reply costs besides its own.
const OVERHEAD: usize = 256;

/// Bytes of replies that wait for their client, two of the longest: who leaves more lying is closed,
/// since all connections together must not take the memory of the service.
const UNSENT: usize = 2 * (65_535 + OVERHEAD);

/// A client must take a reply within this time.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// Takes the socket from init, or makes it outside the appliance.
pub(super) fn open(service: &mut Service) -> Result<TcpListener> {
    let sockets = service.sockets();
    Ok(if sockets.has(NAME) { sockets.tcp(NAME)? } else { bind()? })
}

fn bind() -> std::result::Result<TcpListener, SocketError> {
    std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53))
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .map_err(|source| SocketError::Setup { name: NAME.to_owned(), source })
}

/// Accepts connections until the task is dropped.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) -> Infallible {
    let connections = Limit::new(CONNECTIONS.0, CONNECTIONS.1);
    loop {
        let accepted = listener.accept().await.and_then(|(stream, peer)| {
            let own = stream.local_addr()?.ip();
            Ok((stream, peer.ip(), own))
        });
        match accepted {
            Ok((stream, client, own)) => {
                if !shared.forwarder().admits(client, own) {
                    continue;
                }
                let Some(place) = connections.take(client) else { continue };
                let shared = shared.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = connection(shared, stream, client).await {
                        tracing::debug!(%client, %error, "TCP");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "TCP accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, client: IpAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, writer) = stream.into_split();
    let (outbox, to_send) = Outbox::new();
    let sender = tokio::spawn(send_all(writer, to_send));
    let free = Arc::new(Semaphore::new(PIPELINED));
    // Ends with the client's end, an idle time, or a sender that gave up.
    while let Ok(Ok(query)) = timeout(IDLE, read_message(&mut reader)).await {
        let Ok(permit) = free.clone().acquire_owned().await else { break };
        match shared.receive(&query, client, Transport::Tcp) {
            Next::Drop => break,
            Next::Send(reply) => {
                if !outbox.put(reply) {
                    break;
                }
            }
            Next::Wait(request, place) => {
                let (shared, outbox) = (shared.clone(), outbox.clone());
                tokio::spawn(async move {
                    let (_place, _permit) = (place, permit);
                    outbox.put(shared.answer(&request).await);
                });
            }
        }
    }
    drop(outbox);
    sender.await.unwrap_or(Ok(()))
}

/// A reply, and its place among those that wait.
type Unsent = (Vec<u8>, OwnedSemaphorePermit);

/// Where the replies of a connection wait for their client.
#[derive(Clone)]
struct Outbox {
    /// Bounded by `room`.
    replies: mpsc::UnboundedSender<Unsent>,
    room: Arc<Semaphore>,
}

impl Outbox {
    fn new() -> (Self, mpsc::UnboundedReceiver<Unsent>) {
        let (replies, to_send) = mpsc::unbounded_channel();
        (Self { replies, room: Arc::new(Semaphore::new(UNSENT)) }, to_send)
    }

    /// Takes a reply; from the first one that finds no room on none, so that the connection ends
    /// rather than leaves a query without its reply.
    fn put(&self, reply: Vec<u8>) -> bool {
        let cost = u32::try_from(reply.len() + OVERHEAD).unwrap_or(u32::MAX);
        match self.room.clone().try_acquire_many_owned(cost) {
            Ok(place) => self.replies.send((reply, place)).is_ok(),
            Err(_) => {
                self.room.close();
                false
            }
        }
    }
}

/// One message behind its length (RFC 1035 section 4.2.2).
async fn read_message(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = reader.read_u16().await?;
    let mut message = vec![0; length.into()];
    reader.read_exact(&mut message).await?;
    Ok(message)
}

async fn send_all(
    mut writer: OwnedWriteHalf,
    mut replies: mpsc::UnboundedReceiver<Unsent>,
) -> io::Result<()> {
    while let Some((reply, _place)) = replies.recv().await {
        let Ok(length) = u16::try_from(reply.len()) else { continue };
        // In one piece, so that the length does not travel in a segment of its own.
        let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
        timeout(SEND_LIMIT, writer.write_all(&framed)).await.map_err(io::Error::other)??;
    }
    writer.shutdown().await
}
