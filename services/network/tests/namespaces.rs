//! The real service in a network namespace, against real peers. Needs root, iproute2 and dnsmasq.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod lab;

use std::{fs, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, ROUTER, SOON,
    monitor::{monitor, monitored, settled},
};
use portcullis_netns::Namespace;

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
        client.run("ping -c3 -i0.3 -W5 192.168.77.1")?;
    }
    lab.clients[0].run("ping -c3 -i0.3 -W5 192.168.77.12")?;
    Ok(())
}

fn sysctl(namespace: &Namespace, path: &str) -> Result<String> {
    Ok(namespace.run(&format!("cat /proc/sys/net/{path}"))?.trim().to_owned())
}

/// Else a server outside could keep the router from being configured.
#[test]
fn what_the_kernel_refuses_of_a_lease_fails_no_change_of_the_configuration() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    // A gateway that cannot be one.
    let _server = lab.dnsmasq(&["--dhcp-option=3,10.9.0.255"])?;
    let _service = lab.start()?;
    lab.until("the refused route", SOON, || {
        Ok(lab.log().contains("wan0: add route 0.0.0.0/0 via 10.9.0.255"))
    })?;
    lab.apply(&ROUTER.replace("192.168.77.1/24", "192.168.77.254/24"))?;
    ensure!(lab.interface("lan")?.addresses == ["192.168.77.254/24"]);
    // What the user wrote is another matter.
    let refused = ROUTER.replace(
        r#"addresses = ["192.168.77.1/24"]"#,
        r#"addresses = ["192.168.77.1/24"], gateway = "192.168.77.255""#,
    );
    let error = lab.apply(&refused).err().context("a gateway that cannot be one")?;
    ensure!(
        format!("{error:#}").contains("lan: add route 0.0.0.0/0 via 192.168.77.255"),
        "{error:#}"
    );
    Ok(())
}

/// RFC 4862 section 5.4.5: it is the administrator who has to do something.
#[test]
fn an_ipv6_address_that_another_host_has_is_told() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    lab.router.run("sysctl -qw net.ipv6.conf.wan0.accept_dad=1")?;
    lab.provider.address("eth0", "2001:db8:1::2/64")?;
    let _service = lab.start()?;
    lab.apply(BOTH_FAMILIES)?;
    lab.until("the problem", SOON, || {
        Ok(lab.log().contains("wan0: 2001:db8:1::2/64 is not used: another host"))
    })?;
    ensure!(!lab.interface("wan")?.addresses.contains(&"2001:db8:1::2/64".to_owned()));
    Ok(())
}

/// Two ways out: when the cable of the preferred one is pulled, its routes are there and lead nowhere.
#[test]
fn without_a_link_the_next_uplink_is_taken() -> Result<()> {
    let lab = Lab::new(
        r#"
        [interfaces.wan]
        zone = "wan"
        ports = ["wan0"]
        ipv4 = { method = "static", addresses = ["10.9.0.2/24"], gateway = "10.9.0.1" }

        [interfaces.wan2]
        zone = "wan"
        ports = ["lan0"]
        ipv4 = { method = "static", addresses = ["10.8.0.2/24"], gateway = "10.8.0.1" }

        [interfaces.lan]
        zone = "lan"
        ports = ["lan1"]
        ipv4 = { method = "static", addresses = ["192.168.77.1/24"] }
        "#,
    )?;
    let _service = lab.start()?;
    let way_to = |address: &str| lab.router.run(&format!("ip route get {address}"));
    lab.until("the way out", SOON, || Ok(way_to("203.0.113.1")?.contains("dev wan0")))?;
    lab.provider.run("ip link set eth0 down")?;
    lab.until("the other way out", SOON, || Ok(way_to("203.0.113.1")?.contains("dev lan0")))?;
    lab.provider.run("ip link set eth0 up")?;
    lab.until("the first again", SOON, || Ok(way_to("203.0.113.1")?.contains("dev wan0")))?;
    // What is for hosts inside goes nowhere else when these are away.
    lab.clients[1].run("ip link set eth0 down")?;
    lab.until("no carrier", SOON, || Ok(!lab.interface("lan")?.carrier))?;
    ensure!(way_to("192.168.77.9")?.contains("dev lan1"), "{}", way_to("192.168.77.9")?);
    Ok(())
}

