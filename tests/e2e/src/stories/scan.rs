//! What a scanner sees: nothing from the WAN, the three services from the LAN.

use std::{
    collections::BTreeSet,
    fs::File,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_netns::Running;
use portcullis_qemu::{SOON, addresses};
use serde_json::Value;

use crate::scene::Scene;

pub fn from_wan(scene: &mut Scene) -> Result<()> {
    let wan = wan_address(scene)?;
    let provider = &scene.lab.internet.provider;
    let capture = scene.folder().join("scan.pcap");
    let told = scene.folder().join("tcpdump.log");
    let mut command = provider.command("tcpdump");
    command.args(["-n", "-i", "wan0", "-U", "-w"]).arg(&capture).arg(format!("ip src host {wan}"));
    let mut tcpdump = Running::start_logged(command, File::create(&told)?)?;
    until("tcpdump listens", || Ok(std::fs::read_to_string(&told)?.contains("listening on")))?;
    let scan = "nmap -n -Pn -T4 --max-retries 1 --host-timeout 120s -oG -";
    let tcp = provider.run(&format!("{scan} -sS -p 1-1024,8080,8443 {wan}"))?;
    let udp = provider.run(&format!("{scan} -sU -p 53,67,68,123,161,500,1900,5353 {wan}"))?;
    // A scan that gave up shows no port either.
    ensure!(tcp.contains("Ignored State: filtered (1026)"), "not all TCP ports silent: {tcp}");
    ensure!(udp.matches("/open|filtered/").count() == 8, "not all UDP ports silent: {udp}");
    ensure!(open(&tcp).is_empty(), "open on the WAN: {tcp}");
    // UDP without an answer is `open|filtered`; `open` needs an answer, `closed` an ICMP error.
    ensure!(!udp.contains("/open/") && !udp.contains("/closed/"), "answered on the WAN: {udp}");
    ensure!(!tcp.contains("/closed/"), "answered on the WAN: {tcp}");
    let ping = provider.run(&format!("ping -c 1 -W 1 {wan}"));
    ensure!(ping.is_err(), "the WAN address answers ping");
    // What the LAN sends next must be in the capture: proof that it sees what passes, and has seen
    // all that came before.
    scene.host().get(&format!("http://{}/", addresses::SITE))?;
    let captured =
        |filter: &str| provider.run(&format!("tcpdump -n -r {} {filter}", capture.display()));
    let download = format!("dst host {}", addresses::SITE);
    // While it is written, its end may be half a packet.
    let seen = || Ok(captured(&download).is_ok_and(|shown| !shown.trim().is_empty()));
    until("the capture shows the LAN's download", seen)?;
    tcpdump.signal(rustix::process::Signal::INT)?;
    tcpdump.wait(SOON)?;
    // To the scanner the router may send its own questions, to its DNS and DHCP ports, only.
    let answers = captured(&format!(
        "dst host {} and not dst port 53 and not dst port 67",
        addresses::PROVIDER
    ))?;
    ensure!(answers.trim().is_empty(), "the appliance answered the scan:\n{answers}");
    Ok(())
}

pub fn from_lan(scene: &mut Scene) -> Result<()> {
    let host = scene.host().namespace();
    let scan = "nmap -n -Pn -T4 --max-retries 2 --host-timeout 180s -oG -";
    let tcp = open(&host.run(&format!("{scan} -sS -p 1-65535 --min-rate 2000 192.168.77.1"))?);
    ensure!(tcp == BTreeSet::from([53, 443]), "open TCP ports on the LAN: {tcp:?}");
    let udp = host.run(&format!("{scan} -sU -p 53,67,68,69,123,161,514,1900,5353 192.168.77.1"))?;
    // 67 does not answer a probe that is no DHCP message, so nmap cannot tell it from filtered; the
    // lease stories show it open. All others but 53 must not answer.
    ensure!(open(&udp) == BTreeSet::from([53]), "open UDP ports on the LAN: {udp}");
    ensure!(udp.contains("67/open|filtered/"), "UDP 67: {udp}");
    Ok(())
}

/// Waits until something is so.
fn until(what: &str, so: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + SOON;
    while !so()? {
        ensure!(Instant::now() < end, "not in {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn wan_address(scene: &Scene) -> Result<String> {
    let status = scene.host().status()?;
    let address = status.pointer("/wan/0/address").and_then(Value::as_str);
    let (address, _prefix) =
        address.and_then(|text| text.split_once('/')).context("no WAN lease")?;
    Ok(address.to_owned())
}

/// Ports that nmap's greppable output calls open.
fn open(output: &str) -> BTreeSet<u16> {
    output
        .split([' ', ',', '\t'])
        .filter(|word| word.contains("/open/"))
        .filter_map(|word| word.split('/').next()?.parse().ok())
        .collect()
}
