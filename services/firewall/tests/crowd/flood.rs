//! Floods from both sides while a download goes on, with the firewall as the service runs it: its
//! passes over the flow table, its reserve, its proofs under attack.
//!
//! What is compared is the same download at the same time of day: the generator sends the same
//! packets all the time, by turns into the void and at the router. So what it costs the machine by
//! itself, which has two processors for all of this, is in both speeds.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use portcullis_datapath_abi::Counter;
use portcullis_firewall::service::Firewall;
use portcullis_model::{Document, part::FirewallPart};
use portcullis_netns::Namespace;
use portcullis_site::{
    HOST, PATIENCE, Pins, SERVER, Topology, WAN,
    sockets::{connect, listen},
};

use crate::generator::{Flood, Kind, Stream};

/// A service behind the router that the flood of SYNs is for.
const DOCUMENT: &str = r#"
[firewall]
max_flows = 32768
[firewall.zones.wan]
masquerade = true
# The networks of this site are for documentation only.
bogons = false
[firewall.zones.lan]
[[firewall.port_forwards]]
name = "web"
zone = "wan"
protocol = "tcp"
ports = [8080]
to = "192.168.77.100"
"#;

/// Connections that are there before the flood and say nothing while it lasts.
const IDLE: u16 = 200;

/// How hard.
struct Terms {
    /// Rate of the line to the provider in the words of `tc`; none: what the machine can do.
    line: Option<&'static str>,
    /// SYNs, datagrams from outside, first packets from inside; each a second.
    rates: [u64; 3],
    /// How often undisturbed and flooded take turns.
    rounds: usize,
    /// Length of a turn without the flood, and of one with it.
    turns: [Duration; 2],
}

struct Lab {
    topology: Topology,
    firewall: Firewall,
    swept: Instant,
    urgent: bool,
    _void: Namespace,
    _pins: Pins,
}

impl Lab {
    fn new() -> Result<Self> {
        let topology = Topology::new(true)?;
        // Answers to sources that do not exist get lost without a word, as they mostly do.
        topology.provider.run("ip route add blackhole default")?;
        let void = Namespace::new("void")?;
        topology.provider.join("void", &void, "first")?;
        topology.other.join("void", &void, "second")?;
        let pins = Pins::new()?;
        let interfaces = topology.interfaces()?;
        let firewall = topology.router.enter(|| {
            let part = FirewallPart::of(&Document::parse(DOCUMENT)?);
            let mut firewall = Firewall::open(pins.path().to_owned(), part)?;
            firewall.set_interfaces(interfaces)?;
            ensure!(!firewall.is_incomplete(), "{:?}", firewall.status());
            Ok(firewall)
        })?;
        Ok(Self {
            topology,
            firewall,
            swept: Instant::now(),
            urgent: false,
            _void: void,
            _pins: pins,
        })
    }

    fn flood(&self, rates: [u64; 3]) -> Result<Flood> {
        let Topology { provider, other, router, .. } = &self.topology;
        let [syns, datagrams, scan] = rates;
        let (outside, inside) = ((provider, "access", "void"), (other, "eth0", "void"));
        Ok(Flood::start(vec![
            Stream::new(Kind::Syns(WAN, 8080), syns, outside, (router, "eth0"))?,
            Stream::new(Kind::Datagrams(WAN), datagrams, outside, (router, "eth0"))?,
            Stream::new(Kind::Scan([192, 168, 77]), scan, inside, (router, "lan"))?,
        ]))
    }

    /// Passes over the flow table as often as the service makes them.
    fn tend(&mut self) -> Result<()> {
        let period = Duration::from_secs(if self.urgent { 1 } else { 5 });
        if self.swept.elapsed() < period {
            return Ok(());
        }
        let Self { topology, firewall, .. } = self;
        self.urgent = topology.router.enter(|| {
            loop {
                if let Some(urgent) = firewall.sweep()? {
                    return Ok(urgent);
                }
            }
        })?;
        self.swept = Instant::now();
        Ok(())
    }

    /// Lets time pass; what came of the download in it, in bytes a second.
    fn turn(&mut self, length: Duration, received: &AtomicU64) -> Result<f64> {
        let (begun, before) = (Instant::now(), received.load(Ordering::Relaxed));
        while begun.elapsed() < length {
            thread::sleep(Duration::from_millis(20));
            self.tend()?;
        }
        let bytes = received.load(Ordering::Relaxed) - before;
        Ok(bytes as f64 / begun.elapsed().as_secs_f64())
    }

    fn count(&mut self, counter: Counter) -> Result<u64> {
        let all = self.firewall.counters()?;
        let found = all.iter().find(|record| record.name == counter.name());
        Ok(found.map_or(0, |record| record.packets))
    }

    fn drops(&mut self) -> Result<String> {
        let drops = self.firewall.drops()?;
        let texts = drops.iter().map(|drop| {
            format!("{} {}>{} {}", drop.reason, drop.from_zone, drop.to_zone, drop.packets)
        });
        Ok(texts.collect::<Vec<_>>().join(", "))
    }
}

/// Both ends of connections from the host to the server.
fn connections(lab: &Lab, count: u16) -> Result<Vec<[TcpStream; 2]>> {
    let listener = listen(&lab.topology.server, (SERVER, 7001))?;
    let pair = |_| {
        let inside = connect(&lab.topology.host, (SERVER, 7001))?;
        let (outside, _) = listener.accept()?;
        outside.set_read_timeout(Some(PATIENCE))?;
        Ok([inside, outside])
    };
    (0..count).map(pair).collect()
}