#[test]
fn the_lease_is_renewed_and_its_options_applied() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _server = lab.dnsmasq(&[
        "--dhcp-option=58,5",
        "--dhcp-option=59,60",
        "--dhcp-option=3,10.9.0.254",
        "--dhcp-option=121,0.0.0.0/0,10.9.0.1,10.50.0.0/16,10.9.0.2,203.0.113.9/32,198.51.100.1,10.60.0.0/24,0.0.0.0",
        "--dhcp-option=26,1400",
        "--dhcp-option=42,10.9.0.123",
    ])?;
    let _service = lab.start()?;
    lab.until_state("bound", SOON)?;
    lab.until("routes", SOON, || {
        Ok(lab.router.run("ip route show proto 80")?.lines().count() == 4)
    })?;
    let routes = lab.router.run("ip route show proto 80")?;
    let address = lab.lease()?.address.context("address")?;
    let own = address.trim_end_matches("/24");
    for route in [
        format!("default via 10.9.0.1 dev wan0 src {own} metric 100"),
        format!("10.50.0.0/16 via 10.9.0.2 dev wan0 src {own} metric 100"),
        // A gateway outside of the prefix is taken to be on the link.
        format!("203.0.113.9 via 198.51.100.1 dev wan0 src {own} metric 100 onlink"),
        format!("10.60.0.0/24 dev wan0 scope link src {own} metric 100"),
    ] {
        let there = routes.lines().any(|line| line.split_whitespace().eq(route.split_whitespace()));
        ensure!(there, "{route}\nis not in\n{routes}");
    }
    ensure!(lab.interface("wan")?.mtu == 1400);
    ensure!(lab.lease()?.ntp == ["10.9.0.123"]);

    let monitor = monitor(&lab, "-4", "renewal")?;
    let first = lab.lease()?.obtained_unix_s;
    lab.until("a renewal at T1", SOON, || Ok(lab.lease()?.obtained_unix_s >= first + 5))?;
    let messages = lab.dhcp_messages();
    let start = ["DISCOVER", "OFFER", "REQUEST", "ACK", "REQUEST", "ACK"];
    ensure!(messages.starts_with(&start.map(str::to_owned)), "{messages:?}");
    drop(monitor);
    let events = monitored(&lab, "renewal")?;
    let touched = events.lines().any(|line| line.contains("10.9.0.") && !line.contains("lladdr"));
    ensure!(!touched, "a renewal touches neither addresses nor routes:\n{events}");
    Ok(())
}

#[test]
fn the_lease_survives_a_restart_of_the_service() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _server = lab.dnsmasq(&[])?;
    let service = lab.start()?;
    lab.until_state("bound", SOON)?;
    settled(&lab, "-4")?;
    let before = lab.lease()?;
    let monitor = monitor(&lab, "-4", "restart")?;
    service.stop()?;
    let _service = lab.start()?;
    lab.until_state("bound", SOON)?;
    drop(monitor);
    ensure!(lab.lease()?.address == before.address);
    let messages = lab.dhcp_messages();
    ensure!(messages == ["DISCOVER", "OFFER", "REQUEST", "ACK", "REQUEST", "ACK"], "{messages:?}");
    let events = monitored(&lab, "restart")?;
    ensure!(events.is_empty(), "a restart touches nothing:\n{events}");
    Ok(())
}

#[test]
fn another_network_refuses_the_old_address() -> Result<()> {
    into_another_modem(|lab| {
        lab.provider.run("ip link set eth0 down")?;
        lab.until("no carrier", SOON, || Ok(!lab.interface("wan")?.carrier))?;
        ensure!(lab.lease()?.address.is_some(), "the lease is kept while the cable is out");
        lab.provider.run("ip link set eth0 up")
    })
}

#[test]
fn a_link_that_is_back_before_anybody_looked_is_another_network() -> Result<()> {
    into_another_modem(|lab| {
        fs::write(lab.path("flap"), "link set eth0 down\nlink set eth0 up\n")?;
        lab.provider.run(&format!("ip -batch {}", lab.path("flap").display()))
    })
}

