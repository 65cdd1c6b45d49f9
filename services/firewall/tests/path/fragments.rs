//! Fragments in any order (RFC 4787 REQ-14), both families, both directions.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use portcullis_datapath_abi::Counter;
use portcullis_site::{
    HOST, HOST6, MOMENT, PAIRS, PATIENCE, ROUTER, ROUTER6, Site, WAN, sockets::udp,
};

use crate::raw::{Datagram, receive, send};

/// A shuffle that is the same in each run.
fn shuffled<T>(mut items: Vec<T>, seed: u32) -> Vec<T> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    for index in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        items.swap(index, state as usize % (index + 1));
    }
    items
}

#[test]
fn datagrams_arrive_whole_in_whatever_order_their_fragments_come() -> Result<()> {
    let mut site = Site::new("")?;
    for (host, server) in PAIRS {
        let at = udp(&site.server, SocketAddr::new(server, 5000))?;
        let inside = udp(&site.host, SocketAddr::new(host, 4000))?;
        // Full fragments of the largest datagram, small ones of a smaller.
        for (length, size) in [(65_400, 1448), (3000, 1448), (9000, 256), (4000, 1232)] {
            for order in 0..4 {
                let id = 1000 + length as u32 + order;
                let (from, to) = (SocketAddr::new(host, 4000), SocketAddr::new(server, 5000));
                let datagram = Datagram::new(from, to, id, length);
                let fragments = arranged(datagram.fragments(size), order);
                send(&site.host, server, &fragments)?;
                let peer = receive(&at, &datagram.payload)
                    .with_context(|| format!("{server} {length}/{size} order {order}"))
                    .with_context(|| site.counters().unwrap_or_default())?;
                let seen = if host.is_ipv4() { IpAddr::V4(WAN) } else { host };
                ensure!(peer == SocketAddr::new(seen, 4000), "{peer}");

                // And the answer.
                let back = Datagram::new(to, peer, id, length);
                let fragments = arranged(back.fragments(size), order);
                send(&site.server, peer.ip(), &fragments)?;
                let peer = receive(&inside, &back.payload)
                    .with_context(|| format!("{host} {length}/{size} order {order}"))
                    .with_context(|| site.counters().unwrap_or_default())?;
                ensure!(peer == to, "{peer}");
            }
        }
    }
    ensure!(site.count(Counter::FragmentHeld)? > 100, "{}", site.counters()?);
    ensure!(site.count(Counter::DropFragment)? == 0, "{}", site.counters()?);
    Ok(())
}

/// In order, in reverse order, two shuffles.
fn arranged(fragments: Vec<Vec<u8>>, order: u32) -> Vec<Vec<u8>> {
    match order {
        0 => fragments,
        1 => fragments.into_iter().rev().collect(),
        seed => shuffled(fragments, seed),
    }
}

#[test]
fn datagrams_of_two_hosts_do_not_mix() -> Result<()> {
    let site = Site::new("")?;
    let (_, server) = PAIRS[0];
    let other: IpAddr = "192.168.77.101".parse()?;
    site.host.address("eth0", &format!("{other}/24"))?;
    let at = udp(&site.server, SocketAddr::new(server, 5000))?;
    let to = SocketAddr::new(server, 5000);
    // The same identification, the same port: only the addresses tell them apart.
    let mine = Datagram::new(SocketAddr::new(IpAddr::V4(HOST), 4000), to, 7, 4000);
    let others = Datagram::new(SocketAddr::new(other, 4000), to, 7, 6000);
    let mut all: Vec<_> = mine.fragments(1448).into_iter().rev().collect();
    let later: Vec<_> = others.fragments(1448).into_iter().rev().collect();
    // The first fragments last.
    let (first, firsts) = (all.pop().context("first")?, later.last().cloned().context("first")?);
    all.extend(later.into_iter().rev().skip(1));
    all.extend([firsts, first]);
    send(&site.host, server, &all)?;
    receive(&at, &others.payload)?;
    receive(&at, &mine.payload)?;
    Ok(())
}

#[test]
fn nothing_passes_without_its_first_fragment_or_where_that_may_not() -> Result<()> {
    let mut site = Site::new("")?;
    for (host, server) in PAIRS {
        let at = udp(&site.server, SocketAddr::new(server, 5000))?;
        at.set_read_timeout(Some(MOMENT))?;
        let (from, to) = (SocketAddr::new(host, 4000), SocketAddr::new(server, 5000));
        let fragments = Datagram::new(from, to, 77, 4000).fragments(1448);
        send(&site.host, server, &fragments[1..])?;
        // What comes from outside without a flow is refused, first fragment and all.
        let inward = Datagram::new(to, SocketAddr::new(host, 4000), 78, 4000);
        let route = format!("ip route add 192.168.77.0/24 via {WAN}");
        if host.is_ipv4() {
            site.provider.run(&route)?;
        }
        let inside = udp(&site.host, SocketAddr::new(host, 4000))?;
        inside.set_read_timeout(Some(MOMENT))?;
        for order in [0, 1] {
            send(&site.server, host, &arranged(inward.fragments(1448), order))?;
        }
        let mut buffer = [0; 8192];
        ensure!(at.recv(&mut buffer).is_err() && inside.recv(&mut buffer).is_err());
    }
    ensure!(site.count(Counter::Forwarded)? == 0, "{}", site.counters()?);
    ensure!(site.count(Counter::DropPolicy)? >= 4, "{}", site.counters()?);
    Ok(())
}

