//! Packet sockets (packet(7)): frames to and from one device, before it has an address.

use std::{io, mem};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// Longest frame taken: DHCP messages are at most 1,500 bytes of IP.
const LONGEST_FRAME: usize = 2048;

/// Frames taken at once: about as many as the socket's buffer holds.
const MOST_WAITING: usize = 256;

// Classic BPF (linux/filter.h).
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_INDEX_IP_HEADER: u16 = 0xb1;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT`: the NIC took a VLAN tag off the frame.
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;

/// A packet socket of one device.
#[derive(Debug)]
pub struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// A socket that also receives ARP packets and UDP datagrams to port 68.
    ///
    /// It hears them before any packet filter of the kernel: whether the firewall lets answers in
    /// does not matter.
    ///
    /// # Errors
    /// What the kernel says: no permission, no such device, device down.
    pub fn listening(index: u32) -> io::Result<Self> {
        let every_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        Self::open(index, every_protocol)
    }

    /// A socket that only sends.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sending(index: u32) -> io::Result<Self> {
        Self::open(index, 0)
    }

    fn open(index: u32, protocol: u16) -> io::Result<Self> {
        // Protocol 0 receives nothing until bound, so no frame comes in unfiltered.
        let socket = Socket::new(
            Domain::PACKET,
            Type::RAW.nonblocking().cloexec(),
            Some(Protocol::from(0)),
        )?;
        socket.attach_filter(&filter())?;
        socket.bind(&address(index, protocol)?)?;
        // SAFETY: a Socket owns its descriptor and keeps the same one until it is dropped.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Sends a frame with its Ethernet header. A full queue is an error, too: the caller repeats
    /// what goes unanswered anyway.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.get_ref().send(frame).map(drop)
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// What the kernel says, such as that the device went down.
    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        self.0.async_io(Interest::READABLE, read).await
    }

    /// The frames that are here already.
    pub fn waiting(&self) -> Vec<Vec<u8>> {
        (0..MOST_WAITING).map_while(|_| read(self.0.get_ref()).ok()).collect()
    }
}

fn read(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; LONGEST_FRAME];
    let length = io::Read::read(&mut socket, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// ARP, or an unfragmented UDP datagram to port 68, without a VLAN tag.
fn filter() -> [SockFilter; 14] {
    let dhcp_port = u32::from(super::frame::CLIENT_PORT);
    [
        SockFilter::new(LOAD_BYTE, 0, 0, VLAN_TAG_PRESENT),
        SockFilter::new(JUMP_EQUAL, 0, 11, 0),
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_EQUAL, 8, 0, 0x0806),
        SockFilter::new(JUMP_EQUAL, 0, 8, 0x0800),
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(JUMP_EQUAL, 0, 6, 17),
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(JUMP_SET, 4, 0, 0x1fff),
        SockFilter::new(LOAD_INDEX_IP_HEADER, 0, 0, 14),
        SockFilter::new(LOAD_HALF_INDEXED, 0, 0, 16),
        SockFilter::new(JUMP_EQUAL, 0, 1, dhcp_port),
        SockFilter::new(RETURN, 0, 0, 0x0004_0000),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is the address type of AF_PACKET, which is set below.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = u32::try_from(mem::size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage holds an initialised sockaddr_ll of this length.
    Ok(unsafe { SockAddr::new(storage, length) })
}