/// A router with a lease comes into another network; `replug` takes its cable out and in.
fn into_another_modem(replug: impl Fn(&Lab) -> Result<String>) -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let server = lab.dnsmasq(&[])?;
    let _service = lab.start()?;
    lab.until_state("bound", SOON)?;
    drop(server);
    lab.provider.run("ip address flush dev eth0")?;
    lab.provider.address("eth0", "10.10.0.1/24")?;
    let _server = lab.dnsmasq(&["--dhcp-range=10.10.0.100,10.10.0.150,255.255.255.0,120"])?;
    replug(&lab)?;
    lab.until("the new address alone", SOON, || {
        let addresses = lab.interface("wan")?.addresses;
        Ok(addresses.len() == 1 && addresses[0].starts_with("10.10.0."))
    })?;
    ensure!(lab.dhcp_messages().contains(&"NAK".to_owned()), "{}", lab.dnsmasq_log());
    lab.until("the way out", SOON, || Ok(lab.router.run("ping -c1 -W1 10.10.0.1").is_ok()))?;
    Ok(())
}

#[test]
fn a_lease_that_runs_out_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    // dnsmasq gives no lease under two minutes; udhcpd does.
    fs::write(
        lab.path("udhcpd.conf"),
        format!(
            "start 10.9.0.100\nend 10.9.0.110\ninterface eth0\nlease_file {}\npidfile {}\n\
             min_lease 1\nopt subnet 255.255.255.0\nopt router 10.9.0.1\nopt lease 12\n",
            lab.path("udhcpd.leases").display(),
            lab.path("udhcpd.pid").display()
        ),
    )?;
    fs::write(lab.path("udhcpd.leases"), "")?;
    let mut server =
        lab.provider.start(&format!("udhcpd -f {}", lab.path("udhcpd.conf").display()))?;
    std::thread::sleep(Duration::from_millis(300));
    server.check().context("is udhcpd installed?")?;
    let _service = lab.start()?;
    lab.until_state("bound", SOON)?;
    lab.until("address", SOON, || Ok(!lab.interface("wan")?.addresses.is_empty()))?;
    drop(server);
    lab.until("nothing", SOON, || {
        let wan = lab.interface("wan")?;
        Ok(lab.lease()?.address.is_none() && wan.addresses.is_empty() && wan.gateway.is_none())
    })?;
    ensure!(lab.router.run("ip route show dev wan0")?.is_empty());
    ensure!(lab.log().contains("the lease ran out"));
    Ok(())
}

#[test]
fn an_address_that_another_host_has_is_declined() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    // The only address that the server has is taken by the provider itself.
    lab.provider.run("ip link add other type veth peer name another")?;
    lab.provider.run("ip link set other up")?;
    lab.provider.address("other", "10.9.0.100/32")?;
    let _server = lab.dnsmasq(&["--dhcp-range=10.9.0.100,10.9.0.100,255.255.255.0,120"])?;
    let _service = lab.start()?;
    lab.until("DECLINE", SOON, || Ok(lab.dhcp_messages().contains(&"DECLINE".to_owned())))?;
    ensure!(lab.interface("wan")?.addresses.is_empty());
    ensure!(lab.log().contains("10.9.0.100 is already in use by"));
    Ok(())
}

