//! Twenty thousand TCP connections, all open at the same time.

use std::{
    collections::{HashMap, HashSet},
    io::{ErrorKind, Read, Write},
    mem::replace,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use portcullis_datapath_abi::{Counter, TICK_SHIFT};
use portcullis_firewall::{
    ageing::Pressure,
    sweep::{Terms, now_ticks},
};
use portcullis_netns::Namespace;
use portcullis_site::{HOST, OTHER, Plan, SERVER, SERVER_TOO, Site, WAN, wait_listening};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Who connects from where: two addresses of each host inside.
const SOURCES: [Ipv4Addr; 4] =
    [HOST, Ipv4Addr::new(192, 168, 77, 110), OTHER, Ipv4Addr::new(192, 168, 77, 111)];
/// To whom, from the same address and port.
const DESTINATIONS: [Ipv4Addr; 2] = [SERVER, SERVER_TOO];
const PORT: u16 = 7000;
/// Source ports of each address: with these there are 20,000 connections of 10,000 sockets' names.
const PORTS: std::ops::Range<u16> = 20_000..22_500;
const CONNECTIONS: usize = SOURCES.len() * DESTINATIONS.len() * 2500;
const ENDPOINTS: usize = CONNECTIONS / DESTINATIONS.len();
/// Sockets whose connections are opened together: who must ask twice keeps few others waiting.
const BATCH: u16 = 250;
/// For all of one step, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where each socket inside was seen from.
type Seen = Vec<(SocketAddr, SocketAddr)>;

fn socket() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Begins a connection; the same name may have another one to another destination.
fn begin(from: SocketAddr, to: SocketAddr) -> Result<Socket> {
    let socket = socket()?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(error).with_context(|| format!("{from} to {to}"))
        }
        _ => Ok(socket),
    }
}

/// Waits until it is open.
fn opened(socket: Socket) -> Result<TcpStream> {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut ready = [PollFd::new(&socket, PollFlags::OUT)];
    while poll(&mut ready, Some(&patience)) == Err(rustix::io::Errno::INTR) {}
    let name = format!("{:?}", socket.local_addr()?.as_socket());
    ensure!(!ready[0].revents().is_empty(), "{name}: no answer");
    if let Some(error) = socket.take_error()? {
        return Err(error).context(name);
    }
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// A line of text: what each side says once.
fn say(mut stream: &TcpStream, text: &str) -> Result<()> {
    Ok(stream.write_all(format!("{text}\n").as_bytes())?)
}

fn hear(mut stream: &TcpStream) -> Result<SocketAddr> {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).with_context(|| format!("{:?}", stream.local_addr()))?;
        match byte {
            [b'\n'] => return Ok(std::str::from_utf8(&text)?.parse()?),
            [other] => text.push(other),
        }
    }
}

/// Accepts all, hears the name of each client, tells it how it is seen, and waits for its end.
fn serve(address: Ipv4Addr, stop: &AtomicBool) -> Result<Seen> {
    let listener = socket()?;
    listener.bind(&SocketAddr::from((address, PORT)).into())?;
    listener.listen(4096)?;
    listener.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut accepted = Vec::new();
    while accepted.len() < ENDPOINTS {
        match listener.accept() {
            Ok((socket, peer)) => {
                socket.set_read_timeout(Some(PATIENCE))?;
                let peer = peer.as_socket().context("an address")?;
                accepted.push((TcpStream::from(socket), peer));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(Seen::new());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut seen = Seen::new();
    for (stream, peer) in &accepted {
        seen.push((hear(stream)?, *peer));
        say(stream, &peer.to_string())?;
    }
    for (mut stream, peer) in accepted {
        ensure!(stream.read(&mut [0; 8])? == 0, "{peer} says more than it should");
    }
    Ok(seen)
}

/// The host's part: opens, talks, ends; after each step it reports and waits for the word to go on.
fn client(source: Ipv4Addr, done: &Sender<()>, go_on: &Receiver<()>) -> Result<()> {
    let mut streams = Vec::new();
    for first in PORTS.step_by(usize::from(BATCH)) {
        let ends = (first..first + BATCH).flat_map(|port| DESTINATIONS.map(|to| (port, to)));
        let batch = ends.map(|(port, to)| begin((source, port).into(), (to, PORT).into()));
        for socket in batch.collect::<Result<Vec<_>>>()? {
            streams.push(opened(socket)?);
        }
    }
    done.send(())?;
    go_on.recv()?;
    for stream in &streams {
        say(stream, &stream.local_addr()?.to_string())?;
    }
    for stream in &streams {
        let outside = hear(stream)?;
        ensure!(outside.ip() == WAN, "{:?} is seen as {outside}", stream.local_addr());
    }
    done.send(())?;
    go_on.recv()?;
    Ok(())
}

/// Runs `body` in a namespace on a thread with a table of open files of its own, because one of
/// ordinary length does not hold them all.
fn apart<T: Send>(namespace: &Namespace, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let alone = || {
        // What others have open at this moment, like the pipes of their children, must not be kept
        // open here. SAFETY: this thread has just begun and has no descriptor yet.
        let result =
            unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE as i32) };
        ensure!(result == 0, std::io::Error::last_os_error());
        body()
    };
    let panicked = |_| anyhow!("it panicked");
    namespace.enter(|| thread::scope(|scope| scope.spawn(alone).join()).map_err(panicked)?)
}

/// Ticks of the flow table's clock.
fn ticks(seconds: u32) -> u32 {
    ((u64::from(seconds) * 1_000_000_000) >> TICK_SHIFT) as u32
}

/// What the site is held against while all connections are open.
fn all_are_known(site: &mut Site) -> Result<()> {
    let (flows, _) = site.flows(1)?;
    ensure!(flows == CONNECTIONS as u64, "{flows} flows: {}", site.counters()?);
    Ok(())
}

/// Opens all, has all talk, ends all. Returns who was seen where.
fn meet(site: &mut Site, [host, other, server]: &[Namespace; 3]) -> Result<Seen> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let servers = DESTINATIONS.map(|address| {
            let stop = &stop;
            scope.spawn(move || apart(server, move || serve(address, stop)))
        });
        let (done, steps) = channel();
        let (mut words, mut clients) = (Vec::new(), Vec::new());
        let listening = wait_listening(server, PORT);
        for (index, source) in SOURCES.into_iter().enumerate() {
            let namespace = if index < 2 { host } else { other };
            let (done, (word, go_on)) = (done.clone(), channel());
            words.push(word);
            clients
                .push(scope.spawn(move || apart(namespace, move || client(source, &done, &go_on))));
        }
        drop(done);
        let mut step = |what: &'static str| -> Result<()> {
            let begun = Instant::now();
            for _ in SOURCES {
                steps.recv_timeout(PATIENCE).context(what)?;
            }
            println!("{what}: {:?}", begun.elapsed());
            all_are_known(site).context(what)?;
            words.iter().for_each(|word| _ = word.send(()));
            Ok(())
        };
        let outcome = listening.and_then(|()| step("opening")).and_then(|()| step("talking"));
        // Whoever still waits for the other side ends now.
        drop(words);
        stop.store(outcome.is_err(), Ordering::Relaxed);
        for client in clients {
            let ended = client.join().map_err(|_| anyhow!("a client panicked"))?;
            ended.with_context(|| format!("{outcome:?}"))?;
        }
        let mut seen = Seen::new();
        for server in servers {
            let served = server.join().map_err(|_| anyhow!("a server panicked"))?;
            seen.extend(served.with_context(|| format!("{outcome:?}"))?);
        }
        outcome.map(|()| seen)
    })
}

