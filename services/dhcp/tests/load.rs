//! Many clients at once, and kill -9 in the middle. Needs root, iproute2, perfdhcp (kea-admin).
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy.toml lifts these for #[test] functions only, not for what they call"
)]

mod lab;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dhcproto::{
    Decodable, Encodable,
    v4::{DhcpOption, Message, MessageType},
};
use lab::{Client, Lab, part};
use portcullis_netns::execute;
use serde_json::json;

/// See `clients.rs`.
#[test]
fn service_process() {
    if std::env::var_os(lab::CHILD).is_some() {
        let code = portcullis_dhcp::main();
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

fn large() -> Result<Lab> {
    let mut part = part(json!({ "pool": { "start": "10.77.1.0", "end": "10.77.20.255" } }))?;
    for scope in part.servers.values_mut() {
        scope.network = "10.77.0.1/16".parse()?;
    }
    let lab = Lab::new(part)?;
    lab.router.address("lan", "10.77.0.1/16")?;
    Ok(lab)
}

#[test]
fn perfdhcp_loses_nothing() -> Result<()> {
    let lab = large()?;
    let relay = lab.client(1)?;
    relay.host.address("eth0", "10.77.0.2/16")?;
    // Every client is new, so that every offer waits for its probe.
    let mut command = relay.host.command("perfdhcp");
    command.args(["-4", "-r", "100", "-n", "500", "-R", "500", "-W", "2000000", "-l", "eth0"]);
    let output = execute(command.arg("10.77.0.1"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    let received: Vec<_> =
        text.lines().filter(|line| line.starts_with("received packets")).collect();
    assert_eq!(received, ["received packets: 500"; 2], "{text}");
    let bound = lab.leases()?.into_iter().filter(|lease| lease.state == "bound").count();
    assert_eq!(bound, 500);
    Ok(())
}

/// A relay agent with as many clients behind it as one likes.
struct Relay {
    socket: UdpSocket,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

impl Relay {
    fn new(client: &Client) -> Result<Self> {
        client.host.address("eth0", "10.77.0.2/16")?;
        let socket = client.host.enter(|| {
            let socket = UdpSocket::bind(SocketAddrV4::new(RELAY, 67))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    fn send(&self, kind: MessageType, client: u32, take: Option<Ipv4Addr>) -> Result<()> {
        let none = Ipv4Addr::UNSPECIFIED;
        let [a, b, c, d] = client.to_be_bytes();
        let mut message =
            Message::new_with_id(client, none, none, none, RELAY, &[2, 1, a, b, c, d]);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(address) = take {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
            message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
        }
        // An error here is the ICMP answer to an earlier one, while the service is down.
        let _ = self.socket.send_to(&message.to_vec()?, (SERVER, 67));
        Ok(())
    }

    /// Takes what came in: requests what is offered, notes what is acknowledged.
    fn receive(&self, acknowledged: &mut BTreeMap<u32, Ipv4Addr>) -> Result<()> {
        let mut buffer = [0; 1500];
        while let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
            let message = Message::from_bytes(&buffer[..length])?;
            match message.opts().msg_type().context("a type")? {
                MessageType::Offer => {
                    self.send(MessageType::Request, message.xid(), Some(message.yiaddr()))?;
                }
                MessageType::Ack => drop(acknowledged.insert(message.xid(), message.yiaddr())),
                other => anyhow::bail!("{other:?} for a well-behaved client"),
            }
        }
        Ok(())
    }
}

#[test]
fn kill_9_under_load_loses_no_acknowledged_lease() -> Result<()> {
    let mut lab = large()?;
    let client = lab.client(1)?;
    let relay = Relay::new(&client)?;
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    for round in 0..5_u64 {
        let kill_at = Instant::now() + Duration::from_millis(500 + 130 * round);
        while Instant::now() < kill_at {
            for _ in 0..10 {
                relay.send(MessageType::Discover, number, None)?;
                number += 1;
            }
            relay.receive(&mut acknowledged)?;
        }
        lab.kill();
        // What was on the wire when the service died was acknowledged as well.
        relay.receive(&mut acknowledged)?;
        lab.start()?;
        let leases: BTreeMap<_, _> =
            lab.leases()?.into_iter().map(|lease| (lease.address, lease.mac)).collect();
        for (client, address) in &acknowledged {
            let [a, b, c, d] = client.to_be_bytes();
            let mac = format!("02:01:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
            let held = leases.get(&address.to_string());
            ensure!(held == Some(&mac), "round {round}: {address} of {mac} is {held:?}");
        }
    }
    println!("{} leases acknowledged to {number} clients", acknowledged.len());
    ensure!(acknowledged.len() > 100, "too little load: {}", acknowledged.len());
    Ok(())
}
