//! A flood: packets with forged sources, written as they are to a device, so many a second.

use std::{
    net::Ipv4Addr,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use portcullis_netns::Namespace;
use socket2::{Domain, SockAddr, Socket, Type};

/// What a flood consists of.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// SYNs to one port of one address, from anywhere.
    Syns(Ipv4Addr, u16),
    /// Datagrams to all ports of one address, from anywhere.
    Datagrams(Ipv4Addr),
    /// Datagrams and SYNs to anywhere, from all over a network.
    Scan([u8; 3]),
}

/// One stream of packets.
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    per_second: u64,
    socket: Socket,
    /// Ethernet addresses and type.
    link: [u8; 14],
    /// The device towards the router, and one that leads nowhere.
    at_router: SockAddr,
    nowhere: SockAddr,
}

impl Stream {
    /// From `device` of a namespace to the router's device; or out of `void` there, whose other end
    /// takes nothing: the same work for the sender, none for the router.
    pub fn new(
        kind: Kind,
        per_second: u64,
        from: (&Namespace, &str, &str),
        router: (&Namespace, &str),
    ) -> Result<Self> {
        let (namespace, device, void) = from;
        let mac = |namespace: &Namespace, device: &str| -> Result<Vec<u8>> {
            let text = namespace.run(&format!("cat /sys/class/net/{device}/address"))?;
            text.trim().split(':').map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
        };
        let mut link = mac(router.0, router.1)?;
        link.extend(mac(namespace, device)?);
        link.extend([8, 0]);
        let socket = namespace.enter(|| Ok(Socket::new(Domain::PACKET, Type::RAW, None)?))?;
        // It does not stand in the queue of the line with the download.
        let bypass: libc::c_int = 1;
        // SAFETY: the option takes an int, which lives through the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const bypass).cast(),
                size_of_val(&bypass) as libc::socklen_t,
            )
        };
        ensure!(result == 0, std::io::Error::last_os_error());
        let link = link.try_into().map_err(|_| anyhow::anyhow!("no Ethernet address"))?;
        let [at_router, nowhere] = [device, void].map(|device| address(namespace, device));
        Ok(Self { kind, per_second, socket, link, at_router: at_router?, nowhere: nowhere? })
    }

    fn send(&self, at_router: bool, random: &mut Random) {
        let frame = self.frame(random);
        let to = if at_router { &self.at_router } else { &self.nowhere };
        // A full queue of the device is part of a flood.
        let _ = self.socket.send_to(&frame, to);
    }

    fn frame(&self, random: &mut Random) -> Vec<u8> {
        let (port, other) = (random.port(), random.port());
        let (source, destination, tcp, ports) = match self.kind {
            Kind::Syns(to, at) => (random.address(), to, true, [port, at]),
            Kind::Datagrams(to) => (random.address(), to, false, [port, other]),
            Kind::Scan([a, b, c]) => {
                let host = 120 + (random.next() % 128) as u8;
                let tcp = random.next().is_multiple_of(2);
                (Ipv4Addr::new(a, b, c, host), random.address(), tcp, [port, other])
            }
        };
        let mut transport = Vec::with_capacity(26);
        transport.extend(ports.map(u16::to_be_bytes).as_flattened());
        if tcp {
            transport.extend((random.next() as u32).to_be_bytes());
            transport.extend([0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            transport.extend([0, 26, 0, 0]);
            transport.extend([0x5a; 18]);
        }
        let protocol = if tcp { 6 } else { 17 };
        let mut pseudo = source.octets().to_vec();
        pseudo.extend(destination.octets());
        pseudo.extend([0, protocol, 0, transport.len() as u8]);
        pseudo.extend(&transport);
        let at = if tcp { 16 } else { 6 };
        transport[at..at + 2].copy_from_slice(&checksum(&pseudo).to_be_bytes());

        let mut ip = vec![0x45, 0, 0, 20 + transport.len() as u8];
        ip.extend((random.next() as u16).to_be_bytes());
        ip.extend([0x40, 0, 61, protocol, 0, 0]);
        ip.extend(source.octets());
        ip.extend(destination.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [&self.link[..], &ip, &transport].concat()
    }
}

fn address(namespace: &Namespace, device: &str) -> Result<SockAddr> {
    let index: i32 =
        namespace.run(&format!("cat /sys/class/net/{device}/ifindex"))?.trim().parse()?;
    // SAFETY: a link-layer address is set below, of which this is the type and the length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = 0x0800_u16.to_be();
            (*address).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as u32;
            Ok(())
        })
    }?;
    Ok(address)
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn port(&mut self) -> u16 {
        1024 + (self.next() % 64_000) as u16
    }

    /// An address of the internet, in none of the networks of the site.
    fn address(&mut self) -> Ipv4Addr {
        let [a, b, c, d] = (self.next() as u32).to_be_bytes();
        Ipv4Addr::new(11 + a % 80, b, c, 1 + d % 254)
    }
}

/// A flood that goes on until it is dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    at_router: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Starts all streams on one thread, into the void.
    pub fn start(streams: Vec<Stream>) -> Self {
        let (stop, at_router, sent) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU64>::default(),
        );
        let (stopped, aim, count) = (Arc::clone(&stop), Arc::clone(&at_router), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                // What a busy machine kept it from sending in time is not made up for at once.
                let passed = last.elapsed().min(Duration::from_millis(20));
                last = Instant::now();
                let at_router = aim.load(Ordering::Relaxed);
                for stream in &streams {
                    let due = stream.per_second * passed.as_micros() as u64 / 1_000_000;
                    (0..due).for_each(|_| stream.send(at_router, &mut random));
                    if at_router {
                        count.fetch_add(due, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { stop, at_router, sent, thread: Some(thread) }
    }

    /// At the router, or into the void.
    pub fn aim(&self, at_router: bool) {
        self.at_router.store(at_router, Ordering::Relaxed);
    }

    /// Packets sent to the router so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
