//! `dhcp`: servers, pools and reservations against the interface that they serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::{
    Problems,
    addresses::{no_host_in, unusable, unusable_mac},
    list,
};
use crate::{DhcpServer, Document, HostName, Pool};

/// Addresses that fit into one DHCP option (RFC 2132 section 2: 255 octets).
const ADDRESSES_PER_OPTION: usize = 63;

pub(super) fn check(document: &Document, problems: &mut Problems) {
    for (name, server) in &document.dhcp {
        let path = format!("dhcp.{name}");
        settings(&path, server, problems);
        let Some(interface) = document.interfaces.get(name) else {
            problems.add(
                path,
                format!(
                    "`{name}` is not an interface; allowed: {}",
                    list(document.interfaces.keys())
                ),
            );
            continue;
        };
        let own = interface.ipv4.fixed_addresses();
        let Some(network) = own.first() else {
            problems.add(
                path,
                format!("interfaces.{name} has no fixed address; a DHCP server needs ipv4.method = \"static\""),
            );
            continue;
        };
        let network = *network;
        // The router's further addresses inside the prefix are taken, too.
        let own: BTreeSet<Ipv4Addr> = own.iter().map(Ipv4Net::addr).collect();
        pool(&format!("{path}.pool"), server.pool, network, &own, problems);
        reservations(&path, server, network, &own, problems);
        for (index, router) in server.routers.iter().enumerate() {
            if let Some(why) = no_host_in(network, *router) {
                problems.add(format!("{path}.routers[{index}]"), why);
            }
        }
    }
    hostnames(document, problems);
}

fn settings(path: &str, server: &DhcpServer, problems: &mut Problems) {
    problems.range(
        format!("{path}.lease_time_s"),
        server.lease_time_s,
        120..=31_536_000,
        "seconds",
    );
    if let Some(mtu) = server.mtu {
        problems.range(format!("{path}.mtu"), mtu, 576..=9216, "bytes");
    }
    for (field, addresses) in
        [("routers", &server.routers), ("dns", &server.dns), ("ntp", &server.ntp)]
    {
        if addresses.len() > ADDRESSES_PER_OPTION {
            problems.add(
                format!("{path}.{field}"),
                format!(
                    "{} addresses do not fit into one DHCP option: at most {ADDRESSES_PER_OPTION}",
                    addresses.len()
                ),
            );
        }
        for (index, address) in addresses.iter().enumerate() {
            if let Some(why) = unusable(*address) {
                problems.add(
                    format!("{path}.{field}[{index}]"),
                    format!("{address} {why}; a host address is needed"),
                );
            }
        }
    }
}

fn pool(
    path: &str,
    pool: Pool,
    network: Ipv4Net,
    own: &BTreeSet<Ipv4Addr>,
    problems: &mut Problems,
) {
    for (end, address) in [("start", pool.start), ("end", pool.end)] {
        if let Some(why) = no_host_in(network, address) {
            problems.add(format!("{path}.{end}"), why);
        }
    }
    if pool.start > pool.end {
        problems.add(path, format!("start {} is above end {}; swap them", pool.start, pool.end));
    }
    for address in own {
        if (pool.start..=pool.end).contains(address) {
            problems.add(
                path,
                format!(
                    "{} to {} contains the router's own address {address}",
                    pool.start, pool.end
                ),
            );
        }
    }
}

fn reservations(
    path: &str,
    server: &DhcpServer,
    network: Ipv4Net,
    own: &BTreeSet<Ipv4Addr>,
    problems: &mut Problems,
) {
    let mut macs = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (index, reservation) in server.reservations.iter().enumerate() {
        let path = format!("{path}.reservations[{index}]");
        let (mac, address) = (reservation.mac, reservation.address);
        if let Some(why) = unusable_mac(mac) {
            problems
                .add(format!("{path}.mac"), format!("{mac} {why}; a client's address is needed"));
        }
        if let Some(why) = no_host_in(network, address) {
            problems.add(format!("{path}.address"), why);
        }
        if own.contains(&address) {
            problems
                .add(format!("{path}.address"), format!("{address} is the router's own address"));
        }
        if let Some(first) = macs.insert(mac, index) {
            problems.add(
                format!("{path}.mac"),
                format!("{mac} has a reservation already: reservations[{first}]"),
            );
        }
        if let Some(first) = addresses.insert(address, index) {
            problems.add(
                format!("{path}.address"),
                format!("{address} is reserved already: reservations[{first}]"),
            );
        }
    }
}

/// All reservations share one local domain, with the router itself.
fn hostnames(document: &Document, problems: &mut Problems) {
    let mut taken: BTreeMap<&HostName, String> =
        BTreeMap::from([(&document.system.hostname, "system.hostname".to_owned())]);
    for (name, server) in &document.dhcp {
        for (index, reservation) in server.reservations.iter().enumerate() {
            let Some(hostname) = &reservation.hostname else {
                continue;
            };
            let path = format!("dhcp.{name}.reservations[{index}].hostname");
            match taken.get(hostname) {
                Some(first) => problems
                    .add(path, format!("`{hostname}` is taken already by {first}; names are unique in the local domain")),
                None => {
                    taken.insert(hostname, path);
                }
            }
        }
    }
}
