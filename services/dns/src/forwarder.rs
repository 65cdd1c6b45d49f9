//! The forwarder without sockets and clocks: takes queries and the answers of upstreams, and says
//! what to do.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::rdata::opt::EdnsOption,
};
use ipnet::IpNet;
use portcullis_bus::{dhcp::Lease, dns::DnsStatus, network::WanLease};
use portcullis_model::part::DnsPart;

use crate::{
    cache::{Cache, Key, bound_ttls},
    rebinding,
    reply::{self, EXTENDED_ERROR, ExtendedError, Reply},
    request::{Question, Received, Request, Transport},
    upstreams::{Upstreams, candidates},
    zone::{DomainError, LocalZones, Route},
};

/// What to do with a received message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing.
    Drop,
    /// Send this.
    Reply(Vec<u8>),
    /// Get the answer from an upstream, then call [`Forwarder::finish`].
    Forward(Request),
}

/// What the upstreams had to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// An answer, also that there is nothing.
    Answered(Reply),
    /// All failed; with the reason that one of them gave.
    Failed(Option<ExtendedError>),
    /// There is none to ask.
    NoUpstream,
}

/// All that the service knows.
pub struct Forwarder {
    part: DnsPart,
    leases: Vec<Lease>,
    wan_leases: Vec<WanLease>,
    zones: LocalZones,
    serial: u32,
    cache: Cache,
    /// Servers to ask.
    pub upstreams: Upstreams,
    /// The last servers that there were: answers of others are not kept.
    cached_from: Vec<SocketAddr>,
    /// Networks that no name of the outside may point into.
    guarded: Vec<IpNet>,
    /// Which emptying of the cache was the last.
    generation: u64,
    counts: DnsStatus,
}

impl Forwarder {
    /// A forwarder with this configuration.
    ///
    /// # Errors
    /// If the local domain cannot be used.
    pub fn new(part: DnsPart) -> Result<Self, DomainError> {
        let zones = LocalZones::build(&part, &[], 1)?;
        let mut forwarder = Self {
            cache: Cache::new(part.cache_entries),
            guarded: rebinding::guarded(&part),
            generation: 0,
            part,
            leases: Vec::new(),
            wan_leases: Vec::new(),
            zones,
            serial: 1,
            upstreams: Upstreams::default(),
            cached_from: Vec::new(),
            counts: DnsStatus::default(),
        };
        forwarder.select_upstreams();
        Ok(forwarder)
    }

    /// Takes a new configuration; says whether the upstreams changed. What did not change, the
    /// cache above all, stays.
    ///
    /// # Errors
    /// If the local domain cannot be used; then the old configuration stays in force.
    pub fn apply(&mut self, part: DnsPart) -> Result<bool, DomainError> {
        self.zones = LocalZones::build(&part, &self.leases, self.serial.wrapping_add(1))?;
        self.serial = self.serial.wrapping_add(1);
        self.cache.set_max_entries(part.cache_entries);
        let guarded = rebinding::guarded(&part);
        if guarded != self.guarded {
            // Cached answers were checked against the old networks.
            self.guarded = guarded;
            self.empty_cache();
        }
        self.part = part;
        Ok(self.select_upstreams())
    }

    /// Takes the leases of the DHCP server.
    ///
    /// # Errors
    /// If the local domain cannot be used; it was checked before.
    pub fn set_leases(&mut self, leases: Vec<Lease>) -> Result<(), DomainError> {
        if leases != self.leases {
            self.serial = self.serial.wrapping_add(1);
            self.zones = LocalZones::build(&self.part, &leases, self.serial)?;
            self.leases = leases;
        }
        Ok(())
    }

    /// Takes the WAN leases; says whether the upstreams changed.
    pub fn set_wan_leases(&mut self, leases: Vec<WanLease>) -> bool {
        self.wan_leases = leases;
        self.select_upstreams()
    }

    fn select_upstreams(&mut self) -> bool {
        let inside = &self.part.inside;
        let own = |ip| self.is_own(ip) || inside.iter().any(|network| network.addr() == ip);
        let candidates = candidates(&self.part.upstreams, &self.wan_leases, own);
        let changed = self.upstreams.replace(candidates);
        let mut servers: Vec<_> = self.upstreams.addresses().collect();
        servers.sort_unstable();
        // While there is none, as when the WAN is down, what is known stays useful.
        if !servers.is_empty() && servers != self.cached_from {
            self.empty_cache();
            self.cached_from = servers;
        }
        changed
    }

    fn empty_cache(&mut self) {
        self.cache.clear();
        self.generation += 1;
    }

    /// Changes whenever answers to what was asked before are not to be kept: the servers are others
    /// now, or the networks that answers are checked against.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a query from `source` to `destination` is answered: only those from the router's own
    /// networks, or from the router itself, to an address of the router there. The firewall says
    /// the same.
    pub fn admits(&self, source: IpAddr, destination: IpAddr) -> bool {
        let near = source.is_loopback()
            || matches!(source, IpAddr::V4(source)
                if self.zones.networks().iter().any(|network| network.contains(&source)));
        near && (destination.is_loopback() || self.is_own(destination))
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.zones.networks().iter().any(|network| IpAddr::V4(network.addr()) == address)
    }

