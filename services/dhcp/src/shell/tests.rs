//! The shell on a busy machine, between two hosts. Needs root and iproute2.

use std::sync::Arc;

use dhcproto::{
    Encodable,
    v4::{DhcpOption, Message, MessageType},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use portcullis_bus::server::{Callers, Server as BusServer};
use portcullis_model::MacAddress;
use portcullis_netns::Namespace;

use super::*;
use crate::core::LeaseState;

/// The pool's first address and who has it without a lease.
const SQUATTED: [u8; 4] = [192, 168, 77, 100];
const SQUATTER: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x99]);

fn part() -> DhcpPart {
    serde_json::from_value(serde_json::json!({
        "domain": "lan",
        "servers": { "lan": {
            "network": "192.168.77.1/24",
            "server": { "pool": { "start": "192.168.77.100", "end": "192.168.77.249" } },
        } },
    }))
    .unwrap()
}

/// A shell that serves the device `lan`.
fn shell(folder: &std::path::Path, device: Device) -> anyhow::Result<Shell> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.set_nonblocking(true)?;
    let clock = Clock(Instant::now());
    let (store, leases) = Store::open(folder);
    let (calls, _) = mpsc::channel(1);
    let bus = Dhcp1(Arc::new(bus::Api::new(calls)));
    let known = BTreeMap::from([("lan".parse()?, device)]);
    Ok(Shell {
        socket: udp::Socket::new(tokio::net::UdpSocket::from_std(socket)?)?,
        frames: frame::Sender::new()?,
        arp: None,
        devices: watch::Sender::new(Some(known)).subscribe(),
        clock,
        server: Server::new(&part(), leases, clock.now()),
        store,
        notifier: BusServer::new(bus, Callers::SocketModeDecides).notifier(),
        disk_failed: false,
        retry: None,
    })
}

fn discover() -> anyhow::Result<Vec<u8>> {
    let none = std::net::Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(1, none, none, none, none, &[2, 0, 0, 0, 0, 1]);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    Ok(message.to_vec()?)
}

/// Says in `host` that somebody has the address.
fn claim(host: &Namespace) -> anyhow::Result<()> {
    let reply = etherparse::ArpEthIpv4Packet {
        operation: etherparse::ArpOperation::REPLY,
        sender_mac: SQUATTER.0,
        sender_ipv4: SQUATTED,
        target_mac: [0xff; 6],
        target_ipv4: [0; 4],
    };
    let index = host.run("cat /sys/class/net/eth0/ifindex")?.trim().parse()?;
    let to = link::address(index, link::ARP, MacAddress([0xff; 6]))?;
    host.enter(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        sendto(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &reply.to_bytes(),
            &to,
            MsgFlags::empty(),
        )?;
        Ok(())
    })
}

/// The time to wait for an answer is over when the shell gets to run, and the answer has been there
/// for long.
#[test]
fn an_answer_to_a_probe_counts_however_late_it_is_looked_at() -> anyhow::Result<()> {
    let (router, host) = (Namespace::new("dr")?, Namespace::new("dc")?);
    router.join("lan", &host, "eth0")?;
    let index = router.run("cat /sys/class/net/lan/ifindex")?.trim().parse()?;
    let device = Device { index, mac: MacAddress([2, 0, 0, 0, 1, 0]) };
    let folder = tempfile::tempdir()?;
    router.enter(|| {
        let half = Duration::from_millis(crate::core::PROBE_MS.unsigned_abs() / 2 + 10);
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut shell = shell(folder.path(), device)?;
            let datagram = udp::Datagram { payload: discover()?, index, broadcast: true };
            shell.datagrams(vec![datagram]).await;
            // The second of two probes.
            tokio::time::sleep(half).await;
            shell.time_passed().await;
            anyhow::ensure!(shell.server.probing(), "offered after one probe");
            claim(&host)?;
            tokio::time::sleep(half).await;
            shell.time_passed().await;
            let records = shell.server.records(shell.clock.now());
            let record = records.first().context("nothing is known of the address")?;
            anyhow::ensure!(record.address.octets() == SQUATTED, "{record:?}");
            anyhow::ensure!(record.state == LeaseState::Declined, "{record:?}");
            Ok(())
        })
    })
}
