//! Asking whether somebody uses an address: ARP probes (RFC 5227 section 2.1.1). Within a link
//! they find more than ICMP echo, which hosts are free to leave unanswered.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, recvfrom, sendto, socket,
};
use portcullis_model::MacAddress;
use tokio::io::{Interest, unix::AsyncFd};

use super::{devices::Device, link};

/// Everybody on the link.
const EVERYBODY: MacAddress = MacAddress([0xff; 6]);
/// ARP packets taken at once; the rest waits for the next round.
const BATCH: usize = 64;
/// About as many as the socket's buffer holds: a LAN that says more is not listened to for ever.
const MOST_WAITING: usize = 1024;

/// Somebody has an address.
pub(super) struct Answer {
    /// Device that it was heard on.
    pub(super) index: u32,
    pub(super) address: Ipv4Addr,
    pub(super) mac: MacAddress,
}

/// A packet(7) socket that hears the ARP of all devices.
pub(super) struct Socket(AsyncFd<OwnedFd>);

/// Waits for ARP packets; for ever if no probe is under way.
pub(super) async fn answers(socket: &Option<Socket>) -> Vec<Answer> {
    match socket {
        Some(socket) => socket.answers().await,
        None => std::future::pending().await,
    }
}

impl Socket {
    pub(super) fn open() -> std::io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        bind(socket.as_raw_fd(), &link::address(0, link::ARP, EVERYBODY)?)?;
        // SAFETY: the descriptor is open, is not registered elsewhere, and is owned by the AsyncFd
        // from here on, which deregisters it before it is closed.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(socket?))
    }

    /// Asks for `address`. The sender's address is 0.0.0.0, which fills nobody's cache.
    pub(super) fn probe(&self, device: Device, address: Ipv4Addr) -> std::io::Result<()> {
        let packet = ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: device.mac.0,
            sender_ipv4: [0; 4],
            target_mac: [0; 6],
            target_ipv4: address.octets(),
        };
        let to = link::address(device.index, link::ARP, EVERYBODY)?;
        sendto(self.0.as_raw_fd(), &packet.to_bytes(), &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    async fn answers(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let Ok(mut ready) = self.0.readable().await else { return answers };
        for _ in 0..BATCH {
            match ready.try_io(|socket| receive(socket.get_ref())) {
                Ok(Ok(answer)) => answers.extend(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "ARP socket");
                    break;
                }
                Err(_would_block) => break,
            }
        }
        answers
    }

    /// The answers that are here already.
    pub(super) fn waiting(&self) -> Vec<Answer> {
        let received = (0..MOST_WAITING).map_while(|_| receive(self.0.get_ref()).ok());
        received.flatten().collect()
    }
}

/// One packet; none if nobody says in it that he has an address.
fn receive(socket: &OwnedFd) -> std::io::Result<Option<Answer>> {
    let mut buffer = [0; 128];
    let (length, from) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)?;
    let index = from.map_or(0, |from| from.ifindex());
    Ok(buffer.get(..length).and_then(claim).and_then(|(address, mac)| {
        Some(Answer { index: u32::try_from(index).ok()?, address, mac })
    }))
}

/// Who claims which address. Requests count too: their sender has the address that it sends from.
fn claim(packet: &[u8]) -> Option<(Ipv4Addr, MacAddress)> {
    let arp = ArpPacketSlice::from_slice(packet).ok()?.to_packet().try_eth_ipv4().ok()?;
    let address = arp.sender_ipv4_addr();
    (!address.is_unspecified()).then_some((address, MacAddress(arp.sender_mac)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_from_replies_and_requests_but_not_from_probes() {
        let packet = |operation, sender_ipv4| {
            ArpEthIpv4Packet {
                operation,
                sender_mac: [2, 0, 0, 0, 0, 9],
                sender_ipv4,
                target_mac: [0; 6],
                target_ipv4: [10, 0, 0, 1],
            }
            .to_bytes()
        };
        let claimed = Some((Ipv4Addr::new(10, 0, 0, 9), MacAddress([2, 0, 0, 0, 0, 9])));
        assert_eq!(claim(&packet(ArpOperation::REPLY, [10, 0, 0, 9])), claimed);
        assert_eq!(claim(&packet(ArpOperation::REQUEST, [10, 0, 0, 9])), claimed);
        assert_eq!(claim(&packet(ArpOperation::REQUEST, [0; 4])), None);
        assert_eq!(claim(&packet(ArpOperation::REPLY, [10, 0, 0, 9])[..20]), None);
        assert_eq!(claim(&[]), None);
    }
}
