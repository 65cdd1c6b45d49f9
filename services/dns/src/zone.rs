//! The names that live here: the router, reserved hosts and DHCP clients under the local domain,
//! their reverse names, and the special zones. Hickory's zone handlers hold them and look up in
//! them.

use std::{
    collections::{BTreeSet, HashMap, btree_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use futures_util::FutureExt;
use hickory_proto::{
    op::ResponseCode,
    rr::{
        LowerName, Name, RData, Record, RecordType, RrKey,
        rdata::{A, AAAA, NS, PTR, SOA},
    },
};
use hickory_server::{
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, LookupError, LookupOptions, ZoneHandler, ZoneType},
};
use ipnet::{IpNet, Ipv4Net};
use portcullis_bus::dhcp::Lease;
use portcullis_model::{HostName, part::DnsPart};
use tokio::task::unconstrained;

use crate::{
    reply::Reply,
    special::{self, is_public},
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
pub struct LocalZones {
    domain: Name,
    localhost: Name,
    networks: Vec<Ipv4Net>,
    zones: Catalog,
    /// Labels of the longest name in them.
    labels: usize,
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

        let mut zones =
            Zones { serial, handlers: HashMap::new(), named: BTreeSet::new(), labels: 0 };
        for apex in special::zones(&networks).chain([domain.clone()]) {
            zones.add(apex, &router);
        }
        let localhost = Name::from_labels(["localhost"]).map_err(|e| error(&e))?;
        zones.insert(&localhost, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)));
        zones.host(localhost.clone(), Ipv4Addr::LOCALHOST);

        let own = networks.iter().map(|network| (part.hostname.clone(), network.addr()));
        let reserved = part.hosts.iter().map(|(host, address)| (host.clone(), *address));
        let clients = leases.iter().filter_map(client_name).filter(|(host, _)| {
            !part.hosts.contains_key(host) && !NOT_FOR_CLIENTS.contains(&host.as_str())
        });
        let others = reserved.chain(clients).filter(|(host, _)| *host != part.hostname);
        for (host, address) in own.chain(others) {
            // A name that is too long together with the domain does not exist.
            if let Ok(name) = domain.prepend_label(host.as_str()) {
                zones.host(name, address);
            }
        }
        Ok(Self { domain, localhost, networks, labels: zones.labels, zones: zones.into_catalog() })
    }

    /// The router's networks.
    pub fn networks(&self) -> &[Ipv4Net] {
        &self.networks
    }

    /// Decides where the answer to `name` and `query_type` comes from; `client` gets the address
    /// in its own network first.
    pub fn route(&self, name: &Name, query_type: RecordType, client: IpAddr) -> Route {
        if is_public(name, query_type) && *name != self.domain {
            return Route::Forward;
        }
        // No longer name exists, and the time of a lookup grows with the square of the labels.
        let name_here = LowerName::from(name.trim_to(self.labels + 1));
        match self.zones.find(&name_here).and_then(|handlers| handlers.first()) {
            Some(zone) if **zone.origin() == self.localhost && self.domain != self.localhost => {
                // All names in it are the same, and have addresses only.
                let query_type = match query_type {
                    RecordType::A | RecordType::AAAA | RecordType::ANY => query_type,
                    _ => RecordType::NULL,
                };
                Route::Local(owned_by(name, look_up(&**zone, zone.origin(), query_type)))
            }
            Some(zone) => {
                let mut reply = look_up(&**zone, &name_here, query_type);
                self.sort(&mut reply.answers, client);
                Route::Local(owned_by(name, reply))
            }
            None if name.iter().len() == 1 => self.bare_label(name, query_type, client),
            None if query_type == RecordType::ANY => Route::Local(Reply::any(name.clone())),
            None => Route::Forward,
        }
    }

    /// A name of one label, as typed by a person: a host of the local domain, or nothing. Only
    /// what a validator asks of a top-level domain goes outside.
    fn bare_label(&self, name: &Name, query_type: RecordType, client: IpAddr) -> Route {
        // Whatever hosts there are: one that calls itself `com` must not stand before all of its
        // names.
        if matches!(
            query_type,
            RecordType::NS | RecordType::SOA | RecordType::DS | RecordType::DNSKEY
        ) {
            return Route::Forward;
        }
        let Ok(host) = name.clone().append_domain(&self.domain) else {
            return Route::Local(Reply::error(ResponseCode::NXDomain, None));
        };
        match self.route(&host, query_type, client) {
            Route::Forward => Route::Forward,
            Route::Local(mut reply) => {
                // An SOA that is not above the name would not be taken for one.
                reply.authorities.iter_mut().for_each(|soa| soa.name = Name::root());
                Route::Local(owned_by(name, reply))
            }
        }
    }

    /// Puts the addresses in the client's network first.
    fn sort(&self, answers: &mut [Record], client: IpAddr) {
        let near = self.networks.iter().copied().map(IpNet::from).find(|net| net.contains(&client));
        answers.sort_by_key(|record| {
            let address = record.data.ip_addr();
            (!address.zip(near).is_some_and(|(address, near)| near.contains(&address)), address)
        });
    }
}

