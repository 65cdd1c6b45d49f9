//! Unicast to a client that does not answer ARP yet (RFC 2131 section 4.1): the kernel would ask
//! for its hardware address, so the packet is given to the link layer with it.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::Context;
use etherparse::PacketBuilder;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use portcullis_model::MacAddress;

use super::{devices::Device, link, udp};

/// Hops of what we send; it does not leave the link.
const TTL: u8 = 64;

/// A packet(7) socket that receives nothing.
pub(super) struct Sender(OwnedFd);

impl Sender {
    pub(super) fn new() -> anyhow::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Protocol 0: only for sending.
        socket(AddressFamily::Packet, SockType::Datagram, flags, None)
            .map(Self)
            .context("packet socket (capability NET_RAW)")
    }

    /// Sends a UDP datagram from `source`, port 67, to `address`, port 68, at `mac`.
    pub(super) fn send(
        &self,
        device: Device,
        source: Ipv4Addr,
        mac: MacAddress,
        address: Ipv4Addr,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let builder = PacketBuilder::ipv4(source.octets(), address.octets(), TTL)
            .udp(udp::SERVER_PORT, udp::CLIENT_PORT);
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, payload).map_err(std::io::Error::other)?;
        let to = link::address(device.index, link::IPV4, mac)?;
        sendto(self.0.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}