/// The server sends, the host reads and counts, until the returned socket is shut down.
fn download(lab: &Lab) -> Result<(TcpStream, Arc<AtomicU64>)> {
    let [inside, mut outside] = connections(lab, 1)?.pop().context("a connection")?;
    thread::spawn(move || {
        let block = vec![0x5a; 1 << 16];
        while outside.write_all(&block).is_ok() {}
    });
    let received = Arc::new(AtomicU64::new(0));
    let (count, mut reader) = (Arc::clone(&received), inside.try_clone()?);
    reader.set_read_timeout(None)?;
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => _ = count.fetch_add(length as u64, Ordering::Relaxed),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    Ok((inside, received))
}

/// Connects from outside to the service that is under attack.
fn visit(server: &Namespace, listener: &TcpListener) -> Result<()> {
    // Its first SYN is challenged; the next one goes out a second later, and others if the table was
    // full just then.
    let to = (WAN, 8080).into();
    let mut visitor =
        server.enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(40))?))?;
    let (mut accepted, peer) = listener.accept()?;
    ensure!(peer.ip() == SERVER, "{peer}");
    visitor.write_all(b"?")?;
    accepted.set_read_timeout(Some(PATIENCE))?;
    Ok(accepted.read_exact(&mut [0])?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn withstands(terms: &Terms) -> Result<()> {
    let _alone = crate::alone();
    let mut lab = Lab::new()?;
    if let Some(rate) = terms.line {
        let line = format!("tc qdisc add dev access root tbf rate {rate} burst 256kb latency 50ms");
        lab.topology.provider.run(&line)?;
    }
    let service = listen(&lab.topology.host, (HOST, 8080))?;
    let idle = connections(&lab, IDLE)?;
    let (end, received) = download(&lab)?;
    let flood = lab.flood(terms.rates)?;
    let [calm, storm] = terms.turns;
    lab.turn(Duration::from_secs(1), &received)?;

    let (mut undisturbed, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..terms.rounds {
        undisturbed.push(lab.turn(calm, &received)?);
        flood.aim(true);
        flooded.push(lab.turn(storm, &received)?);
        flood.aim(false);
    }
    println!("undisturbed {undisturbed:.0?}, flooded {flooded:.0?} bytes a second");
    println!("{} packets of the flood; {}", flood.sent(), lab.drops()?);

    // It was a flood: the table was full, and SYNs had to prove where they come from.
    let asked = storm.mul_f64(terms.rounds as f64).as_secs_f64();
    let wanted = terms.rates.iter().sum::<u64>() as f64 * asked;
    ensure!(flood.sent() as f64 > wanted / 4.0, "only {} of {wanted} sent", flood.sent());
    let (full, unproven) = (lab.count(Counter::DropFull)?, lab.count(Counter::DropUnproven)?);
    ensure!(full > 0 && unproven > 1000, "no attack was seen: {}", lab.drops()?);
    // What is honest gets in beside it.
    flood.aim(true);
    lab.turn(Duration::from_secs(2), &received)?;
    let server = std::mem::replace(&mut lab.topology.server, Namespace::new("none")?);
    let visited = thread::scope(|scope| {
        let visitor = scope.spawn(|| visit(&server, &service));
        while !visitor.is_finished() {
            lab.turn(Duration::from_millis(50), &received)?;
        }
        visitor.join().unwrap_or_else(|_| bail!("the visitor panicked"))
    });
    flood.aim(false);
    visited.with_context(|| format!("a visitor from outside; {:?}", lab.drops()))?;
    ensure!(lab.count(Counter::DropProof)? > 0, "nobody had to prove anything: {}", lab.drops()?);

    let share = median(flooded) / median(undisturbed);
    println!("{:.0} % of the undisturbed speed", share * 100.0);
    ensure!(share >= 0.5, "{share:.2} of the undisturbed speed; {}", lab.drops()?);
    let (before, limit) = (received.load(Ordering::Relaxed), Instant::now() + PATIENCE);
    while received.load(Ordering::Relaxed) == before {
        ensure!(Instant::now() < limit, "the download has ended; {}", lab.drops()?);
        thread::sleep(Duration::from_millis(20));
    }
    for (number, [inside, outside]) in idle.into_iter().enumerate() {
        for (mut from, mut to) in [(&inside, &outside), (&outside, &inside)] {
            let mut byte = [0];
            from.write_all(b"!")?;
            let there = to.read_exact(&mut byte);
            there.with_context(|| format!("connection {number} is lost; {:?}", lab.drops()))?;
        }
    }
    Ok(end.shutdown(std::net::Shutdown::Both)?)
}

#[test]
fn a_download_and_all_connections_survive_floods_from_both_sides() -> Result<()> {
    // A line that a busy machine can fill too, and a flood that leaves it time for that.
    withstands(&Terms {
        line: Some("100mbit"),
        rates: [12_000, 8_000, 8_000],
        rounds: 2,
        turns: [Duration::from_secs(2), Duration::from_secs(6)],
    })
}

#[test]
#[ignore = "takes a minute and both processors"]
fn a_download_as_fast_as_the_machine_survives_a_flood_that_takes_most_of_a_processor() -> Result<()>
{
    withstands(&Terms {
        line: None,
        rates: [60_000, 40_000, 30_000],
        rounds: 5,
        turns: [Duration::from_secs(4), Duration::from_secs(5)],
    })
}
