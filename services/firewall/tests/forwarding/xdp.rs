//! XDP on devices of which the drivers have it.

use anyhow::{Context, Result, ensure};
use portcullis_firewall::datapath::Hook;
use portcullis_model::firewall::Hook as Wish;
use portcullis_netns::Namespace;
use portcullis_site::{PATIENCE, Plan, SERVER, Site, wait_listening};

/// Frames that XDP on a device of the router has sent on.
fn redirected(router: &Namespace, device: &str) -> Result<u64> {
    let statistics = router.run(&format!("ethtool -S {device}"))?;
    let counts = statistics.lines().filter(|line| line.contains("xdp_redirect:"));
    counts
        .map(|line| Ok(line.rsplit(' ').next().context("a number")?.parse::<u64>()?))
        .sum::<Result<u64>>()
}

fn hooks_of(site: &Site, device: &str) -> Result<Vec<Hook>> {
    let index: u32 =
        site.router.run(&format!("cat /sys/class/net/{device}/ifindex"))?.trim().parse()?;
    let attached = site.datapath.attachments().into_iter();
    Ok(attached.filter(|(found, ..)| *found == index).map(|(_, hook, _)| hook).collect())
}

/// Whether a device of the router takes the VLAN tag off a frame before XDP sees it.
fn takes_tags_off(site: &Site, device: &str) -> Result<bool> {
    let features = site.router.run(&format!("ethtool -k {device}"))?;
    let line = features.lines().find(|line| line.starts_with("rx-vlan-offload:"));
    Ok(line.context("rx-vlan-offload")?.ends_with(" on"))
}

/// An upload and then a download of 30 MB, 20,000 segments; both must come through whole.
fn transfer(site: &Site) -> Result<()> {
    for direction in ["", "-R"] {
        let mut iperf = site.server.start("iperf3 -s -1")?;
        wait_listening(&site.server, 5201)?;
        let output = site.host.run(&format!("iperf3 -c {SERVER} -n 30M {direction} --json"))?;
        ensure!(!output.contains("\"error\""), "{output}");
        iperf.wait(PATIENCE)?;
    }
    Ok(())
}

#[test]
fn xdp_on_both_sides_carries_tcp_both_ways() -> Result<()> {
    let mut site = Site::build(&Plan {
        bridge: false,
        hooks: &[("lan", Wish::Xdp), ("wan", Wish::Xdp)],
        ..Plan::default()
    })?;
    for device in ["lan", "eth0"] {
        ensure!(hooks_of(&site, device)? == [Hook::Egress, Hook::Ingress, Hook::Xdp], "{device}");
    }
    for choice in site.datapath.choices().values() {
        ensure!(choice.xdp && choice.reason == "xdp: set by firewall.hooks", "{choice:?}");
    }
    transfer(&site)?;
    let sent = [redirected(&site.router, "lan")?, redirected(&site.router, "eth0")?];
    ensure!(sent.iter().all(|sent| *sent > 15_000), "{sent:?} {}", site.counters()?);
    Ok(())
}

#[test]
fn xdp_in_one_direction_and_tcx_in_the_other() -> Result<()> {
    let mut site = Site::build(&Plan {
        bridge: false,
        hooks: &[("lan", Wish::Xdp), ("wan", Wish::Tcx)],
        ..Plan::default()
    })?;
    ensure!(hooks_of(&site, "lan")?.contains(&Hook::Xdp));
    ensure!(!hooks_of(&site, "eth0")?.contains(&Hook::Xdp));
    // Else a frame of any VLAN would look like one of the device's own zone.
    ensure!(!takes_tags_off(&site, "lan")?, "XDP does not see the tags");
    ensure!(takes_tags_off(&site, "eth0")?, "tcx does, and leaves the device as it is");
    transfer(&site)?;
    let [out, back] = [redirected(&site.router, "lan")?, redirected(&site.router, "eth0")?];
    ensure!(out > 15_000 && back == 0, "{out} {back} {}", site.counters()?);

    // And then tcx alone: what XDP held back with is gone with it.
    site.part.firewall.hooks.clear();
    site.reconcile()?;
    ensure!(!hooks_of(&site, "lan")?.contains(&Hook::Xdp));
    transfer(&site)?;
    let later = redirected(&site.router, "lan").unwrap_or(0);
    ensure!(later <= out, "{later}");
    Ok(())
}

#[test]
fn a_device_without_xdp_is_left_to_tcx_and_says_why() -> Result<()> {
    let site = Site::build(&Plan {
        bridge: true,
        hooks: &[("lan", Wish::Xdp), ("wan", Wish::Auto)],
        ..Plan::default()
    })?;
    let mut reasons: Vec<_> = site.datapath.choices().values().collect();
    reasons.sort_by_key(|choice| choice.refused);
    let [wan, lan] = reasons.as_slice() else { anyhow::bail!("{reasons:?}") };
    ensure!(!wan.refused && wan.reason == "tcx: virtual device, XDP costs its offloads", "{wan:?}");
    ensure!(lan.refused && lan.reason == "tcx: virtual device has no native XDP", "{lan:?}");
    site.host.run(&format!("ping -c 1 -W 2 {SERVER}"))?;
    Ok(())
}
