//! A LAN client gets a lease, whatever DHCP client it runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use portcullis_netns::{Running, execute};
use portcullis_qemu::{Host, SOON};
use serde_json::Value;

use crate::scene::Scene;

pub fn by_udhcpc(scene: &mut Scene) -> Result<()> {
    let host = scene.host();
    host.forget()?;
    let address = host.lease_by_udhcpc("pc", SOON)?;
    in_pool(&address)?;
    let lease = std::fs::read_to_string(host.folder().join("udhcpc.lease"))?;
    for option in ["router=192.168.77.1", "dns=192.168.77.1", "domain=lan", "lease=43200"] {
        ensure!(lease.lines().any(|line| line == option), "the lease has no {option}:\n{lease}");
    }
    listed(host, &address, "pc")
}

/// dhclient's own script would rewrite the machine's resolver.
const DHCLIENT_SCRIPT: &str = r#"#!/bin/sh
case "$reason" in
BOUND|RENEW|REBIND|REBOOT)
    ip address replace "$new_ip_address/$new_subnet_mask" dev "$interface"
    ip route replace default via "$new_routers" dev "$interface" ;;
PREINIT) ip link set "$interface" up ;;
esac
"#;

pub fn by_dhclient(scene: &mut Scene) -> Result<()> {
    let host = scene.second_host();
    host.forget()?;
    let script = host.script("dhclient-script", DHCLIENT_SCRIPT)?;
    let config = host.script("dhclient.conf", "send host-name \"laptop\";\n")?;
    let mut command = host.namespace().command("dhclient");
    command
        .args(["-4", "-1", "-d", "--no-pid", "-sf"])
        .arg(script)
        .arg("-cf")
        .arg(config)
        .arg("-lf")
        .arg(host.folder().join("dhclient.leases"))
        .arg("eth0");
    let _client = Running::start(command)?;
    let address = wait_for_address(host)?;
    in_pool(&address)?;
    listed(host, &address, "laptop")
}

pub fn by_networkd(scene: &mut Scene) -> Result<()> {
    let host = scene.second_host();
    host.forget()?;
    // In a mount namespace of its own: a /run with nothing but a configuration of ours (that of a
    // container has no folder of systemd), and /sys read-only, which tells networkd that there is no
    // udev to wait for.
    let script = host.script(
        "networkd",
        "#!/bin/sh
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases
chown -R systemd-network /run/systemd/netif
mount -o remount,ro,bind /sys || mount -t sysfs -o ro sysfs /sys
cat > /run/systemd/network/10-eth0.network <<END
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
[DHCPv4]
Hostname=networkd-client
UseDNS=no
UseHostname=no
END
exec /lib/systemd/systemd-networkd
",
    )?;
    let mut command = host.namespace().command("unshare");
    command.args(["--mount", "--"]).arg(script).env("SYSTEMD_LOG_LEVEL", "info");
    let mut networkd = Running::start(command)?;
    let outcome = wait_for_address(host);
    networkd.check()?;
    let address = outcome?;
    in_pool(&address)?;
    listed(host, &address, "networkd-client")
}

fn wait_for_address(host: &Host) -> Result<String> {
    let end = std::time::Instant::now() + SOON;
    loop {
        match host.address() {
            Ok(address) => return Ok(address),
            Err(error) if std::time::Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn in_pool(address: &str) -> Result<()> {
    let last = address.strip_prefix("192.168.77.").and_then(|last| last.parse::<u8>().ok());
    ensure!(last.is_some_and(|last| (100..=249).contains(&last)), "{address} is not of the pool");
    Ok(())
}

/// The status shows the lease with the client's name and its real hardware address.
fn listed(host: &Host, address: &str, name: &str) -> Result<()> {
    let output = execute(host.namespace().command("cat").arg("/sys/class/net/eth0/address"))?;
    let mac = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    host.wait_for_status(&format!("a lease of {address} to {mac}, {name}"), SOON, |status| {
        let leases = status.pointer("/leases").and_then(Value::as_array);
        leases.into_iter().flatten().any(|lease| {
            lease.get("address").and_then(Value::as_str) == Some(address)
                && lease.get("mac").and_then(Value::as_str) == Some(&mac)
                && lease.get("hostname").and_then(Value::as_str) == Some(name)
        })
    })?;
    Ok(())
}
