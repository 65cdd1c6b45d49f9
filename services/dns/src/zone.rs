//! The names that live here: the router, reserved hosts and DHCP clients under the local domain,
//! and their reverse names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, PTR, SOA},
    },
};
use ipnet::Ipv4Net;
use portcullis_bus::dhcp::Lease;
use portcullis_model::{HostName, part::DnsPart};

use crate::{
    reply::Reply,
    special::{ReverseName, Special, special},
};

/// TTL of local records and of their absence, seconds: a lease may go to another client.
const TTL: u32 = 30;

/// Names that a client could take to be asked what is not meant for it: proxy discovery and
/// tunnels (CERT VU#598349), and names with a meaning of their own. A reservation may still use
/// them, since that is the administrator's word.
const NOT_FOR_CLIENTS: [&str; 3] = ["wpad", "isatap", "localhost"];

/// The local domain cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("dns.domain: `{domain}` is not a domain name: {reason}")]
pub struct DomainError {
    domain: String,
    reason: String,
}

/// Where the answer to a question comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// From here.
    Local(Reply),
    /// From an upstream.
    Forward,
}

/// Local names and addresses, rebuilt whenever the configuration or the leases change.
#[derive(Clone, Debug)]
pub struct LocalZones {
    domain: Name,
    router: Name,
    networks: Vec<Ipv4Net>,
    /// Addresses by host label, lower case.
    hosts: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Name by address.
    names: BTreeMap<Ipv4Addr, Name>,
    serial: u32,
}

impl LocalZones {
    /// Builds the zones. The router's own name comes before reservations, and these before the
    /// names that clients gave themselves, so that no client can take another's name.
    ///
    /// # Errors
    /// If the local domain is no domain name.
    pub fn build(part: &DnsPart, leases: &[Lease], serial: u32) -> Result<Self, DomainError> {
        let error = |reason: &dyn std::fmt::Display| DomainError {
            domain: part.domain.clone(),
            reason: reason.to_string(),
        };
        let mut domain = Name::from_ascii(&part.domain).map_err(|e| error(&e))?.to_lowercase();
        domain.set_fqdn(true);
        if domain.is_root() {
            return Err(error(&"it is empty"));
        }
        let router = domain.prepend_label(part.hostname.as_str()).map_err(|e| error(&e))?;
        let networks: Vec<Ipv4Net> = part.networks.values().flatten().copied().collect();
        let mut zones = Self {
            domain,
            router,
            networks,
            hosts: BTreeMap::new(),
            names: BTreeMap::new(),
            serial,
        };
        let own: Vec<Ipv4Addr> = zones.networks.iter().map(Ipv4Net::addr).collect();
        for address in own {
            zones.insert(part.hostname.as_str(), address);
        }
        for (host, address) in &part.hosts {
            if host != &part.hostname {
                zones.insert(host.as_str(), *address);
            }
        }
        let fixed: BTreeSet<String> = zones.hosts.keys().cloned().collect();
        for (host, address) in leases.iter().filter_map(client_name) {
            if !fixed.contains(host.as_str()) && !NOT_FOR_CLIENTS.contains(&host.as_str()) {
                zones.insert(host.as_str(), address);
            }
        }
        Ok(zones)
    }

    fn insert(&mut self, host: &str, address: Ipv4Addr) {
        let Ok(name) = self.domain.prepend_label(host) else { return };
        self.hosts.entry(host.to_owned()).or_default().insert(address);
        self.names.entry(address).or_insert(name);
    }

    /// The router's networks.
    pub fn networks(&self) -> &[Ipv4Net] {
        &self.networks
    }