#[test]
fn what_is_as_wanted_is_not_touched_and_drift_is_mended() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _server = lab.dnsmasq(&[])?;
    let _service = lab.start()?;
    settled(&lab, "-4")?;

    // The same again: no event.
    let quiet = monitor(&lab, "-4", "quiet")?;
    for _ in 0..3 {
        lab.apply(ROUTER)?;
    }
    std::thread::sleep(Duration::from_millis(300));
    drop(quiet);
    let events = monitored(&lab, "quiet")?;
    ensure!(events.is_empty(), "{events}");

    // Somebody meddles.
    for line in [
        "ip address del 192.168.77.1/24 dev lan",
        "ip link set lan0 nomaster",
        "ip link set lan type bridge stp_state 1",
        "ip route del default",
        "ip link set wan0 down",
        "sysctl -qw net.ipv4.conf.lan.arp_ignore=0",
    ] {
        lab.router.run(line)?;
        lab.until(line, SOON, || {
            let lan = lab.interface("lan")?;
            let wan = lab.interface("wan")?;
            let bridge = lab.router.run("ip -d link show lan")?;
            // Parameters send no message of their own: the next change brings the check.
            lab.router.run("ip link set lo mtu 65535")?;
            lab.router.run("ip link set lo mtu 65536")?;
            Ok(lan.addresses == ["192.168.77.1/24"]
                && lan.carrier
                && wan.gateway.as_deref() == Some("10.9.0.1")
                && bridge.contains("stp_state 0")
                && lab.router.run("ip link show lan0")?.contains("master lan")
                && sysctl(&lab.router, "ipv4/conf/lan/arp_ignore")? == "1")
        })?;
    }

    // What is not ours stays; forwarding is the firewall's.
    lab.router.run("sysctl -qw net.ipv4.ip_forward=0")?;
    lab.router.run("ip address add 172.16.0.1/24 dev wan0")?;
    lab.router.run("ip route add 172.17.0.0/16 via 172.16.0.2")?;
    lab.apply(ROUTER)?;
    std::thread::sleep(Duration::from_millis(200));
    ensure!(lab.router.run("ip address show wan0")?.contains("172.16.0.1/24"));
    ensure!(lab.router.run("ip route")?.contains("172.17.0.0/16"));

    for (path, value) in [
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/wan0/rp_filter", "1"),
        ("ipv4/conf/wan0/accept_redirects", "0"),
        ("ipv4/conf/lan/arp_ignore", "1"),
        ("ipv4/conf/lan/promote_secondaries", "1"),
        ("ipv6/conf/wan0/accept_ra", "0"),
        ("ipv6/conf/lan/accept_ra", "0"),
    ] {
        ensure!(sysctl(&lab.router, path)? == value, "{path} is not {value}");
    }
    Ok(())
}

