//! Datagrams. The socket is bound to all addresses; the kernel tells with each query which one it
//! came to (IP_PKTINFO), and the reply leaves from there: clients drop replies from elsewhere.

use std::{
    convert::Infallible,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};
use portcullis_runtime::{Service, SocketError};
use tokio::{io::Interest, net::UdpSocket};

use super::{Next, Result, Shared};
use crate::request::Transport;

/// Name of the socket in the service's manifest.
const NAME: &str = "dns-udp";

/// Bytes of a query at most: a name, OPT with options, and TSIG stay far below.
const MAX_QUERY: usize = 2048;

/// Takes the socket from init, or makes it outside the appliance.
pub(super) fn open(service: &mut Service) -> Result<UdpSocket> {
    let sockets = service.sockets();
    let socket = if sockets.has(NAME) { sockets.udp(NAME)? } else { bind()? };
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
        .map_err(|error| SocketError::Setup { name: NAME.to_owned(), source: error.into() })?;
    Ok(socket)
}

fn bind() -> std::result::Result<UdpSocket, SocketError> {
    std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))
        .and_then(|socket| {
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        })
        .map_err(|source| SocketError::Setup { name: NAME.to_owned(), source })
}

/// A query's way here, which the reply goes back.
#[derive(Clone, Copy)]
struct Path {
    client: SocketAddrV4,
    /// Address of ours that it came to.
    own: Ipv4Addr,
    /// Device that it came by.
    device: i32,
}

/// Answers datagrams until the task is dropped.
pub(super) async fn serve(shared: Arc<Shared>, socket: UdpSocket) -> Infallible {
    let socket = Arc::new(socket);
    let mut buffer = [0; MAX_QUERY];
    loop {
        let (length, path) = match receive(&socket, &mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "UDP receive");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Some(path) = path else { continue };
        let client = IpAddr::V4(*path.client.ip());
        if !shared.forwarder().admits(client, path.own.into()) {
            continue;
        }
        match shared.receive(buffer.get(..length).unwrap_or_default(), client, Transport::Udp) {
            Next::Drop => {}
            Next::Send(reply) => send(&socket, &reply, path).await,
            Next::Wait(request, place) => {
                let (shared, socket) = (shared.clone(), socket.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let reply = shared.answer(&request).await;
                    send(&socket, &reply, path).await;
                });
            }
        }
    }
}

/// Waits for a datagram. Without a path it is none to answer: too long, or not sent to one
/// address alone.
async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Option<Path>)> {
    socket
        .async_io(Interest::READABLE, || {
            let mut control = nix::cmsg_space!(libc::in_pktinfo);
            let mut parts = [IoSliceMut::new(buffer)];
            let message = recvmsg::<SockaddrIn>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::empty(),
            )?;
            let info = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
                _ => None,
            });
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            let path = match (message.address, info) {
                // Broadcast and multicast: the address in the packet is not the one that we have.
                (Some(client), Some(info))
                    if whole && info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr =>
                {
                    Some(Path {
                        client: client.into(),
                        own: Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)),
                        device: info.ipi_ifindex,
                    })
                }
                _ => None,
            };
            Ok((message.bytes, path))
        })
        .await
}

/// Sends a reply from the address that was asked, by the device that the query came by.
async fn send(socket: &UdpSocket, reply: &[u8], path: Path) {
    let info = libc::in_pktinfo {
        ipi_ifindex: path.device,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(path.own).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let sent = socket
        .async_io(Interest::WRITABLE, || {
            sendmsg(
                socket.as_raw_fd(),
                &[IoSlice::new(reply)],
                &[ControlMessage::Ipv4PacketInfo(&info)],
                MsgFlags::empty(),
                Some(&SockaddrIn::from(path.client)),
            )
            .map_err(io::Error::from)
        })
        .await;
    if let Err(error) = sent {
        tracing::debug!(client = %path.client, %error, "UDP send");
    }
}