    /// Decides where the answer to `name` and `query_type` comes from; `client` gets the address
    /// in its own network first.
    pub fn route(&self, name: &Name, query_type: RecordType, client: IpAddr) -> Route {
        if self.domain.zone_of(name) {
            return Route::Local(self.domain_reply(name, query_type, client));
        }
        match special(name, query_type, &self.networks) {
            Some(Special::Localhost(apex)) => {
                let data = match query_type {
                    RecordType::A | RecordType::ANY => vec![RData::A(A(Ipv4Addr::LOCALHOST))],
                    RecordType::AAAA => vec![RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))],
                    _ => Vec::new(),
                };
                Route::Local(self.data(name, data, &apex))
            }
            Some(Special::Empty(apex)) => Route::Local(if *name == apex {
                self.apex(name, query_type)
            } else {
                self.no_such_name(&apex)
            }),
            Some(Special::Reverse(reverse)) => {
                Route::Local(self.reverse_reply(name, query_type, &reverse))
            }
            None if name.iter().len() == 1 => self.bare_label(name, query_type, client),
            None if query_type == RecordType::ANY => Route::Local(Reply::any(name.clone())),
            None => Route::Forward,
        }
    }

    fn domain_reply(&self, name: &Name, query_type: RecordType, client: IpAddr) -> Reply {
        let mut labels = name.iter();
        match (labels.len().saturating_sub(self.domain.iter().len()), labels.next()) {
            (0, _) => self.apex(name, query_type),
            (1, Some(label)) => match self.addresses(label, client) {
                Some(addresses) => self.host(name, query_type, &addresses, &self.domain),
                None => self.no_such_name(&self.domain),
            },
            _ => self.no_such_name(&self.domain),
        }
    }

    /// A name of one label, as typed by a person: a host of the local domain, or nothing. Only
    /// what a validator asks of a top-level domain goes outside.
    fn bare_label(&self, name: &Name, query_type: RecordType, client: IpAddr) -> Route {
        let label = name.iter().next().unwrap_or_default();
        match self.addresses(label, client) {
            Some(addresses) => Route::Local(self.host(name, query_type, &addresses, &Name::root())),
            None => match query_type {
                RecordType::NS | RecordType::SOA | RecordType::DS | RecordType::DNSKEY => {
                    Route::Forward
                }
                _ => Route::Local(self.no_such_name(&Name::root())),
            },
        }
    }

    /// Addresses of the host with this label, those in the client's network first.
    fn addresses(&self, label: &[u8], client: IpAddr) -> Option<Vec<Ipv4Addr>> {
        let label = std::str::from_utf8(label).ok()?.to_ascii_lowercase();
        let mut addresses: Vec<_> = self.hosts.get(&label)?.iter().copied().collect();
        if let IpAddr::V4(client) = client {
            let near = self.networks.iter().find(|network| network.contains(&client));
            addresses.sort_by_key(|address| !near.is_some_and(|network| network.contains(address)));
        }
        Some(addresses)
    }

    fn host(
        &self,
        name: &Name,
        query_type: RecordType,
        addresses: &[Ipv4Addr],
        apex: &Name,
    ) -> Reply {
        let data = match query_type {
            RecordType::A | RecordType::ANY => {
                addresses.iter().map(|address| RData::A(A(*address))).collect()
            }
            // AAAA, HTTPS and all others: the name exists and has none.
            _ => Vec::new(),
        };
        self.data(name, data, apex)
    }

    fn reverse_reply(&self, name: &Name, query_type: RecordType, reverse: &ReverseName) -> Reply {
        if *name == reverse.apex && reverse.network.prefix_len() < 32 {
            return self.apex(name, query_type);
        }
        if reverse.below {
            return self.no_such_name(&reverse.apex);
        }
        let exact = reverse.network.prefix_len() == 32;
        let known = if exact { self.name_of(reverse.network.addr()) } else { None };
        match known {
            Some(host) => {
                let data = match query_type {
                    RecordType::PTR | RecordType::ANY => vec![RData::PTR(PTR(host))],
                    _ => Vec::new(),
                };
                self.data(name, data, &reverse.apex)
            }
            // A name between the apex and a host exists, without data (RFC 8020 section 2).
            None if !exact && self.has_host_in(&reverse.network) => {
                self.data(name, Vec::new(), &reverse.apex)
            }
            None if *name == reverse.apex => self.apex(name, query_type),
            None => self.no_such_name(&reverse.apex),
        }
    }

    fn name_of(&self, address: Ipv4Addr) -> Option<Name> {
        if address == Ipv4Addr::LOCALHOST {
            return Name::from_labels(["localhost"]).ok();
        }
        self.names.get(&address).cloned()
    }

    fn has_host_in(&self, network: &Ipv4Net) -> bool {
        network.contains(&Ipv4Addr::LOCALHOST)
            || self.names.range(network.network()..=network.broadcast()).next().is_some()
    }

    /// The apex of a zone: SOA and NS.
    fn apex(&self, name: &Name, query_type: RecordType) -> Reply {
        let data = match query_type {
            RecordType::SOA | RecordType::ANY => vec![self.soa_data()],
            RecordType::NS => vec![RData::NS(NS(self.router.clone()))],
            _ => Vec::new(),
        };
        self.data(name, data, name)
    }

    /// The data of an existing name, or NODATA.
    fn data(&self, name: &Name, data: Vec<RData>, apex: &Name) -> Reply {
        let soa = data.is_empty().then(|| self.soa(apex));
        let answers =
            data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)).collect();
        Reply::local(ResponseCode::NoError, answers, soa)
    }

    fn no_such_name(&self, apex: &Name) -> Reply {
        Reply::local(ResponseCode::NXDomain, Vec::new(), Some(self.soa(apex)))
    }

    fn soa(&self, apex: &Name) -> Record {
        Record::from_rdata(apex.clone(), TTL, self.soa_data())
    }

    fn soa_data(&self) -> RData {
        let mailbox = Name::from_labels(["nobody", "invalid"]).unwrap_or_else(|_| Name::root());
        let ttl = TTL.cast_signed();
        // Nobody transfers these zones, so the times mean nothing but the last, the negative TTL.
        RData::SOA(SOA::new(self.router.clone(), mailbox, self.serial, ttl, ttl, ttl, TTL))
    }
}

