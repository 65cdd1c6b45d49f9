//! The stories, in the order in which they are told: those that share a running appliance first.

mod apply;
mod base;
mod closed;
mod config_volume;
mod disks;
mod download;
mod full_disk;
mod integrity;
mod ipv6;
mod lease;
mod names;
mod path;
mod policy;
mod reboot;
mod reproducible;
mod restart;
mod scan;
mod small_memory;

use std::time::Duration;

use anyhow::Result;

use crate::scene::Scene;

/// The default zones, for documents that write rules. But the simulated internet uses addresses for
/// documentation, which are bogons.
const ZONES: &str = r#"
[firewall.zones.wan]
masquerade = true
bogons = false
[firewall.zones.lan]
services = ["dhcp", "dns", "ping", "web"]
"#;

/// Many times what any story needs, on a machine that is busy and emulates another.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// The same for one that builds everything, compilers and kernel included.
const LIMIT_OF_BUILDS: Duration = Duration::from_secs(8 * 3600);

/// One story.
pub struct Story {
    /// Its name, in the words of what the user sees.
    pub name: &'static str,
    /// What happens.
    pub run: fn(&mut Scene) -> Result<()>,
    /// Whether it needs an appliance of its own, switched off at the beginning.
    pub own_scene: bool,
    /// The longest that it may go on.
    pub limit: Duration,
}

impl Story {
    const fn shared(name: &'static str, run: fn(&mut Scene) -> Result<()>) -> Self {
        Self { name, run, own_scene: false, limit: LIMIT }
    }

    const fn own(name: &'static str, run: fn(&mut Scene) -> Result<()>) -> Self {
        Self { name, run, own_scene: true, limit: LIMIT }
    }
}

/// All stories for an image on `base`; with `long` also those that take too long for every change.
pub fn all(long: bool, base: &str) -> Vec<Story> {
    let mut stories = vec![
        Story::shared("lease-by-udhcpc", lease::by_udhcpc),
        Story::shared("lease-by-dhclient", lease::by_dhclient),
        Story::shared("lease-by-systemd-networkd", lease::by_networkd),
        Story::shared("outside-name-by-udp-and-tcp", names::outside),
        Story::shared("lan-name-by-udp-and-tcp", names::lan),
        Story::shared("private-names-stay-inside", names::private),
        Story::shared("download-100-mb-through-nat", download::hundred_megabytes),
        Story::shared("wan-side-sees-one-address", download::one_address),
        Story::shared("ping-and-traceroute-through", path::ping_and_traceroute),
        Story::shared("ipv6-passes-statefully", ipv6::passes_statefully),
        Story::shared("wan-scan-finds-nothing", scan::from_wan),
        Story::shared("lan-scan-finds-53-67-443-only", scan::from_lan),
        Story::shared("killed-service-comes-back-and-no-flow-is-lost", restart::each_service),
        Story::shared("flows-survive-the-firewall-service", restart::firewall_keeps_flows),
        Story::shared("config-apply-changes-only-what-changed", apply::at_run_time),
        Story::shared("policy-holds-on-ebpf", policy::on_ebpf),
        Story::shared("policy-holds-on-nftables", policy::on_nftables),
        Story::own("no-closed-port-answers-while-it-boots", closed::closed_while_it_boots),
        Story::own("reboot-keeps-leases", reboot::keeps_leases),
        Story::own("power-cut-keeps-leases", reboot::power_cut_keeps_leases),
        Story::own("first-boot-takes-config-from-volume", config_volume::is_taken),
        Story::own("copy-of-the-disk-is-left-alone", disks::copy_is_left_alone),
        Story::own("torn-superblock-keeps-the-configuration", disks::torn_superblock),
        Story::own("without-data-partition-it-routes", disks::no_data_partition),
        Story::own("full-data-partition-does-not-stop-routing", full_disk::routing_goes_on),
        Story::own("flipped-bit-in-root-refuses-to-run", integrity::flipped_bit),
        Story::own("256-mb-guest-works", small_memory::works),
        Story::own("same-inputs-same-image", reproducible::assembled_twice),
    ];
    if base == "debian" {
        // What comes after Buildroot, without Buildroot.
        stories.push(Story::own("kernel-handed-over-as-by-buildroot-boots", base::handed_over));
    }
    if long {
        let builds = Story::own("same-commit-same-image-from-nothing", reproducible::from_nothing);
        stories.push(Story { limit: LIMIT_OF_BUILDS, ..builds });
    }
    stories
}
