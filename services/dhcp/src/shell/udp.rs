//! The socket on port 67, with the interface and the destination of what comes in.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::Context;
use nix::{
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};
use portcullis_runtime::Sockets;
use tokio::io::Interest;

use super::devices::Device;

/// Port of servers and relay agents.
pub(super) const SERVER_PORT: u16 = 67;
/// Port of clients.
pub(super) const CLIENT_PORT: u16 = 68;
/// Name of the socket in the service's manifest.
const NAME: &str = "dhcp";
/// A DHCP message fits into a frame; what does not is none.
const BUFFER: usize = 1500;

/// A datagram with how it came.
pub(super) struct Datagram {
    pub(super) payload: Vec<u8>,
    /// Device that it came by.
    pub(super) index: u32,
    pub(super) broadcast: bool,
}

/// UDP, 0.0.0.0:67.
pub(super) struct Socket(tokio::net::UdpSocket);

/// The socket that init handed over; on a development machine, one made here.
pub(super) fn take_or_bind(sockets: &mut Sockets) -> anyhow::Result<tokio::net::UdpSocket> {
    if sockets.has(NAME) {
        return Ok(sockets.udp(NAME)?);
    }
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT);
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind UDP {address}"))?;
    socket.set_nonblocking(true)?;
    Ok(tokio::net::UdpSocket::from_std(socket)?)
}

impl Socket {
    pub(super) fn new(socket: tokio::net::UdpSocket) -> anyhow::Result<Self> {
        socket.set_broadcast(true).context("SO_BROADCAST")?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).context("IP_PKTINFO")?;
        Ok(Self(socket))
    }

    /// Waits for a datagram and takes what else there is, up to `limit`.
    pub(super) async fn receive(&self, limit: usize) -> std::io::Result<Vec<Datagram>> {
        let mut datagrams = Vec::new();
        while datagrams.is_empty() {
            self.0.readable().await?;
            for _ in 0..limit {
                match self.0.try_io(Interest::READABLE, || self.receive_one()) {
                    Ok(datagram) => datagrams.extend(datagram),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    // An ICMP error for something that we sent.
                    Err(error) => tracing::debug!(%error, "UDP socket"),
                }
            }
        }
        Ok(datagrams)
    }

    /// One datagram; none if it is not one that can be answered.
    fn receive_one(&self) -> std::io::Result<Option<Datagram>> {
        let mut payload = vec![0; BUFFER];
        let mut slices = [IoSliceMut::new(&mut payload)];
        let mut space = nix::cmsg_space!(libc::in_pktinfo);
        let received = recvmsg::<SockaddrIn>(
            self.0.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let length = received.bytes;
        let whole = !received.flags.contains(MsgFlags::MSG_TRUNC);
        let info = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
            _ => None,
        });
        let Some(info) = info.filter(|_| whole) else { return Ok(None) };
        payload.truncate(length);
        Ok(Some(Datagram {
            payload,
            index: u32::try_from(info.ipi_ifindex).unwrap_or(0),
            // What was not sent to the local address that the kernel would answer from was sent
            // to a broadcast address.
            broadcast: info.ipi_addr.s_addr != info.ipi_spec_dst.s_addr,
        }))
    }

    /// Sends by `device` from `source`.
    pub(super) fn send(
        &self,
        device: Device,
        source: Ipv4Addr,
        to: Ipv4Addr,
        port: u16,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: device.index.cast_signed(),
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        sendmsg(
            self.0.as_raw_fd(),
            &[IoSlice::new(payload)],
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrIn::from(SocketAddrV4::new(to, port))),
        )?;
        Ok(())
    }
}
