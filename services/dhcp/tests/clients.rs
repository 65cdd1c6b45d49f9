//! The running service with real clients. Needs root, iproute2, udhcpc, dhclient
//! (isc-dhcp-client).
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy.toml lifts these for #[test] functions only, not for what they call"
)]

mod lab;

use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Lab, part};
use portcullis_bus::dhcp::Lease;
use serde_json::json;

/// The service itself: the test starts its own program again with this as the only test.
#[test]
fn service_process() {
    if std::env::var_os(lab::CHILD).is_some() {
        let code = portcullis_dhcp::main();
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

#[test]
fn udhcpc_gets_all_options_renews_and_releases() -> Result<()> {
    let lab = Lab::new(part(json!({
        "lease_time_s": 600,
        "dns": ["192.168.77.1", "9.9.9.9"],
        "ntp": ["192.168.77.1"],
        "mtu": 1400,
    }))?)?;
    let host = lab.client(1)?;
    let client = host.udhcpc("-R -x hostname:Laptop_One -O ntpsrv -O mtu -O broadcast")?;
    host.wait_for("bound", 1)?;
    let value =
        |name: &str| host.value(name).with_context(|| format!("no {name}: {}", host.told()));
    assert_eq!(value("ip")?, "192.168.77.100");
    assert_eq!(value("subnet")?, "255.255.255.0");
    assert_eq!(value("router")?, "192.168.77.1");
    assert_eq!(value("dns")?, "192.168.77.1 9.9.9.9");
    assert_eq!(value("ntpsrv")?, "192.168.77.1");
    assert_eq!(value("mtu")?, "1400");
    assert_eq!(value("domain")?, "lan");
    assert_eq!(value("broadcast")?, "192.168.77.255");
    assert_eq!(value("lease")?, "600");
    assert_eq!(value("serverid")?, "192.168.77.1");
    let lease = lab.lease("192.168.77.100")?;
    assert_eq!(lease.state, "bound");
    assert_eq!(lease.mac, host.mac);
    assert_eq!(lease.hostname.as_deref(), Some("laptop-one"));
    assert!(!lease.reserved);

    client.signal(rustix::process::Signal::USR1)?;
    host.wait_for("renew", 1)?;
    assert!(lab.lease("192.168.77.100")?.expires_unix_s >= lease.expires_unix_s);

    client.signal(rustix::process::Signal::USR2)?;
    host.wait_for("deconfig", 2)?;
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while lab.lease("192.168.77.100")?.state != "released" {
        assert!(std::time::Instant::now() < end, "not released: {:?}", lab.leases()?);
    }
    Ok(())
}

#[test]
fn dhclient_gets_its_reservation_and_name() -> Result<()> {
    let lab = Lab::new(part(json!({
        "reservations": [{
            "mac": "02:00:00:00:00:05", "address": "192.168.77.20", "hostname": "nas",
        }],
    }))?)?;
    let host = lab.client(5)?;
    let folder = host.folder.path();
    std::fs::write(folder.join("conf"), "send host-name \"other\";\nretry 1;\ntimeout 20;\n")?;
    let mut command = host.host.command("dhclient");
    command.args(["-4", "-1", "-d"]);
    command.arg("-cf").arg(folder.join("conf")).arg("-lf").arg(folder.join("leases"));
    command.arg("-pf").arg(folder.join("pid")).arg("-sf").arg(host.script()?).arg("eth0");
    let client = portcullis_netns::Running::start(command)?;
    host.wait_for("BOUND", 1)?;
    assert_eq!(host.value("new_ip_address").as_deref(), Some("192.168.77.20"));
    assert_eq!(host.value("new_host_name").as_deref(), Some("nas"));
    assert_eq!(host.value("new_domain_name").as_deref(), Some("lan"));
    assert_eq!(host.value("new_dhcp_server_identifier").as_deref(), Some("192.168.77.1"));
    let lease = lab.lease("192.168.77.20")?;
    assert!(lease.reserved);
    assert_eq!(lease.hostname.as_deref(), Some("nas"));
    drop(client);

    // INIT-REBOOT: dhclient remembers its lease and asks for it again.
    std::fs::remove_file(folder.join("told"))?;
    std::fs::remove_file(folder.join("told.new"))?;
    let mut command = host.host.command("dhclient");
    command.args(["-4", "-1", "-d"]);
    command.arg("-cf").arg(folder.join("conf")).arg("-lf").arg(folder.join("leases"));
    command.arg("-pf").arg(folder.join("pid")).arg("-sf").arg(host.script()?).arg("eth0");
    let _client = portcullis_netns::Running::start(command)?;
    host.wait_for("REBOOT", 1)?;
    assert_eq!(host.value("new_ip_address").as_deref(), Some("192.168.77.20"));
    Ok(())
}

#[test]
fn an_address_in_use_is_found_by_the_probe() -> Result<()> {
    let lab = Lab::new(part(json!({}))?)?;
    let squatter = lab.client(1)?;
    squatter.host.address("eth0", "192.168.77.100/24")?;
    let address = lab.client(2)?.lease("")?;
    assert_eq!(address.octets(), [192, 168, 77, 101]);
    let aside = lab.lease("192.168.77.100")?;
    assert_eq!((aside.state.as_str(), aside.mac.as_str()), ("declined", squatter.mac.as_str()));
    assert!(lab.log()?.contains("192.168.77.100 is in use by 02:00:00:00:00:01"));
    Ok(())
}

/// As after a restart: what came meanwhile is in the socket, and the network service is asked first.
#[test]
fn a_request_waits_until_the_devices_are_known() -> Result<()> {
    let lab = Lab::in_silence(part(json!({}))?)?;
    let host = lab.client(1)?;
    // One DISCOVER and no other for a minute.
    let _client = host.udhcpc("-t 1 -T 60")?;
    // Time for it to be lost; if it needs longer, the test proves less and still holds.
    std::thread::sleep(Duration::from_millis(700));
    lab.end_silence();
    host.wait_for("bound", 1)
}

#[test]
fn a_client_declines_what_another_uses_and_gets_another_address() -> Result<()> {
    let lab = Lab::new(part(json!({}))?)?;
    let (first, second) = (lab.client(1)?, lab.client(2)?);
    assert_eq!(first.lease("")?.octets(), [192, 168, 77, 100]);
    // The first is known, so its address is offered without a probe; meanwhile the second took it.
    first.host.run("ip address flush dev eth0")?;
    second.host.address("eth0", "192.168.77.100/24")?;
    // -a: udhcpc itself asks by ARP before it takes the address.
    assert_eq!(first.lease("-a")?.octets(), [192, 168, 77, 101]);
    assert_eq!(lab.lease("192.168.77.100")?.state, "declined");
    Ok(())
}

#[test]
fn a_restart_keeps_leases_and_the_address_of_each_client() -> Result<()> {
    let mut lab = Lab::new(part(json!({}))?)?;
    let clients: Vec<_> = (1..=3).map(|n| lab.client(n)).collect::<Result<_>>()?;
    let given: Vec<_> = clients.iter().map(|c| c.lease("")).collect::<Result<_>>()?;
    let before = lab.leases()?;
    assert_eq!(before.len(), 3);
    lab.stop()?;
    lab.start()?;
    let after = lab.leases()?;
    assert_eq!(after.len(), before.len());
    for (new, old) in after.into_iter().zip(before) {
        // Shown in whole seconds, of two clocks that are not read at the same instant.
        assert!(new.expires_unix_s.abs_diff(old.expires_unix_s) <= 1, "{new:?} {old:?}");
        assert_eq!(Lease { expires_unix_s: 0, ..new }, Lease { expires_unix_s: 0, ..old });
    }
    for (client, address) in clients.iter().zip(&given).rev() {
        assert_eq!(client.lease("")?, *address);
    }
    Ok(())
}

#[test]
fn a_new_configuration_applies_to_running_clients() -> Result<()> {
    let lab = Lab::new(part(json!({ "lease_time_s": 600 }))?)?;
    let host = lab.client(1)?;
    let client = host.udhcpc("")?;
    host.wait_for("bound", 1)?;
    lab.apply(part(json!({ "pool": { "start": "192.168.77.30", "end": "192.168.77.40" } }))?)?;
    assert_eq!(lab.lease("192.168.77.100")?.state, "bound", "leases stay");
    // Renewal is refused, and the client starts over.
    client.signal(rustix::process::Signal::USR1)?;
    host.wait_for("bound", 2)?;
    assert_eq!(host.value("ip").as_deref(), Some("192.168.77.30"));
    assert!(lab.lease("192.168.77.100").is_err());
    Ok(())
}

#[test]
fn a_part_that_makes_no_sense_is_refused_and_the_service_goes_on() -> Result<()> {
    let lab = Lab::new(part(json!({}))?)?;
    let error = lab.apply_text("{\"servers\": 7}").expect_err("refused").to_string();
    assert!(error.contains("part `dhcp`"), "{error}");
    assert_eq!(lab.client(1)?.lease("")?.octets(), [192, 168, 77, 100]);
    Ok(())
}
