//! Links come up when the firewall is on them, and go down when it leaves. Needs root, iproute2 and
//! dnsmasq.

#![allow(clippy::unwrap_used, missing_docs)]

mod lab;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, ROUTER, SOON,
    monitor::{monitor, monitored, settled},
};

/// Whether a device of the router is administratively up.
fn is_up(lab: &Lab, device: &str) -> Result<bool> {
    let shown = lab.router.run(&format!("ip -o link show {device}"))?;
    Ok(shown.contains(",UP") || shown.contains("<UP"))
}

/// Kernel index of a device of the router.
fn index(lab: &Lab, device: &str) -> Result<u32> {
    let text = lab.router.run(&format!("cat /sys/class/net/{device}/ifindex"))?;
    Ok(text.trim().parse()?)
}

#[test]
fn a_link_comes_up_when_the_firewall_is_on_it() -> Result<()> {
    let (lab, firewall) = Lab::guarded(ROUTER)?;
    let _server = lab.dnsmasq(&[])?;
    let client = &lab.clients[0];
    client.address("eth0", "192.168.77.11/24")?;
    let service = lab.start()?;
    let up = |device: &str| is_up(&lab, device);
    let index = |device: &str| index(&lab, device);
    // Everything is prepared, and nothing of the router answers.
    lab.until("the LAN's address", SOON, || {
        Ok(lab.interface("lan")?.addresses == ["192.168.77.1/24"])
    })?;
    lab.until("the ports", SOON, || Ok(up("lan0")? && up("lan1")?))?;
    ensure!(!up("lan")? && !up("wan0")?, "up without a firewall");
    ensure!(client.run("ping -c2 -i0.2 -W1 192.168.77.1").is_err());
    ensure!(!up("lan")? && !up("wan0")? && lab.dhcp_messages().is_empty());

    firewall.guard(&[index("lan")?])?;
    lab.until("the LAN", SOON, || Ok(client.run("ping -c1 -W1 192.168.77.1").is_ok()))?;
    ensure!(up("lan")? && !up("wan0")? && lab.dhcp_messages().is_empty());
    firewall.guard(&[index("lan")?, index("wan0")?])?;
    lab.until_state("bound", SOON)?;
    lab.until("the way out", SOON, || Ok(lab.router.run("ping -c1 -W1 10.9.0.1").is_ok()))?;

    // While it is away its filters go on, and so do the links; over a restart of this service too.
    settled(&lab, "-4")?;
    let monitor = monitor(&lab, "-4", "guard")?;
    firewall.guard(&[])?;
    // Time for a mistake.
    std::thread::sleep(Duration::from_millis(500));
    service.stop()?;
    let _service = lab.start()?;
    lab.until_state("bound", SOON)?;
    drop(monitor);
    let events = monitored(&lab, "guard")?;
    ensure!(events.is_empty(), "links were touched:\n{events}");

    // One that was taken down comes up only behind it.
    lab.router.run("ip link set wan0 down")?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(!up("wan0")?);
    firewall.guard(&[index("lan")?, index("wan0")?])?;
    lab.until("the way out", SOON, || Ok(lab.router.run("ping -c1 -W1 10.9.0.1").is_ok()))
}

/// The firewall leaves what belongs to no interface, and needs a moment to get on what is new.
#[test]
fn a_device_that_nothing_filters_on_any_more_goes_down() -> Result<()> {
    let (lab, firewall) = Lab::guarded(ROUTER)?;
    let _server = lab.dnsmasq(&[])?;
    let _service = lab.start()?;
    let index = |device: &str| index(&lab, device);
    firewall.guard(&[index("lan")?, index("wan0")?])?;
    lab.until("all up", SOON, || Ok(is_up(&lab, "lan")? && is_up(&lab, "wan0")?))?;
    ensure!(is_up(&lab, "lan1")?);

    // A port becomes an interface: it may come up when the firewall is on it.
    let own = ROUTER.replace(r#""lan0", "lan1""#, r#""lan0""#)
        + r#"
        [interfaces.guest]
        zone = "guest"
        ports = ["lan1"]
        ipv4 = { method = "static", addresses = ["192.168.78.1/24"] }
        "#;
    lab.apply(&own)?;
    ensure!(!is_up(&lab, "lan1")?, "on its link before anything filters there");
    ensure!(lab.interface("guest")?.addresses == ["192.168.78.1/24"]);
    firewall.guard(&[index("lan")?, index("wan0")?, index("lan1")?])?;
    lab.until("the guests' interface", SOON, || is_up(&lab, "lan1"))?;
    ensure!(is_up(&lab, "lan")? && is_up(&lab, "lan0")? && is_up(&lab, "wan0")?);

    // An interface is no more, and so the firewall leaves its device.
    lab.apply(&ROUTER.replace(r#""lan0", "lan1""#, r#""lan0""#))?;
    ensure!(!is_up(&lab, "lan1")?, "on its link when nothing filters there any more");
    // What somebody else does with it is nobody's business here.
    lab.router.run("ip link set lan1 up")?;
    lab.apply(&ROUTER.replace(r#""lan0", "lan1""#, r#""lan0""#))?;
    ensure!(is_up(&lab, "lan1")?);

    // A port of a bridge that is no more.
    let wan = ROUTER.split("[interfaces.lan]").next().context("the WAN")?;
    lab.apply(wan)?;
    ensure!(lab.router.run("ip link show lan").is_err(), "the bridge is gone");
    ensure!(!is_up(&lab, "lan0")? && is_up(&lab, "wan0")?);
    Ok(())
}
