//! The running service with real clients. Needs root, iproute2, udhcpc, dhclient
//! (isc-dhcp-client).

mod lab;

use anyhow::{Context, Result};
use lab::{Lab, part};
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
    let value = |name: &str| host.value(name).with_context(|| format!("no {name}: {}", host.told()));
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
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while lab.lease("192.168.77.100")?.state != "released" {
        assert!(std::time::Instant::now() < end, "not released: {:?}", lab.leases()?);
    }
    Ok(())
}
