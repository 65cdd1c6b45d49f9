//! Pings of all sizes, in both families and, by their answers, in both directions.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use portcullis_site::{PAIRS, PATIENCE, Site};

/// Largest payload of an ICMP echo over IPv4; over IPv6 the same is taken.
const LARGEST: usize = 65_507;

/// A socket for echo requests.
struct Echo {
    socket: Socket,
    to: SocketAddr,
    sequence: u16,
}

impl Echo {
    fn new(to: IpAddr) -> Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_recv_buffer_size(1 << 20)?;
        socket.set_send_buffer_size(1 << 20)?;
        if to.is_ipv4() {
            // A sender that leaves it to the routers: no path-MTU discovery.
            let value = libc::IP_PMTUDISC_DONT;
            // SAFETY: the option takes an int, which lives through the call.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    (&raw const value).cast(),
                    size_of_val(&value) as libc::socklen_t,
                )
            };
            ensure!(result == 0, std::io::Error::last_os_error());
        }
        Ok(Self { socket, to: SocketAddr::new(to, 0), sequence: 0 })
    }

    /// Sends an echo request with `size` bytes and waits for its answer.
    fn ping(&mut self, size: usize) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let (request, reply, header) = if self.to.is_ipv4() { (8, 0, 20) } else { (128, 129, 0) };
        let mut message = vec![request, 0, 0, 0, 0x50, 0x43];
        message.extend(self.sequence.to_be_bytes());
        message.extend((0..size).map(|n| (n % 251) as u8));
        if self.to.is_ipv4() {
            let checksum = checksum(&message);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        self.socket.send_to(&message, &self.to.into()).context("send")?;
        let mut buffer = vec![0_u8; 66_000];
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let read = (&self.socket).read_into(&mut buffer);
            let length = match read {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            let answer = &buffer[header.min(length)..length];
            if answer.len() >= 8 && answer[0] == reply && answer[4..8] == message[4..8] {
                ensure!(answer[8..] == message[8..], "{size}: other bytes came back");
                return Ok(());
            }
        }
        bail!("{size} bytes to {}: no answer", self.to.ip())
    }
}

trait ReadInto {
    fn read_into(self, buffer: &mut [u8]) -> std::io::Result<usize>;
}

impl ReadInto for &Socket {
    fn read_into(mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        std::io::Read::read(&mut self, buffer)
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn ping_all(site: &mut Site, sizes: &[usize]) -> Result<()> {
    for (_, server) in PAIRS {
        let failure = site.host.enter(|| {
            let mut echo = Echo::new(server)?;
            for size in sizes {
                echo.ping(*size)?;
            }
            Ok(())
        });
        failure.with_context(|| site.counters().unwrap_or_default())?;
    }
    Ok(())
}

/// Every hundredth size, and all around those at which another fragment begins.
fn sample() -> Vec<usize> {
    let near = |size: usize, unit: usize| {
        let rest = (size + 8) % unit;
        rest < 2 || rest + 2 > unit
    };
    (0..=LARGEST)
        .filter(|size| {
            *size < 64
                || size % 100 == 7
                || near(*size, 1480)
                || near(*size, 1448)
                || size + 4 > LARGEST
        })
        .collect()
}

#[test]
fn pings_of_a_sample_of_sizes_are_answered() -> Result<()> {
    ping_all(&mut Site::new("")?, &sample())
}

#[test]
#[ignore = "takes a few minutes: every size there is"]
fn pings_of_all_sizes_are_answered() -> Result<()> {
    ping_all(&mut Site::new("")?, &(0..=LARGEST).collect::<Vec<_>>())
}

#[test]
fn pings_of_all_kinds_pass_a_smaller_link() -> Result<()> {
    // The WAN as with PPPoE: what fits the LAN must be cut, fragments too. IPv6 learns the MTU.
    let mut site = Site::new("")?;
    site.narrow_wan(1492)?;
    let (_, server) = PAIRS[0];
    let sizes: Vec<usize> = (1440..1500).chain((1500..20_000).step_by(331)).collect();
    site.host
        .enter(|| {
            let mut echo = Echo::new(server)?;
            sizes.iter().try_for_each(|size| echo.ping(*size))
        })
        .with_context(|| site.counters().unwrap_or_default())?;
    // And the LAN smaller than the WAN: the answers are cut.
    let mut site = Site::new("")?;
    site.narrow_lan(1300)?;
    site.host
        .enter(|| {
            let mut echo = Echo::new(server)?;
            sizes.iter().try_for_each(|size| echo.ping(*size))
        })
        .with_context(|| site.counters().unwrap_or_default())
}
