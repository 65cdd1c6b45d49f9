//! The router is closed from the first packet on: while it boots, no closed port answers, since links
//! come up behind the filters.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::scene::Scene;

/// Hardware address of the LAN: that of its first port.
const ROUTER_MAC: &str = "52:54:00:77:00:01";
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// What the router makes of its hardware address.
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe77, 1);
const HOST: &str = "192.168.77.50/24";
const CLOSED: u16 = 81;
const OPEN: u16 = 443;

/// How long the boot may take, on a busy machine.
const BOOT: Duration = Duration::from_secs(240);

/// How long the answer to a probe is waited for; then the next one is sent.
const PROBE: Duration = Duration::from_millis(5);

pub fn closed_while_it_boots(scene: &mut Scene) -> Result<()> {
    let host = scene.host();
    host.run(&format!("ip address add {HOST} dev eth0"))?;
    for address in [ROUTER.to_string(), ROUTER6.to_string()] {
        // So that no probe waits for the router to say where it is.
        host.run(&format!("ip neighbour replace {address} lladdr {ROUTER_MAC} dev eth0"))?;
    }
    let index: u32 = host.run("cat /sys/class/net/eth0/ifindex")?.trim().parse()?;
    scene.lab.power_on()?;
    let stop = AtomicBool::new(false);
    let scene = &*scene;
    let host = scene.host();
    let (probes, healthy) = thread::scope(|scope| {
        let probes = scope.spawn(|| host.namespace().enter(|| Ok(probe(index, &stop))));
        let healthy = host.wait_for_status("healthy", BOOT, |status| {
            status.pointer("/system/healthy").and_then(Value::as_bool) == Some(true)
        });
        stop.store(true, Ordering::SeqCst);
        (probes.join(), healthy)
    });
    let Probes { sent, answers } = probes.map_err(|_| anyhow!("the probes panicked"))??;
    ensure!(answers.is_empty(), "closed ports answered while the router booted: {answers:?}");
    healthy?;
    ensure!(sent > 500, "only {sent} probes");
    // They were on the right way.
    let open = SocketAddr::from((ROUTER, OPEN));
    host.namespace()
        .enter(|| Ok(TcpStream::connect_timeout(&open, Duration::from_secs(5)).map(drop)?))
        .with_context(|| open.to_string())?;
    host.run(&format!("ping -c 1 -W 5 {ROUTER6}%eth0"))?;
    Ok(())
}

fn link_local(port: u16, index: u32) -> SocketAddr {
    SocketAddrV6::new(ROUTER6, port, 0, index).into()
}

struct Probes {
    sent: u64,
    /// What answered, and when, since the power came on.
    answers: Vec<(String, Duration)>,
}

/// Knocks at closed ports until told to stop.
fn probe(index: u32, stop: &AtomicBool) -> Probes {
    let started = Instant::now();
    let mut probes = Probes { sent: 0, answers: Vec::new() };
    while !stop.load(Ordering::SeqCst) && probes.answers.len() < 20 {
        for target in [SocketAddr::from((ROUTER, CLOSED)), link_local(CLOSED, index)] {
            probes.sent += 2;
            for (protocol, answered) in [("tcp", tcp_answers(target)), ("udp", udp_answers(target))]
            {
                if answered {
                    probes.answers.push((format!("{protocol} {target}"), started.elapsed()));
                }
            }
        }
    }
    probes
}

/// A reset is an answer.
fn tcp_answers(target: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&target, PROBE) {
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => true,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::TimedOut {
                // No cable yet.
                thread::sleep(PROBE);
            }
            false
        }
    }
}

/// An ICMP error is an answer.
fn udp_answers(target: SocketAddr) -> bool {
    let local: SocketAddr = if target.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let asked = || -> std::io::Result<()> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(PROBE))?;
        socket.send(b"anybody?")?;
        socket.recv(&mut [0; 16]).map(drop)
    };
    match asked() {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}