#[test]
fn twenty_thousand_connections_at_once_lose_nothing() -> Result<()> {
    let _alone = crate::alone();
    let files = getrlimit(Resource::Nofile);
    ensure!(
        files.maximum.is_none_or(|most| most > ENDPOINTS as u64 + 1000),
        "`ulimit -Hn` is too low: {files:?}"
    );
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    let mut site = Site::build(&Plan { max_flows: 65_536, ..Plan::default() })?;
    site.host.address("eth0", &format!("{}/24", SOURCES[1]))?;
    site.other.address("eth0", &format!("{}/24", SOURCES[3]))?;
    site.server.run("sysctl -qw net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=8192")?;
    // They work while the site is looked into.
    let take = |place: &mut Namespace| anyhow::Ok(replace(place, Namespace::new("none")?));
    let namespaces = [take(&mut site.host)?, take(&mut site.other)?, take(&mut site.server)?];
    let seen = meet(&mut site, &namespaces).with_context(|| format!("{:?}", site.counters()))?;

    // Endpoint-independent mapping (RFC 4787 REQ-1) for each of them, and never two in one place.
    ensure!(seen.len() == CONNECTIONS, "{} were seen", seen.len());
    let mut places: HashMap<SocketAddr, HashSet<SocketAddr>> = HashMap::new();
    for (inside, outside) in seen {
        places.entry(inside).or_default().insert(outside);
    }
    ensure!(places.len() == ENDPOINTS, "{} sockets were seen", places.len());
    ensure!(places.values().all(|places| places.len() == 1), "a socket was seen in two places");
    let distinct: HashSet<_> = places.values().flatten().collect();
    ensure!(distinct.len() == ENDPOINTS, "{} places for {ENDPOINTS} sockets", distinct.len());

    // The table is empty when the time of closing connections is over, not before. Their state tells
    // that they are closed: established ones would live for two hours.
    let timeouts = site.part.firewall.timeouts;
    let mut pass = |seconds| {
        let now = now_ticks().wrapping_add(ticks(seconds));
        site.sweep_on(&Terms { now, timeouts: &timeouts, pressure: Pressure::NONE })
    };
    // A pass notes which flows had packets; from then on they are idle.
    pass(0)?;
    let early = pass(timeouts.tcp_transitory_s / 2)?;
    ensure!(early.kept == CONNECTIONS as u64 && early.ended == 0, "{early:?}");
    ensure!(early.mappings == ENDPOINTS as u64, "{early:?}");
    let ended = pass(timeouts.tcp_transitory_s + 10)?;
    ensure!(ended.kept == 0 && ended.ended == CONNECTIONS as u64, "{ended:?}");
    let cleared = pass(timeouts.tcp_transitory_s + 20)?;
    ensure!(cleared.mappings == 0, "{cleared:?}");
    for counter in [Counter::DropFull, Counter::DropPorts, Counter::DropTcpWindow] {
        ensure!(site.count(counter)? == 0, "{}", site.counters()?);
    }
    Ok(())
}