/// Answers from `zone`, with its SOA if there is none (RFC 2308).
fn look_up(zone: &dyn ZoneHandler, name: &LowerName, query_type: RecordType) -> Reply {
    let search = |name, query_type| {
        // Nothing waits: the zone is in memory, and nobody changes it.
        let lookup = zone.lookup(name, query_type, None, LookupOptions::default());
        unconstrained(lookup).now_or_never()?.map_result()
    };
    let code = match search(name, query_type) {
        Some(Ok(found)) => {
            let additionals = found.additionals().into_iter().flatten().cloned().collect();
            let answers = found.iter().cloned().collect();
            return Reply { additionals, ..Reply::local(ResponseCode::NoError, answers, None) };
        }
        Some(Err(LookupError::NameExists)) => ResponseCode::NoError,
        Some(Err(LookupError::ResponseCode(code))) => code,
        Some(Err(_)) | None => ResponseCode::ServFail,
    };
    let soa = search(zone.origin(), RecordType::SOA).and_then(Result::ok);
    let soa = soa.and_then(|found| found.iter().next().cloned());
    Reply::local(code, Vec::new(), soa)
}

/// `reply` with the answers' owner as `name` writes it.
fn owned_by(name: &Name, mut reply: Reply) -> Reply {
    reply.answers.iter_mut().for_each(|record| record.name.clone_from(name));
    reply
}

/// Zones while they are filled.
struct Zones {
    serial: u32,
    handlers: HashMap<LowerName, InMemoryZoneHandler>,
    /// Addresses that have their name: of several, the first.
    named: BTreeSet<Ipv4Addr>,
    /// Labels of the longest name.
    labels: usize,
}

impl Zones {
    /// Adds a zone with its SOA and NS.
    fn add(&mut self, apex: Name, router: &Name) {
        let zone = InMemoryZoneHandler::empty(apex.clone(), ZoneType::Primary, AxfrPolicy::Deny);
        self.handlers.insert(apex.clone().into(), zone);
        let mailbox = Name::from_labels(["nobody", "invalid"]).unwrap_or_else(|_| Name::root());
        let ttl = TTL.cast_signed();
        // Nobody transfers these zones, so the times mean nothing but the last, the negative TTL.
        let soa = SOA::new(router.clone(), mailbox, self.serial, ttl, ttl, ttl, TTL);
        self.insert(&apex, RData::SOA(soa));
        self.insert(&apex, RData::NS(NS(router.clone())));
    }

    /// Adds a host: its address, and its name unless the address has one.
    fn host(&mut self, name: Name, address: Ipv4Addr) {
        self.insert(&name, RData::A(A(address)));
        if self.named.insert(address) {
            self.insert(&address.into(), RData::PTR(PTR(name)));
        }
    }

    /// Adds a record to the zone that `name` lies in, if there is one.
    fn insert(&mut self, name: &Name, data: RData) {
        self.labels = self.labels.max(name.iter().len());
        let mut apex = LowerName::from(name);
        while !apex.is_root() {
            if let Some(zone) = self.handlers.get_mut(&apex) {
                let record = Record::from_rdata(name.clone(), TTL, data);
                let key = RrKey::new(name.into(), record.record_type());
                // `upsert_mut` would reserve room for four records in each set.
                match zone.records_get_mut().entry(key) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(Arc::new(record.into()));
                    }
                    Entry::Occupied(mut set) => {
                        Arc::make_mut(set.get_mut()).insert(record, self.serial);
                    }
                }
                return;
            }
            apex = apex.base_name();
        }
    }

    fn into_catalog(self) -> Catalog {
        let mut catalog = Catalog::new();
        for (apex, zone) in self.handlers {
            catalog.upsert(apex, vec![Arc::new(zone)]);
        }
        catalog
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
            inside: Vec::new(),
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
        assert_eq!(answer(&format!("{}lan.", "a.".repeat(120)), RecordType::A), nothing());
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
        // A client that goes by the name of a top-level domain takes it from nobody.
        let zones =
            LocalZones::build(&part(), &[lease("com", "192.168.77.9", "bound")], 1).unwrap();
        let ask = |name, query_type| {
            let client = Ipv4Addr::new(192, 168, 77, 100).into();
            zones.route(&Name::from_ascii(name).unwrap(), query_type, client)
        };
        for query_type in [RecordType::NS, RecordType::SOA, RecordType::DS, RecordType::DNSKEY] {
            assert_eq!(ask("com.", query_type), Route::Forward, "{query_type}");
            assert!(matches!(ask("com.lan.", query_type), Route::Local(_)), "{query_type}");
        }
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
        let error = LocalZones::build(&part, &[], 1).err().unwrap().to_string();
        assert!(error.contains("dns.domain: `a..b`"), "{error}");
    }
}
