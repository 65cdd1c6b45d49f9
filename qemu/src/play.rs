//! `make lab`: a shell on a LAN host behind the appliance.

use std::{path::Path, process::Command};

use anyhow::Result;
use portcullis_qemu::{Accelerator, Disk, Lab, Scratch, addresses, clean_up_at_signals};

/// Builds the lab, boots, and gives the terminal to a shell on the first LAN host.
pub fn play(image: &Path) -> Result<()> {
    clean_up_at_signals()?;
    let folder = Scratch::new("lab")?;
    let disk = Disk::overlay(image, &folder.path().join("disk.qcow2"), Some(2048))?;
    let mut lab = Lab::new(folder.path(), disk)?;
    println!("Booting the appliance ({}) ...", Accelerator::choose()?);
    lab.boot()?;
    let [host, second] = &lab.hosts;
    println!(
        "
You are on a LAN host ({address}) behind the appliance. Try:
  ping {site}               through the NAT to the simulated internet
  curl http://{name}/    the address that the site sees you from
  dig {name}             an outside name
  dig pc.lan                      the name of this host
  curl -k https://192.168.77.1/api/v1/status
A second LAN host without lease yet:   ip netns exec {second} bash
The provider (DHCP, DNS) and the site: ip netns exec {provider} bash, ip netns exec {web} bash
The serial console's log:              {console}
Leave the shell to switch everything off.
",
        address = host.address()?,
        site = addresses::SITE,
        name = addresses::SITE_NAME,
        second = second.namespace().name(),
        provider = lab.internet.provider.name(),
        web = lab.internet.site.name(),
        console = folder.path().join("console.log").display(),
    );
    Command::new("ip")
        .args(["netns", "exec", host.namespace().name(), "bash", "--norc"])
        .env("PS1", "lan-host# ")
        .status()?;
    Ok(())
}
