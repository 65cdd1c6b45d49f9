//! Real TCP through links that lose, reorder, repeat and spoil packets, before and behind the
//! router. The kernel's emulator of such links (netem) is in the image's kernel, so the whole site
//! stands in a machine with that: this program is its first process. Needs QEMU, iproute2, procps
//! and ethtool.
#![allow(clippy::print_stdout, reason = "a test harness of its own")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_datapath_abi::Counter;
use portcullis_guest::Guest;
use portcullis_netns::Namespace;
use portcullis_site::{PAIRS, Site, sockets::listen};
use serde::{Deserialize, Serialize};

/// What the site and its links are made of.
const MODULES: &str = "boot crc32c_generic?\nboot veth\nboot bridge\nboot sch_netem\n";
const TOOLS: [&str; 5] = ["ip", "tc", "sysctl", "ethtool", "cat"];

/// Longest life of the machine.
const PATIENCE: Duration = Duration::from_secs(500);
/// For a connection, and for its next byte. SYNs that are lost four times come after 15 s.
const STALL: Duration = Duration::from_secs(60);

/// Bytes each way on each connection.
const LENGTH: usize = 400_000;
/// Connections of each family.
const CONNECTIONS: u16 = 2;

/// What a link does, in the words of `tc qdisc add ... netem`, and what must be seen of it: counters
/// of the kernels at both ends (`/proc/net/netstat`, `/proc/net/snmp`) that grow.
const LINKS: [(&str, &[&str]); 6] = [
    ("loss 1%", &["TCPLostRetransmit+RetransSegs"]),
    ("loss 5%", &["TCPLostRetransmit+RetransSegs"]),
    ("delay 4ms reorder 70% 50%", &["TCPOFOQueue"]),
    ("delay 3ms 2ms", &["TCPOFOQueue"]),
    ("duplicate 10%", &["TCPDSACKOldSent+TCPDSACKOfoSent"]),
    ("delay 3ms 2ms loss 1% duplicate 1% corrupt 1%", &["InCsumErrors", "RetransSegs"]),
];

/// What became of a link's transfers.
#[derive(Debug, Deserialize, Serialize)]
struct Outcome {
    link: String,
    seconds: f64,
    /// Packets that netem dropped.
    lost: u64,
    /// Kernel counters that must have grown.
    seen: Vec<(String, u64)>,
    /// Segments that the datapath took for strangers', by window and by state.
    outside: [u64; 2],
    /// Packets that it forwarded.
    forwarded: u64,
    /// All its counters since the beginning.
    counters: String,
}

fn main() -> Result<()> {
    if portcullis_guest::is_init() {
        portcullis_guest::init(all_links);
    }
    let begun = Instant::now();
    let guest = Guest {
        modules: MODULES,
        tools: &TOOLS,
        // One processor: QEMU's translator has a fault that needs two.
        machine: &["-cpu", "max,la57=off", "-smp", "1"],
        parameters: "",
        memory_mib: 1024,
        patience: PATIENCE,
    };
    let outcomes: Vec<Outcome> = guest.run()?;
    for outcome in &outcomes {
        println!("{outcome:?}");
    }
    ensure!(outcomes.len() == LINKS.len());
    for Outcome { link, lost, seen, outside, forwarded, counters, .. } in &outcomes {
        for (name, count) in seen {
            ensure!(*count > 0, "`{link}` did nothing: {name} did not grow");
        }
        ensure!(link.contains("loss") == (*lost > 0), "`{link}` lost {lost}");
        // Every segment was an honest one, but for the spoiled ones. What the window's rule does
        // not let pass of them is a segment that was sent again needlessly, and then overtaken by
        // more than a whole window: the receiver has no use for it either.
        let overtaken = if link.contains("delay") { forwarded / 200 } else { 0 };
        ensure!(outside[0] <= overtaken, "`{link}`: out of the window: {counters}");
        if !link.contains("corrupt") {
            ensure!(outside[1] == 0, "`{link}`: segments of no connection: {counters}");
        }
    }
    println!("ok: {} kinds of links, {:.0} s", outcomes.len(), begun.elapsed().as_secs_f64());
    Ok(())
}

/// In the machine: everything, one kind of link after the other.
fn all_links() -> Result<Vec<Outcome>> {
    let mut site = Site::new("")?;
    for namespace in [&site.host, &site.server] {
        // Else what is lost is 64 KiB at once, and nothing is left to be reordered.
        namespace.run("ethtool -K eth0 tso off gso off")?;
    }
    LINKS.iter().map(|(link, names)| transfers(&mut site, link, names)).collect()
}

/// Where links are made so: before the router and behind it, in both directions.
fn places(site: &Site) -> [(&Namespace, &str); 4] {
    [(&site.host, "eth0"), (&site.provider, "core"), (&site.server, "eth0"), (&site.router, "eth1")]
}