#[test]
fn overlapping_fragments_do_not_pass() -> Result<()> {
    let mut site = Site::new("")?;
    for (host, server) in PAIRS {
        let at = udp(&site.server, SocketAddr::new(server, 5000))?;
        at.set_read_timeout(Some(MOMENT))?;
        let (from, to) = (SocketAddr::new(host, 4000), SocketAddr::new(server, 5000));
        let datagram = Datagram::new(from, to, 79, 1992);
        let transport = datagram.transport();
        let before = site.count(Counter::DropFragmentOverlap)?;
        send(
            &site.host,
            server,
            &[
                datagram.fragment(&transport[..1200], 0, true),
                // Would write over the first one's end.
                datagram.fragment(&transport[800..], 800, false),
            ],
        )?;
        ensure!(at.recv(&mut [0; 8192]).is_err());
        let dropped = site.count(Counter::DropFragmentOverlap)? - before;
        ensure!(dropped >= 1, "{}", site.counters()?);
    }
    Ok(())
}

#[test]
fn the_router_itself_sends_and_receives_fragments() -> Result<()> {
    let mut site = Site::new("")?;
    for size in [1472, 1473, 9000, 65_507] {
        for target in [&PAIRS[0].1.to_string(), &HOST.to_string()] {
            let output = site.router.run(&format!("ping -c 2 -i 0.1 -W 2 -s {size} {target}"))?;
            ensure!(output.contains(" 0% packet loss"), "{output} {}", site.counters()?);
        }
        let output = site.host.run(&format!("ping -c 2 -i 0.1 -W 2 -s {size} {ROUTER}"))?;
        ensure!(output.contains(" 0% packet loss"), "{output} {}", site.counters()?);
        for (namespace, target) in [
            (&site.router, PAIRS[1].1),
            (&site.router, IpAddr::V6(HOST6)),
            (&site.host, IpAddr::V6(ROUTER6)),
        ] {
            let size = size.min(65_487);
            let output = namespace.run(&format!("ping -6 -c 2 -i 0.1 -W 2 -s {size} {target}"))?;
            ensure!(output.contains(" 0% packet loss"), "{output}");
        }
    }
    // Fragments to a service of the router, the first one last.
    let service = udp(&site.router, SocketAddr::new(IpAddr::V4(ROUTER), 53))?;
    let from = SocketAddr::new(IpAddr::V4(HOST), 4000);
    let datagram = Datagram::new(from, SocketAddr::new(IpAddr::V4(ROUTER), 53), 80, 4000);
    send(&site.host, IpAddr::V4(ROUTER), &arranged(datagram.fragments(1448), 1))?;
    receive(&service, &datagram.payload).with_context(|| site.counters().unwrap_or_default())?;
    Ok(())
}

#[test]
fn a_flood_of_later_fragments_leaves_others_their_place() -> Result<()> {
    let mut site = Site::new("")?;
    let (host, server) = PAIRS[0];
    let at = udp(&site.server, SocketAddr::new(server, 5000))?;
    at.set_read_timeout(Some(PATIENCE))?;
    let to = SocketAddr::new(server, 5000);
    // Ten thousand datagrams whose first fragment never comes, of one host; then others, of several.
    let flood: Vec<_> = (0..10_000)
        .filter_map(|id| {
            Datagram::new(SocketAddr::new(host, 9), to, id, 1600).fragments(1448).pop()
        })
        .collect();
    let mut arrived = 0;
    for last in 101..117_u8 {
        let other = IpAddr::from([192, 168, 77, last]);
        let datagram = Datagram::new(SocketAddr::new(other, 4000), to, 1, 4000);
        let mut fragments = datagram.fragments(1448);
        let first = fragments.remove(0);
        send(&site.host, server, &fragments)?;
        send(&site.host, server, &flood[..600])?;
        send(&site.host, server, &[first])?;
        at.set_read_timeout(Some(MOMENT))?;
        let answered = receive(&at, &datagram.payload).is_ok();
        arrived += u32::from(answered);
    }
    send(&site.host, server, &flood)?;
    // One row of eight is the flood's.
    ensure!(arrived >= 10, "{arrived} of 16, {}", site.counters()?);
    Ok(())
}
