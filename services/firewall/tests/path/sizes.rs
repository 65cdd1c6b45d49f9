//! Pings of all sizes, in both families and, by their answers, in both directions.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use portcullis_site::{PAIRS, PATIENCE, Site};

/// Largest payload of an ICMP echo over IPv4; over IPv6 the same is taken.
const LARGEST: usize = 65_507;

/// Bytes that are on their way at the same time.
const IN_FLIGHT: usize = 200_000;

/// A socket for echo requests.
struct Echo {
    socket: Socket,
    to: SocketAddr,
    /// What the largest one carries, and each other one the beginning of.
    content: Vec<u8>,
}

impl Echo {
    fn new(to: IpAddr) -> Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_recv_buffer_size(4 << 20)?;
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
        let content = (0..LARGEST).map(|n| (n % 251) as u8).collect();
        Ok(Self { socket, to: SocketAddr::new(to, 0), content })
    }

    /// Sends echo requests of these sizes, several at a time, and waits for all answers. No size may
    /// come twice: it is the number of its request.
    fn ping(&self, sizes: &[usize]) -> Result<()> {
        let mut waiting = BTreeSet::new();
        for size in sizes {
            while waiting.iter().sum::<usize>() + size > IN_FLIGHT && !waiting.is_empty() {
                self.receive(&mut waiting)?;
            }
            self.send(*size)?;
            waiting.insert(*size);
        }
        while !waiting.is_empty() {
            self.receive(&mut waiting)?;
        }
        Ok(())
    }

    /// Header of a message with `size` bytes behind it.
    fn head(&self, kind: u8, size: usize) -> [u8; 8] {
        let [high, low] = (size as u16).to_be_bytes();
        [kind, 0, 0, 0, 0x50, 0x43, high, low]
    }

    fn send(&self, size: usize) -> Result<()> {
        let request = if self.to.is_ipv4() { 8 } else { 128 };
        let mut message = self.head(request, size).to_vec();
        message.extend(&self.content[..size]);
        if self.to.is_ipv4() {
            let checksum = checksum(&message);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        self.socket.send_to(&message, &self.to.into()).with_context(|| format!("{size} bytes"))?;
        Ok(())
    }

    /// Takes one answer off those that are waited for.
    fn receive(&self, waiting: &mut BTreeSet<usize>) -> Result<()> {
        let (reply, header) = if self.to.is_ipv4() { (0, 20) } else { (129, 0) };
        let mut buffer = vec![0_u8; 66_000];
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            let answer = &buffer[header.min(length)..length];
            let Some((head, content)) = answer.split_first_chunk::<8>() else { continue };
            let size = usize::from(u16::from_be_bytes([head[6], head[7]]));
            let ours = self.head(reply, size);
            if head[0] == ours[0] && head[4..] == ours[4..] && waiting.remove(&size) {
                ensure!(content == &self.content[..size], "{size}: other bytes came back");
                return Ok(());
            }
        }
        bail!("{waiting:?} bytes to {}: no answer", self.to.ip())
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
        let outcome = site.host.enter(|| Echo::new(server)?.ping(sizes));
        outcome.with_context(|| site.counters().unwrap_or_default())?;
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
        .enter(|| Echo::new(server)?.ping(&sizes))
        .with_context(|| site.counters().unwrap_or_default())?;
    // And the LAN smaller than the WAN: the answers are cut.
    let mut site = Site::new("")?;
    site.narrow_lan(1300)?;
    site.host
        .enter(|| Echo::new(server)?.ping(&sizes))
        .with_context(|| site.counters().unwrap_or_default())
}
