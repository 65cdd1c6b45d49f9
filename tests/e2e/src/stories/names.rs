//! Names are resolved: those of the internet, and those of the LAN.

use std::time::Instant;

use anyhow::{Result, ensure};
use portcullis_qemu::{Host, SOON, addresses};

use crate::scene::Scene;

pub fn outside(scene: &mut Scene) -> Result<()> {
    for transport in ["+notcp", "+tcp"] {
        let answer = dig(scene.host(), transport, &format!("{} A", addresses::SITE_NAME))?;
        ensure!(answer == addresses::SITE, "{transport}: {answer}");
    }
    Ok(())
}

pub fn lan(scene: &mut Scene) -> Result<()> {
    let host = scene.host();
    let address = host.lease_by_udhcpc("pc", SOON)?;
    for transport in ["+notcp", "+tcp"] {
        // The lease is told to the client first, to the DNS forwarder next.
        let end = Instant::now() + SOON;
        loop {
            let answer = dig(host, transport, "pc.lan A")?;
            if answer == address {
                break;
            }
            ensure!(Instant::now() < end, "{transport} pc.lan: {answer}, not {address}");
        }
        let answer = dig(host, transport, "portcullis.lan A")?;
        ensure!(answer == "192.168.77.1", "{transport} portcullis.lan: {answer}");
        let answer = dig(host, transport, &format!("-x {address}"))?;
        ensure!(answer == "pc.lan.", "{transport} -x {address}: {answer}");
    }
    Ok(())
}

pub fn private(scene: &mut Scene) -> Result<()> {
    let host = scene.host();
    for question in ["nobody.lan A", "-x 192.168.77.222", "-x 10.11.12.13", "printer.local A"] {
        let answer = host.run(&format!("dig +time=3 +tries=1 @192.168.77.1 {question}"))?;
        ensure!(answer.contains("NXDOMAIN"), "{question}: {answer}");
    }
    // A name that does go to the provider: proof that its log shows what does.
    host.run("dig +time=3 +tries=1 @192.168.77.1 outside.example.net A")?;
    let log = std::fs::read_to_string(scene.lab.internet.dns_log())?;
    ensure!(log.contains("outside.example.net"), "the provider's log shows no question:\n{log}");
    for name in
        ["nobody.lan", "222.77.168.192.in-addr.arpa", "13.12.11.10.in-addr.arpa", "printer.local"]
    {
        ensure!(!log.contains(name), "{name} went to the provider");
    }
    Ok(())
}

fn dig(host: &Host, transport: &str, question: &str) -> Result<String> {
    let line = format!("dig +short +time=3 +tries=2 {transport} @192.168.77.1 {question}");
    Ok(host.run(&line)?.trim().to_owned())
}
