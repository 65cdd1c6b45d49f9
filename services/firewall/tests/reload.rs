//! Rules are replaced under traffic: between real hosts, with every datagram counted. Needs root.
#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use portcullis_datapath_abi::Counter;
use portcullis_firewall::datapath::{Datapath, Sizes};
use portcullis_model::{Document, firewall::Rule};
use portcullis_netns::Namespace;
use portcullis_site::{SERVER, Site};

/// Where the datagrams go that every policy here lets pass.
const PORT: u16 = 7000;
/// Where only every other policy lets datagrams pass.
const SOMETIMES: u16 = 7001;

/// Ten thousand rules, of which none fits a datagram to [`PORT`]; and one that refuses
/// [`SOMETIMES`] in the odd generations.
fn rules(generation: usize) -> Result<Vec<Rule>> {
    let mut text = String::new();
    for n in 0..10_000 {
        let (a, b) = (n >> 8, n & 255);
        let net = 20 + generation % 2;
        text += &format!(
            "[[firewall.rules]]\nname = \"r{n}\"\nfrom = \"lan\"\nto = \"wan\"\n\
             sources = [\"10.{a}.{b}.0/28\", \"192.168.77.0/24\"]\n\
             destinations = [\"{net}.{a}.{b}.7\"]\nprotocols = [\"udp\"]\n\
             destination_ports = [{}]\naction = \"{}\"\n",
            10_000 + n,
            ["deny", "reject"][n % 2]
        );
    }
    let action = ["allow", "deny"][generation % 2];
    text += &format!(
        "[[firewall.rules]]\nname = \"sometimes\"\nfrom = \"lan\"\nprotocols = [\"udp\"]\n\
         destination_ports = [{SOMETIMES}]\naction = \"{action}\"\n"
    );
    Ok(Document::parse(&text)?.firewall.rules)
}

/// Numbers of the datagrams that came.
fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((4, _)) => {
                numbers.push(u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]))
            }
            Ok(_) => {}
            Err(_) if stop.load(Ordering::SeqCst) => return Ok(numbers),
            Err(_) => {}
        }
    }
}

/// Sends numbered datagrams until told to stop: most of one flow, one in eight the first of a flow
/// of its own. Returns how many.
fn send(stop: &AtomicBool) -> Result<u32> {
    let steady = UdpSocket::bind("0.0.0.0:0")?;
    steady.connect((SERVER, PORT))?;
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        if count % 8 == 0 {
            let fresh = UdpSocket::bind("0.0.0.0:0")?;
            fresh.send_to(&u32::to_be_bytes(count), (SERVER, PORT))?;
        } else {
            steady.send(&count.to_be_bytes())?;
        }
        count += 1;
        thread::sleep(Duration::from_micros(150));
    }
    Ok(count)
}

#[test]
fn ten_thousand_rules_are_replaced_without_losing_a_datagram() -> Result<()> {
    let mut site = Site::new("")?;
    let sizes = Sizes { flows: 32_768, lines: 1 << 16 };
    site.reopen(sizes.flows)?;
    site.datapath = site.router.enter(|| Ok(Datapath::with_sizes(site.pins(), sizes)?))?;
    let sink = site.server.enter(|| Ok(UdpSocket::bind((SERVER, PORT))?))?;
    // A full buffer of the receiver would look like a loss on the way.
    socket2::SockRef::from(&sink).set_recv_buffer_size(8 << 20)?;
    let sometimes = site.server.enter(|| Ok(UdpSocket::bind((SERVER, SOMETIMES))?))?;
    sometimes.set_read_timeout(Some(Duration::from_millis(700)))?;
    let (stop_sending, stop_receiving) = (AtomicBool::new(false), AtomicBool::new(false));

    let by_turns = [rules(0)?, rules(1)?];
    site.part.firewall.rules = by_turns[0].clone();
    site.reconcile()?;
    let host = std::mem::replace(&mut site.host, Namespace::new("none")?);
    let (sent, received) = thread::scope(|scope| -> Result<(u32, Vec<u32>)> {
        let receiver = scope.spawn(|| receive(&sink, &stop_receiving));
        let sender = scope.spawn(|| host.enter(|| send(&stop_sending)));
        let reloads = (|| -> Result<()> {
            let mut buffer = [0; 64];
            for generation in 1..7 {
                site.part.firewall.rules = by_turns[generation % 2].clone();
                let begin = Instant::now();
                site.reconcile()?;
                println!("generation {generation}: {:?}", begin.elapsed());
                // It is in force: its one new rule decides.
                let fresh = host.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
                fresh.send_to(b"sometimes", (SERVER, SOMETIMES))?;
                let arrived = sometimes.recv_from(&mut buffer).is_ok();
                ensure!(arrived == (generation % 2 == 0), "generation {generation}: {arrived}");
            }
            Ok(())
        })();
        stop_sending.store(true, Ordering::SeqCst);
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        stop_receiving.store(true, Ordering::SeqCst);
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        reloads?;
        Ok((sent?, received?))
    })?;

    let mut distinct = received.clone();
    distinct.sort_unstable();
    distinct.dedup();
    println!("{sent} datagrams sent, {} received", distinct.len());
    let missing: Vec<u32> =
        (0..sent).filter(|number| distinct.binary_search(number).is_err()).take(10).collect();
    ensure!(missing.is_empty(), "missing {missing:?} of {sent}; {}", site.counters()?);
    ensure!(sent > 5_000, "only {sent} datagrams were sent while rules were replaced");
    ensure!(site.count(Counter::DropPolicy)? >= 3, "the odd generations refuse");
    Ok(())
}