fn transfers(site: &mut Site, link: &str, names: &[&str]) -> Result<Outcome> {
    for (namespace, device) in places(site) {
        namespace.run(&format!("tc qdisc replace dev {device} root netem limit 10000 {link}"))?;
    }
    let before = kernel_counts(site, names)?;
    let dropped = [Counter::DropTcpWindow, Counter::DropTcpState];
    let earlier = [site.count(dropped[0])?, site.count(dropped[1])?];
    let earlier_forwarded = site.count(Counter::Forwarded)?;
    let begun = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for (_, server) in PAIRS {
            for port in 0..CONNECTIONS {
                let (inside, outside) = (&site.host, &site.server);
                running.push(scope.spawn(move || transfer(inside, outside, server, 7000 + port)));
            }
        }
        for connection in running {
            let result = connection.join();
            result.map_err(|_| anyhow::anyhow!("a connection panicked"))??;
        }
        Ok(())
    })
    .with_context(|| format!("`{link}`: {}", site.counters().unwrap_or_default()))?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut lost = 0;
    for (namespace, device) in places(site) {
        let text = namespace.run(&format!("tc -s qdisc show dev {device}"))?;
        let dropped = text.split("dropped ").nth(1).and_then(|rest| rest.split(',').next());
        lost += dropped.context("tc says nothing about drops")?.trim().parse::<u64>()?;
        namespace.run(&format!("tc qdisc del dev {device} root"))?;
    }
    let after = kernel_counts(site, names)?;
    Ok(Outcome {
        link: link.to_owned(),
        seconds,
        lost,
        seen: names
            .iter()
            .zip(after.iter().zip(before))
            .map(|(name, (after, before))| ((*name).to_owned(), after - before))
            .collect(),
        outside: [site.count(dropped[0])? - earlier[0], site.count(dropped[1])? - earlier[1]],
        forwarded: site.count(Counter::Forwarded)? - earlier_forwarded,
        counters: site.counters()?,
    })
}

/// Sums of counters of the kernel at both ends; `+` in a name adds two.
fn kernel_counts(site: &Site, names: &[&str]) -> Result<Vec<u64>> {
    let mut sums = vec![0; names.len()];
    for namespace in [&site.host, &site.server] {
        let text = namespace.run("cat /proc/net/netstat /proc/net/snmp")?;
        let lines: Vec<_> = text.lines().collect();
        // A line of names, a line of values.
        for pair in lines.chunks_exact(2) {
            let [titles, values] = pair else { continue };
            if !titles.starts_with("Tcp") {
                continue;
            }
            for (title, value) in titles.split_whitespace().zip(values.split_whitespace()) {
                for (sum, name) in sums.iter_mut().zip(names) {
                    if name.split('+').any(|name| name == title) {
                        *sum += value.parse::<u64>()?;
                    }
                }
            }
        }
    }
    Ok(sums)
}

/// The bytes of one direction of one connection: they do not repeat within what is in flight.
fn content(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (word ^ (word >> 27)).to_le_bytes()
    })
    .flatten()
    .take(LENGTH)
}

/// One connection that carries data both ways at once, byte for byte compared.
fn transfer(inside: &Namespace, outside: &Namespace, server: IpAddr, port: u16) -> Result<()> {
    let to = SocketAddr::new(server, port);
    let listener = listen(outside, to)?;
    let client = inside.enter(|| Ok(TcpStream::connect_timeout(&to, STALL)?));
    let client = client.with_context(|| format!("connecting to {to}"))?;
    let (accepted, _) = listener.accept()?;
    let (up, down) = (u64::from(port), u64::from(port) << 32);
    thread::scope(|scope| -> Result<()> {
        let sides = [(&client, up, down, "inside"), (&accepted, down, up, "outside")];
        let mut running = Vec::new();
        for (stream, sends, receives, side) in sides {
            stream.set_read_timeout(Some(STALL))?;
            stream.set_write_timeout(Some(STALL))?;
            running.push((side, "sends", scope.spawn(move || send(stream, sends))));
            running.push((side, "receives", scope.spawn(move || receive(stream, receives))));
        }
        for (side, what, thread) in running {
            let result = thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
            result.with_context(|| format!("{to}, {side} {what}"))?;
        }
        Ok(())
    })
}

fn send(mut stream: &TcpStream, seed: u64) -> Result<()> {
    stream.write_all(&content(seed).collect::<Vec<_>>())?;
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn receive(mut stream: &TcpStream, seed: u64) -> Result<()> {
    let mut wanted = content(seed);
    let mut buffer = [0; 16_384];
    let mut received = 0;
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("after {received} bytes")),
        };
        let part = buffer.get(..length).unwrap_or_default();
        ensure!(
            part.iter().all(|byte| Some(*byte) == wanted.next()),
            "other bytes came after {received}"
        );
        received += length;
        if length == 0 {
            ensure!(received == LENGTH, "{received} of {LENGTH} bytes came");
            return Ok(());
        }
    }
}