/// Name and address of a client that holds a lease and has a valid name.
fn client_name(lease: &Lease) -> Option<(HostName, Ipv4Addr)> {
    if lease.state != "bound" {
        return None;
    }
    let host = lease.hostname.as_deref()?.parse().ok()?;
    Some((host, lease.address.parse().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn part() -> DnsPart {
        DnsPart {
            hostname: "portcullis".parse().unwrap(),
            domain: "lan".to_owned(),
            upstreams: Vec::new(),
            cache_entries: 100,
            networks: [
                ("guest".parse().unwrap(), vec!["192.168.78.1/24".parse().unwrap()]),
                ("lan".parse().unwrap(), vec!["192.168.77.1/24".parse().unwrap()]),
            ]
            .into(),
            hosts: [("nas".parse().unwrap(), Ipv4Addr::new(192, 168, 77, 10))].into(),
        }
    }

    pub(crate) fn lease(hostname: &str, address: &str, state: &str) -> Lease {
        Lease {
            interface: "lan".to_owned(),
            address: address.to_owned(),
            hostname: Some(hostname.to_owned()),
            state: state.to_owned(),
            ..Lease::default()
        }
    }

    fn zones() -> LocalZones {
        let leases = [
            lease("Laptop", "192.168.77.100", "bound"),
            lease("gone", "192.168.77.101", "expired"),
            lease("nas", "192.168.77.102", "bound"),
            lease("portcullis", "192.168.77.103", "bound"),
            lease("wpad", "192.168.77.104", "bound"),
            lease("not a name", "192.168.77.105", "bound"),
        ];
        LocalZones::build(&part(), &leases, 1).unwrap()
    }

    fn ask(name: &str, query_type: RecordType) -> Route {
        let client = Ipv4Addr::new(192, 168, 77, 100).into();
        zones().route(&Name::from_ascii(name).unwrap(), query_type, client)
    }

    fn local(name: &str, query_type: RecordType) -> Reply {
        match ask(name, query_type) {
            Route::Local(reply) => reply,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Response code and the data of the answer section, for short comparisons.
    fn answer(name: &str, query_type: RecordType) -> (ResponseCode, Vec<String>) {
        let reply = local(name, query_type);
        assert_eq!(reply.answers.is_empty(), !reply.authorities.is_empty(), "SOA iff negative");
        (reply.code, reply.answers.iter().map(|record| record.data.to_string()).collect())
    }

    fn data(text: &[&str]) -> (ResponseCode, Vec<String>) {
        (ResponseCode::NoError, text.iter().map(|&t| t.to_owned()).collect())
    }

    fn nothing() -> (ResponseCode, Vec<String>) {
        (ResponseCode::NXDomain, Vec::new())
    }

    #[test]
    fn hosts_of_the_local_domain() {
        assert_eq!(answer("laptop.lan.", RecordType::A), data(&["192.168.77.100"]));
        assert_eq!(answer("LAPTOP.lan.", RecordType::ANY), data(&["192.168.77.100"]));
        assert_eq!(answer("laptop.lan.", RecordType::AAAA), data(&[]));
        assert_eq!(answer("laptop.lan.", RecordType::HTTPS), data(&[]));
        assert_eq!(answer("gone.lan.", RecordType::A), nothing());
        assert_eq!(answer("a.laptop.lan.", RecordType::A), nothing());
        assert_eq!(answer("lan.", RecordType::A), data(&[]));
        assert_eq!(answer("lan.", RecordType::NS), data(&["portcullis.lan."]));
        assert!(local("laptop.lan.", RecordType::A).authoritative);
        assert!(local("gone.lan.", RecordType::A).authoritative);
    }

    #[test]
    fn the_answer_s_owner_is_the_question_in_its_case() {
        let reply = local("LapTop.Lan.", RecordType::A);
        assert_eq!(reply.answers[0].name.to_ascii(), "LapTop.Lan.");
    }

    #[test]
    fn clients_cannot_take_names_of_others() {
        assert_eq!(answer("nas.lan.", RecordType::A), data(&["192.168.77.10"]));
        assert_eq!(answer("wpad.lan.", RecordType::A), nothing());
        let (code, addresses) = answer("portcullis.lan.", RecordType::A);
        assert_eq!(code, ResponseCode::NoError);
        // The address in the network of the client (192.168.77.100) comes first.
        assert_eq!(addresses, ["192.168.77.1", "192.168.78.1"]);
    }

    #[test]
    fn bare_labels_are_local_and_never_forwarded() {
        assert_eq!(answer("laptop.", RecordType::A), data(&["192.168.77.100"]));
        assert_eq!(answer("laptop.", RecordType::AAAA), data(&[]));
        assert_eq!(answer("printer.", RecordType::A), nothing());
        assert_eq!(answer("com.", RecordType::ANY), nothing());
        assert_eq!(ask("com.", RecordType::DS), Route::Forward);
        assert_eq!(ask(".", RecordType::NS), Route::Forward);
    }

    #[test]
    fn reverse_names() {
        let ptr = |name| answer(name, RecordType::PTR);
        assert_eq!(ptr("100.77.168.192.in-addr.arpa."), data(&["laptop.lan."]));
        assert_eq!(ptr("1.77.168.192.in-addr.arpa."), data(&["portcullis.lan."]));
        assert_eq!(ptr("10.77.168.192.in-addr.arpa."), data(&["nas.lan."]));
        assert_eq!(ptr("101.77.168.192.in-addr.arpa."), nothing());
        assert_eq!(ptr("1.2.3.10.in-addr.arpa."), nothing());
        assert_eq!(ptr("1.0.0.127.in-addr.arpa."), data(&["localhost."]));
        assert_eq!(ptr("b._dns-sd._udp.0.77.168.192.in-addr.arpa."), nothing());
        assert_eq!(ask("8.8.8.8.in-addr.arpa.", RecordType::PTR), Route::Forward);
    }

    #[test]
    fn names_above_a_host_exist_without_data() {
        assert_eq!(answer("77.168.192.in-addr.arpa.", RecordType::PTR), data(&[]));
        assert_eq!(answer("99.168.192.in-addr.arpa.", RecordType::PTR), nothing());
        assert_eq!(answer("168.192.in-addr.arpa.", RecordType::PTR), data(&[]));
        assert_eq!(answer("168.192.in-addr.arpa.", RecordType::NS), data(&["portcullis.lan."]));
    }

    #[test]
    fn special_names_stay_here() {
        assert_eq!(answer("localhost.", RecordType::A), data(&["127.0.0.1"]));
        assert_eq!(answer("x.localhost.", RecordType::AAAA), data(&["::1"]));
        for name in ["a.invalid.", "a.test.", "a.onion.", "a.local.", "a.home.arpa.", "a.alt."] {
            assert_eq!(answer(name, RecordType::A), nothing(), "{name}");
        }
    }

    #[test]
    fn any_gets_the_minimal_answer() {
        let reply = local("example.com.", RecordType::ANY);
        assert_eq!(reply.answers[0].record_type(), RecordType::HINFO);
        assert!(!reply.authoritative);
    }

    #[test]
    fn the_local_domain_wins_over_special_names() {
        let part = DnsPart { domain: "home.arpa".to_owned(), ..part() };
        let zones = LocalZones::build(&part, &[], 1).unwrap();
        let name = Name::from_ascii("nas.home.arpa.").unwrap();
        let Route::Local(reply) = zones.route(&name, RecordType::A, Ipv4Addr::LOCALHOST.into())
        else {
            panic!()
        };
        assert_eq!(reply.answers.len(), 1);
    }

    #[test]
    fn a_domain_that_is_none_is_named() {
        let part = DnsPart { domain: "a..b".to_owned(), ..part() };
        let error = LocalZones::build(&part, &[], 1).unwrap_err().to_string();
        assert!(error.contains("dns.domain: `a..b`"), "{error}");
    }
}
