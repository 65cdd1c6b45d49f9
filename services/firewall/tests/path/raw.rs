//! Datagrams in fragments, made and sent by hand.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use portcullis_netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

/// A fragment header of IPv6 announces itself by this.
const FRAGMENT: u8 = 44;
const UDP: u8 = 17;

/// A UDP datagram.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub id: u32,
    pub payload: Vec<u8>,
}

/// One's complement sum over bytes.
fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Datagram {
    /// With a payload that differs in every part of it.
    pub fn new(source: SocketAddr, destination: SocketAddr, id: u32, length: usize) -> Self {
        let payload = (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
        Self { source, destination, id, payload: payload.collect() }
    }

    /// UDP header and payload, with the checksum.
    pub fn transport(&self) -> Vec<u8> {
        let length = (8 + self.payload.len()) as u16;
        let mut udp = Vec::new();
        udp.extend(self.source.port().to_be_bytes());
        udp.extend(self.destination.port().to_be_bytes());
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let mut all = octets(self.source.ip());
        all.extend(octets(self.destination.ip()));
        all.extend([0, UDP]);
        all.extend(length.to_be_bytes());
        all.extend(&udp);
        let checksum = match !sum(&all) {
            0 => 0xffff,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        udp
    }

    /// A fragment with these bytes of the transport's.
    pub fn fragment(&self, transport: &[u8], offset: usize, more: bool) -> Vec<u8> {
        let (source, destination) = (octets(self.source.ip()), octets(self.destination.ip()));
        let mut packet = Vec::new();
        if self.source.is_ipv4() {
            let word = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            packet.extend([0x45, 0]);
            packet.extend((20 + transport.len() as u16).to_be_bytes());
            packet.extend((self.id as u16).to_be_bytes());
            packet.extend(word.to_be_bytes());
            packet.extend([64, UDP, 0, 0]);
        } else {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((8 + transport.len() as u16).to_be_bytes());
            packet.extend([FRAGMENT, 64]);
        }
        packet.extend(source);
        packet.extend(destination);
        if self.source.is_ipv6() {
            packet.extend([UDP, 0]);
            packet.extend((offset as u16 | u16::from(more)).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
        }
        packet.extend(transport);
        packet
    }

    /// All fragments, with `size` bytes of payload each, in order.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let transport = self.transport();
        transport
            .chunks(size)
            .enumerate()
            .map(|(index, part)| {
                let offset = index * size;
                self.fragment(part, offset, offset + part.len() < transport.len())
            })
            .collect()
    }
}

/// Sends packets, with headers of their own, from a namespace.
pub fn send(namespace: &Namespace, to: IpAddr, packets: &[Vec<u8>]) -> Result<()> {
    namespace.enter(|| {
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        let address = SocketAddr::new(to, 0).into();
        for packet in packets {
            socket.send_to(packet, &address).context("raw socket")?;
        }
        Ok(())
    })
}

/// Waits for this payload; returns from where it came.
pub fn receive(socket: &UdpSocket, payload: &[u8]) -> Result<SocketAddr> {
    let mut buffer = vec![0; 65_536];
    let (length, peer) = socket.recv_from(&mut buffer).context("nothing came")?;
    ensure!(buffer[..length] == *payload, "{length} bytes that are not those that were sent");
    Ok(peer)
}
