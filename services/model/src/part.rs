//! What each service needs of the document, and no more. A service is told of a new document only
//! if its part changed.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::{
    DhcpServer, Document, Firewall, HostName, Interface, Name, RouterService, UpstreamAddress,
};

/// Part of the network service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NetworkPart {
    /// Name sent to DHCP servers and set in the kernel.
    pub hostname: HostName,
    /// All interfaces.
    pub interfaces: BTreeMap<Name, Interface>,
}

/// Part of the firewall service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FirewallPart {
    /// Zone of each interface.
    pub interfaces: BTreeMap<Name, Name>,
    /// Everything that the document says of the firewall.
    pub firewall: Firewall,
}

/// Part of the DHCP server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DhcpPart {
    /// The local domain (option 15).
    pub domain: String,
    /// Servers by interface.
    pub servers: BTreeMap<Name, DhcpScope>,
}

/// One DHCP server with what it must know of its interface.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DhcpScope {
    /// The router's address on the interface and the prefix.
    pub network: Ipv4Net,
    /// Settings.
    pub server: DhcpServer,
}

/// Part of the DNS forwarder.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DnsPart {
    /// The router's own name in the local domain.
    pub hostname: HostName,
    /// The local domain.
    pub domain: String,
    /// Upstreams; if empty, those of the WAN leases.
    pub upstreams: Vec<UpstreamAddress>,
    /// Answers kept.
    pub cache_entries: u32,
    /// The router's addresses on the interfaces whose zone has the service `dns`.
    pub networks: BTreeMap<Name, Vec<Ipv4Net>>,
    /// The router's addresses on all interfaces whose zone does not masquerade: networks behind the
    /// router.
    #[serde(default)]
    pub inside: Vec<IpNet>,
    /// Names with fixed addresses, from DHCP reservations.
    pub hosts: BTreeMap<HostName, Ipv4Addr>,
}

/// Part of the web service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WebPart {
    /// The router's own name.
    pub hostname: HostName,
    /// The local domain.
    pub domain: String,
    /// The router's addresses where the page is reachable.
    pub addresses: Vec<Ipv4Addr>,
    /// The networks from which it is reachable.
    #[serde(default)]
    pub networks: Vec<Ipv4Net>,
}

impl NetworkPart {
    /// Cuts the part out of a valid document.
    pub fn of(document: &Document) -> Self {
        Self { hostname: document.system.hostname.clone(), interfaces: document.interfaces.clone() }
    }
}

impl FirewallPart {
    /// Cuts the part out of a valid document.
    pub fn of(document: &Document) -> Self {
        Self {
            interfaces: document
                .interfaces
                .iter()
                .map(|(name, interface)| (name.clone(), interface.zone.clone()))
                .collect(),
            firewall: document.firewall.clone(),
        }
    }
}

impl DhcpPart {
    /// Cuts the part out of a valid document.
    pub fn of(document: &Document) -> Self {
        let servers = document
            .dhcp
            .iter()
            .filter_map(|(name, server)| {
                let network = *document.interfaces.get(name)?.ipv4.fixed_addresses().first()?;
                Some((name.clone(), DhcpScope { network, server: server.clone() }))
            })
            .collect();
        Self { domain: document.dns.domain.clone(), servers }
    }
}

impl DnsPart {
    /// Cuts the part out of a valid document.
    pub fn of(document: &Document) -> Self {
        let hosts = document
            .dhcp
            .values()
            .flat_map(|server| &server.reservations)
            .filter_map(|r| r.hostname.clone().map(|name| (name, r.address)))
            .collect();
        Self {
            hostname: document.system.hostname.clone(),
            domain: document.dns.domain.clone(),
            upstreams: document.dns.upstreams.clone(),
            cache_entries: document.dns.cache_entries,
            networks: networks_with(document, RouterService::Dns),
            inside: networks_behind(document),
            hosts,
        }
    }
}

impl WebPart {
    /// Cuts the part out of a valid document.
    pub fn of(document: &Document) -> Self {
        let networks: Vec<_> =
            networks_with(document, RouterService::Web).into_values().flatten().collect();
        Self {
            hostname: document.system.hostname.clone(),
            domain: document.dns.domain.clone(),
            addresses: networks.iter().map(Ipv4Net::addr).collect(),
            networks: networks.iter().map(Ipv4Net::trunc).collect(),
        }
    }
}

/// Fixed addresses of the interfaces whose zone may reach `service`.
fn networks_with(document: &Document, service: RouterService) -> BTreeMap<Name, Vec<Ipv4Net>> {
    document
        .interfaces
        .iter()
        .filter(|(_, interface)| {
            document
                .firewall
                .zones
                .get(&interface.zone)
                .is_some_and(|zone| zone.services.contains(&service))
        })
        .map(|(name, interface)| (name.clone(), interface.ipv4.fixed_addresses().to_vec()))
        .filter(|(_, networks)| !networks.is_empty())
        .collect()
}

/// Fixed addresses of the interfaces whose zone does not masquerade.
fn networks_behind(document: &Document) -> Vec<IpNet> {
    document
        .interfaces
        .values()
        .filter(|interface| {
            document.firewall.zones.get(&interface.zone).is_some_and(|zone| !zone.masquerade)
        })
        .flat_map(|interface| {
            let v4 = interface.ipv4.fixed_addresses().iter().copied().map(IpNet::V4);
            v4.chain(interface.ipv6.fixed_addresses().iter().copied().map(IpNet::V6))
        })
        .collect()
}