    /// Takes a message from a client.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        client: IpAddr,
        transport: Transport,
        now: Instant,
    ) -> Step {
        self.counts.queries += 1;
        let request = match Received::read(bytes, transport) {
            Received::Query(request) => request,
            Received::Rejected(reply) => {
                self.counts.refused += 1;
                return Step::Reply(reply);
            }
            Received::Noise => {
                self.counts.refused += 1;
                return Step::Drop;
            }
        };
        let question = &request.question;
        match self.zones.route(&question.name, question.query_type, client) {
            Route::Local(reply) => {
                self.counts.local += 1;
                Step::Reply(request.encode(&reply))
            }
            // Without RD only authoritative data is asked for, and peeking into the cache would
            // show what others asked.
            Route::Forward if !request.recursion_desired => {
                self.counts.refused += 1;
                let why = ExtendedError::new(20, "not authoritative, and recursion not desired");
                Step::Reply(request.encode(&Reply::error(ResponseCode::Refused, why)))
            }
            Route::Forward => self.recall(request, now),
        }
    }

    fn recall(&mut self, request: Request, now: Instant) -> Step {
        let key = Key::of(&request.question);
        if let Some(reply) = self.cache.get(&key, now) {
            self.counts.cache_hits += 1;
            return Step::Reply(request.encode(&reply));
        }
        if let Some(why) = self.cache.get_failure(&key, now) {
            self.counts.cache_hits += 1;
            let reply = self.failed(&key, now, why.or_else(|| ExtendedError::new(13, "cached")));
            return Step::Reply(request.encode(&reply));
        }
        self.counts.forwarded += 1;
        Step::Forward(request)
    }

    /// Keeps an outcome for those who ask next; called once for each question that was forwarded.
    /// `asked` is the [`Forwarder::generation`] when the upstreams were asked.
    pub fn keep(&mut self, question: &Question, outcome: &Outcome, asked: u64, now: Instant) {
        if asked != self.generation {
            return;
        }
        let key = Key::of(question);
        match outcome {
            Outcome::Answered(reply) => {
                self.cache.insert(key, question.query_type, reply, now);
            }
            Outcome::Failed(why) => self.cache.insert_failure(key, why.clone(), now),
            Outcome::NoUpstream => {}
        }
    }

    /// The reply to a forwarded request.
    pub fn finish(&mut self, request: &Request, outcome: &Outcome, now: Instant) -> Vec<u8> {
        let key = Key::of(&request.question);
        let reply = match outcome {
            Outcome::Answered(reply) => reply.clone(),
            Outcome::Failed(why) => {
                let why = why.clone();
                self.failed(
                    &key,
                    now,
                    why.or_else(|| ExtendedError::new(22, "no upstream gave an answer")),
                )
            }
            Outcome::NoUpstream => {
                self.failed(&key, now, ExtendedError::new(14, "no upstream server is known"))
            }
        };
        request.encode(&reply)
    }

    /// The old answer to a request that has waited for a new one long enough, if there is one.
    pub fn old_reply(&mut self, request: &Request, now: Instant) -> Option<Vec<u8>> {
        let reply = self.cache.get_stale(&Key::of(&request.question), now)?;
        Some(request.encode(&reply))
    }

    /// An old answer if there is one, else SERVFAIL.
    fn failed(&mut self, key: &Key, now: Instant, why: Option<ExtendedError>) -> Reply {
        self.cache.get_stale(key, now).unwrap_or_else(|| {
            self.counts.failed += 1;
            Reply::error(ResponseCode::ServFail, why)
        })
    }

    /// Judges an upstream's message: an answer, or `Err` with its reason if another server should
    /// be asked.
    ///
    /// # Errors
    /// The extended error that the upstream gave.
    pub fn judge(&self, message: Message) -> Result<Reply, Option<ExtendedError>> {
        let why = extended_error(&message);
        let code = message.metadata.response_code;
        let usable =
            matches!(code, ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::YXDomain);
        if !usable || message.metadata.truncation || !reply::all_in(&message) {
            return Err(why);
        }
        if let Some(address) = rebinding::find(&message.answers, &self.guarded) {
            let name = message.queries.first().map(|query| query.name.to_ascii());
            tracing::warn!(?name, %address, "answer points into the LAN, withheld");
            let text = "an address of the local network was withheld";
            return Ok(Reply::error(ResponseCode::NoError, ExtendedError::new(15, text)));
        }
        let mut reply = Reply {
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
            ..Reply::error(code, why)
        };
        bound_ttls(&mut reply);
        Ok(reply)
    }

    /// Counts and upstreams.
    pub fn status(&self) -> DnsStatus {
        DnsStatus { upstreams: self.upstreams.status(), ..self.counts.clone() }
    }
}

fn extended_error(message: &Message) -> Option<ExtendedError> {
    match message.edns.as_ref()?.option(EXTENDED_ERROR.into())? {
        EdnsOption::Unknown(_, data) => ExtendedError::read(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
