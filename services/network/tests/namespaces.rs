//! The real service in a network namespace, against real peers. Needs root, iproute2 and dnsmasq.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod lab;

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, ROUTER};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_router_gets_its_lease_and_bridges_its_lan() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _server = lab.dnsmasq(&["--dhcp-option=6,10.9.0.53", "--domain=example.net"])?;
    let _service = lab.start()?;

    // The LAN does not wait for the lease.
    let lan = lab.interface("lan")?;
    ensure!(lan.device == "lan" && lan.addresses == ["192.168.77.1/24"], "{lan:?}");
    let ports: Vec<_> = lan.ports.iter().map(|port| port.device.as_str()).collect();
    ensure!(ports == ["lan0", "lan1"], "{ports:?}");
    ensure!(lan.mac == lan.ports[0].mac, "the bridge has the first port's address: {lan:?}");

    lab.until_state("bound", SOON)?;
    let lease = lab.lease()?;
    ensure!(lease.server.as_deref() == Some("10.9.0.1"), "{lease:?}");
    ensure!(lease.gateway.as_deref() == Some("10.9.0.1"), "{lease:?}");
    ensure!(lease.dns == ["10.9.0.53"], "{lease:?}");
    ensure!(lease.domain.as_deref() == Some("example.net"), "{lease:?}");
    ensure!(lease.lease_s == 120, "{lease:?}");
    lab.until("the address is there", SOON, || {
        Ok(lab.interface("wan")?.addresses == [lease.address.clone().unwrap()])
    })?;
    lab.until("the way out", SOON, || Ok(lab.router.run("ping -c1 -W1 10.9.0.1").is_ok()))?;
    let routes = lab.router.run("ip route show default")?;
    ensure!(routes.contains("default via 10.9.0.1 dev wan0 proto 80 src"), "{routes}");

    // Both clients share the bridge and reach the router.
    for (client, address) in lab.clients.iter().zip(["192.168.77.11/24", "192.168.77.12/24"]) {
        client.address("eth0", address)?;
        client.run("ping -c1 -W2 192.168.77.1")?;
    }
    lab.clients[0].run("ping -c1 -W2 192.168.77.12")?;
    Ok(())
}