#[test]
fn a_new_configuration_changes_only_what_differs() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _server = lab.dnsmasq(&[])?;
    let _service = lab.start()?;
    lab.until_state("bound", SOON)?;
    lab.clients[0].address("eth0", "192.168.77.11/24")?;
    lab.clients[0].run("ping -c3 -i0.3 -W5 192.168.77.1")?;
    settled(&lab, "-4")?;

    let monitor = monitor(&lab, "-4", "address")?;
    lab.apply(&ROUTER.replace("192.168.77.1/24", "192.168.77.254/24"))?;
    ensure!(lab.interface("lan")?.addresses == ["192.168.77.254/24"]);
    lab.clients[0].run("ping -c3 -i0.3 -W5 192.168.77.254")?;
    drop(monitor);
    let events = monitored(&lab, "address")?;
    let wan = events.lines().any(|line| line.contains("wan0") || line.contains("10.9.0."));
    ensure!(!wan, "the WAN is not touched:\n{events}");
    let routes = lab.router.run("ip route show 192.168.77.0/24")?;
    ensure!(routes.contains("dev lan proto kernel scope link src 192.168.77.254"), "{routes}");

    // One port less, and the bridge remains what it is.
    let index = lab.interface("lan")?.index;
    lab.apply(&ROUTER.replace(r#""lan0", "lan1""#, r#""lan1""#))?;
    let lan = lab.interface("lan")?;
    ensure!(lan.index == index && lan.ports.len() == 1 && lan.ports[0].device == "lan1", "{lan:?}");
    ensure!(!lab.router.run("ip link show lan0")?.contains("master"));

    // No bridge any more, and the WAN by hand: the lease is given back.
    lab.apply(
        r#"
        [interfaces.wan]
        zone = "wan"
        ports = ["wan0"]
        ipv4 = { method = "static", addresses = ["10.9.0.7/24"], gateway = "10.9.0.1", metric = 7 }

        [interfaces.home]
        zone = "lan"
        ports = ["lan0"]
        mtu = 1280
        ipv4 = { method = "static", addresses = ["192.168.77.1/24"] }
        "#,
    )?;
    ensure!(lab.router.run("ip link show lan").is_err(), "the bridge is gone");
    let wan = lab.interface("wan")?;
    ensure!(
        wan.addresses == ["10.9.0.7/24"] && wan.gateway.as_deref() == Some("10.9.0.1"),
        "{wan:?}"
    );
    ensure!(lab.interface("home")?.mtu == 1280);
    let routes = lab.router.run("ip route show default")?;
    ensure!(routes.lines().count() == 1 && routes.contains("metric 7"), "{routes}");
    lab.clients[0].run("ping -c3 -i0.3 -W5 192.168.77.1")?;
    lab.until("RELEASE", SOON, || Ok(lab.dhcp_messages().contains(&"RELEASE".to_owned())))?;

    // And back: the MTU as before.
    lab.apply(ROUTER)?;
    lab.until_state("bound", SOON)?;
    ensure!(lab.router.run("ip link show lan0")?.contains("mtu 1500"));
    Ok(())
}

/// What the router sends has it as its source, and masqueraded packets.
#[test]
fn the_first_address_is_the_primary_one_whatever_was_before() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _service = lab.start()?;
    let with = |addresses: &str| {
        let addresses = format!("addresses = [{addresses}]");
        ROUTER.replace(r#"addresses = ["192.168.77.1/24"]"#, &addresses)
    };
    for (addresses, first, primary) in [
        (r#""192.168.77.2/24", "192.168.77.1/24""#, "192.168.77.2", "192.168.77.2"),
        (r#""192.168.77.1/24", "192.168.77.2/24""#, "192.168.77.1", "192.168.77.1"),
        (
            r#""192.168.78.1/24", "192.168.77.2/24", "192.168.77.1/24""#,
            "192.168.78.1",
            "192.168.77.2",
        ),
        (r#""192.168.77.1/24", "192.168.78.1/24""#, "192.168.77.1", "192.168.77.1"),
    ] {
        lab.apply(&with(addresses))?;
        let shown = lab.interface("lan")?.addresses;
        ensure!(shown.len() == addresses.split(',').count(), "{addresses}: {shown:?}");
        ensure!(shown[0].starts_with(first), "{addresses}: {shown:?}");
        let way = lab.router.run("ip route get 192.168.77.99")?;
        ensure!(way.contains(&format!("src {primary} ")), "{addresses}: {way}");
    }
    Ok(())
}

#[test]
fn a_bad_part_is_refused_with_the_field_and_changes_nothing() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _service = lab.start()?;
    let refused = |json: &str| format!("{:#}", lab.apply_json(json.to_owned()).unwrap_err());
    let error = refused("{");
    ensure!(error.contains("InvalidArgument"), "{error}");
    let mut part = serde_json::to_value(lab::part(ROUTER))?;
    part["interfaces"]["lan"]["mtu"] = 70.into();
    let error = refused(&part.to_string());
    ensure!(error.contains("interfaces.lan.mtu: 70 is not allowed; 576 to 9216 are"), "{error}");
    ensure!(lab.interface("lan")?.addresses == ["192.168.77.1/24"]);
    Ok(())
}

#[test]
fn a_nic_that_comes_later_is_taken_and_told_of() -> Result<()> {
    let toml = ROUTER.replace(r#""lan0", "lan1""#, r#""lan0", "late""#).replace("wan0", "wan9");
    let lab = Lab::new(&toml)?;
    let _server = lab.dnsmasq(&[])?;
    let _service = lab.start()?;
    let wan = lab.interface("wan")?;
    ensure!((wan.device.as_str(), wan.index) == ("", 0), "{wan:?}");
    ensure!(lab.lease()?.state == "init");
    let signals = lab.signals()?;
    lab.router.join("late", &lab.clients[1], "eth1")?;
    lab.router.run("ip link set wan0 down")?;
    lab.router.run("ip link set wan0 name wan9")?;
    lab.until_state("bound", SOON)?;
    let ports = lab.interface("lan")?.ports.len();
    ensure!(ports == 2, "{ports} ports");
    lab.until("two signals", SOON, || Ok(signals.load(Ordering::SeqCst) >= 2))?;
    let count = signals.load(Ordering::SeqCst);
    ensure!(count <= 30, "{count} signals");
    // And it goes again.
    lab.router.run("ip link del late")?;
    lab.until("port gone", SOON, || Ok(lab.interface("lan")?.ports.len() == 1))?;
    Ok(())
}

/// As it runs in the image, but for landlock and seccomp: not root, three capabilities.
#[test]
fn it_needs_no_more_than_its_manifest_gives() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _server = lab.dnsmasq(&["--dhcp-option=58,5", "--dhcp-option=26,1400"])?;
    let service = lab.start_confined()?;
    // NET_BIND_SERVICE, NET_ADMIN and NET_RAW are bits 10, 12 and 13.
    ensure!(service.status("Uid:")?.starts_with("102"));
    ensure!(service.status("CapEff:")? == "0000000000003400", "{}", service.status("CapEff:")?);
    lab.until_state("bound", SOON)?;
    let first = lab.lease()?.obtained_unix_s;
    lab.until("a renewal", SOON, || Ok(lab.lease()?.obtained_unix_s >= first + 5))?;
    lab.until("everything is set", SOON, || {
        Ok(lab.interface("wan")?.mtu == 1400
            && lab.interface("lan")?.addresses == ["192.168.77.1/24"]
            && sysctl(&lab.router, "ipv4/conf/lan/arp_ignore")? == "1")
    })?;
    ensure!(lab.path("data/network/lease-wan.json").exists());
    ensure!(!lab.log().contains(" WARN "), "{}", lab.log());
    Ok(())
}

/// [`ROUTER`] with fixed IPv6 addresses on both sides.
const BOTH_FAMILIES: &str = r#"
    [interfaces.wan]
    zone = "wan"
    ports = ["wan0"]
    ipv4 = { method = "dhcp" }
    ipv6 = { method = "static", addresses = ["2001:db8:1::2/64"], gateway = "2001:db8:1::1" }

    [interfaces.lan]
    kind = "bridge"
    zone = "lan"
    ports = ["lan0", "lan1"]
    ipv4 = { method = "static", addresses = ["192.168.77.1/24"] }
    ipv6 = { method = "static", addresses = ["2001:db8:77::1/64", "fd00:77::1/64"] }
"#;

#[test]
fn fixed_ipv6_addresses_and_their_default_route_come_stay_and_go() -> Result<()> {
    let lab = Lab::new(ROUTER)?;
    let _server = lab.dnsmasq(&[])?;
    let _service = lab.start()?;
    lab.until_state("bound", SOON)?;
    lab.apply(BOTH_FAMILIES)?;
    let there = || {
        let (lan, wan) = (lab.interface("lan")?, lab.interface("wan")?);
        let route = lab.router.run("ip -6 route show default")?;
        let has = |all: &[String], wanted: &str| all.iter().any(|address| address == wanted);
        Ok(has(&lan.addresses, "2001:db8:77::1/64")
            && has(&lan.addresses, "fd00:77::1/64")
            && has(&lan.addresses, "192.168.77.1/24")
            && has(&wan.addresses, "2001:db8:1::2/64")
            && wan.gateway.as_deref() == Some("10.9.0.1")
            && route.contains("via 2001:db8:1::1 dev wan0 proto 80 metric 100"))
    };
    lab.until("IPv6 on both sides", SOON, there)?;

    // With neighbours, and by its route further than those.
    let client = &lab.clients[0];
    client.address("eth0", "2001:db8:77::100/64")?;
    client.run("ip -6 route add default via 2001:db8:77::1")?;
    lab.provider.address("eth0", "2001:db8:1::1/64")?;
    lab.provider.run("ip -6 address add 2001:db8:2::10/128 dev lo")?;
    lab.until("its neighbours answer", SOON, || {
        Ok(lab.router.run("ping -6 -c 1 -W 1 2001:db8:77::100").is_ok()
            && lab.router.run("ping -6 -c 1 -W 1 2001:db8:2::10").is_ok())
    })?;

    // The same again changes nothing; what is taken away comes back.
    settled(&lab, "-6")?;
    let quiet = monitor(&lab, "-6", "quiet6")?;
    for _ in 0..3 {
        lab.apply(BOTH_FAMILIES)?;
    }
    std::thread::sleep(Duration::from_millis(300));
    drop(quiet);
    let events = monitored(&lab, "quiet6")?;
    ensure!(events.is_empty(), "{events}");
    for line in [
        "ip -6 address del 2001:db8:77::1/64 dev lan",
        "ip -6 route del default",
        "ip link set wan0 down",
    ] {
        lab.router.run(line)?;
        lab.until(line, SOON, there)?;
    }

    // What is not ours stays, what is no longer wanted goes.
    lab.router.address("wan0", "2001:db8:5::1/64")?;
    lab.apply(ROUTER)?;
    lab.until("no IPv6 of ours", SOON, || {
        let addresses = lab.router.run("ip -6 address show scope global")?;
        let route = lab.router.run("ip -6 route show default")?;
        Ok(!addresses.contains("2001:db8:77::1")
            && !addresses.contains("fd00:77::1")
            && !addresses.contains("2001:db8:1::2")
            && addresses.contains("2001:db8:5::1")
            && route.is_empty())
    })?;
    Ok(())
}
