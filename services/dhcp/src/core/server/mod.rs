//! The server: takes messages, the outcome of probes and the passing of time.

mod discover;
mod give_back;
mod lease;
mod request;

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
};

use dhcproto::v4::MessageType;
use portcullis_model::{HostName, Name, part::DhcpPart};

use super::{
    Action, Destination, LeaseRecord, LeaseState, Notice, Now, Outgoing, Request,
    offers::{Offer, Offers, Stage},
    reply::Reply,
    scope::Scope,
    table::{Lease, Table},
};

/// How long an offer is held, milliseconds.
pub const OFFER_MS: i64 = 30_000;
/// How long an address of which nobody knows who uses it is probed before it is offered,
/// milliseconds; two ARP requests go out in that time.
pub const PROBE_MS: i64 = 300;
/// How long an address in use by somebody without a lease is set aside, milliseconds.
pub const DECLINE_MS: i64 = 600_000;
/// The warning of an exhausted pool is repeated after this, milliseconds.
const EXHAUSTED_PAUSE_MS: i64 = 60_000;
/// The wall clock was set if it moved by more than this against the monotonic one, milliseconds.
const CLOCK_STEP_MS: u64 = 60_000;

/// How a message came in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// Interface (configuration name).
    pub interface: Name,
    /// Whether it was addressed to 255.255.255.255 or a subnet's broadcast address: what tells
    /// REBINDING from RENEWING.
    pub broadcast: bool,
}

/// Messages since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Understood.
    pub requests: u64,
    /// Not understood and dropped.
    pub malformed: u64,
}

/// The DHCP server of all interfaces.
#[derive(Debug)]
pub struct Server {
    domain: String,
    scopes: BTreeMap<Name, Scope>,
    table: Table,
    offers: Offers,
    exhausted: HashMap<Name, i64>,
    clock_offset_ms: i64,
    counters: Counters,
    /// What was found to do at the start, for the first [`Server::tick`].
    overdue: Vec<Action>,
}

impl Server {
    /// A server with the leases found on disk, which may be over; [`Server::tick`] cleans up.
    pub fn new(part: &DhcpPart, leases: Vec<LeaseRecord>, now: Now) -> Self {
        let mut table = Table::default();
        for record in leases {
            let (address, lease) = Lease::from_record(record, now);
            table.put(address, lease);
        }
        let mut server = Self {
            domain: String::new(),
            scopes: BTreeMap::new(),
            table,
            offers: Offers::default(),
            exhausted: HashMap::new(),
            clock_offset_ms: now.offset_ms(),
            counters: Counters::default(),
            overdue: Vec::new(),
        };
        server.overdue = server.configure(part, now);
        server
    }

    /// Takes a new configuration. Leases stay; a client whose address does not fit any more is
    /// refused when it renews.
    pub fn configure(&mut self, part: &DhcpPart, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        self.domain = part.domain.clone();
        self.scopes = part
            .servers
            .iter()
            .map(|(interface, part)| (interface.clone(), Scope::new(interface, part)))
            .collect();
        let scopes = &self.scopes;
        self.offers.retain(|offer| {
            scopes.get(&offer.interface).is_some_and(|scope| match &offer.stage {
                // The client asks again, and another address is probed for it.
                Stage::Probing { request, .. } => scope.permits(offer.address, &request.hardware),
                // Checked again when the client takes it.
                Stage::Made => scope.contains(offer.address),
            })
        });
        self.forget_strays(&mut out);
        self.rename_reserved(now, &mut out);
        out
    }

    /// Leases that are over and of no subnet of ours are of no use to anybody.
    fn forget_strays(&mut self, out: &mut Vec<Action>) {
        let strays: Vec<_> = self
            .table
            .iter()
            .filter(|(address, lease)| {
                let inside =
                    self.scopes.get(&lease.interface).is_some_and(|s| s.contains(*address));
                !inside && lease.state != LeaseState::Bound
            })
            .map(|(address, _)| address)
            .collect();
        for address in strays {
            self.table.remove(address);
            out.extend([Action::Forget(address), Action::Changed]);
        }
    }

    /// Takes a datagram that came to port 67.
    pub fn receive(&mut self, bytes: &[u8], arrival: &Arrival, now: Now) -> Vec<Action> {
        let mut out = self.tick(now);
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(error) => {
                self.counters.malformed += 1;
                out.push(Action::Notice(Notice::Malformed(error)));
                return out;
            }
        };
        self.counters.requests += 1;
        let interface = match self.subnet_of(&request, arrival) {
            Ok(interface) => interface,
            Err(reason) => {
                out.push(Action::Notice(Notice::Ignored(reason)));
                return out;
            }
        };
        match request.kind {
            MessageType::Discover => self.discover(&interface, request, now, &mut out),
            MessageType::Request => self.request(&interface, &request, arrival, now, &mut out),
            MessageType::Decline => self.decline(&interface, &request, now, &mut out),
            MessageType::Release => self.release(&interface, &request, now, &mut out),
            MessageType::Inform => self.inform(&interface, &request, &mut out),
            _ => {}
        }
        out
    }

    /// The interface whose subnet the client is in: the one that the message came by. A relay agent
    /// stands in the same subnet, since all that are served are our own: a message by another way is
    /// somebody there who speaks for clients of a network that he has no access to.
    fn subnet_of(&self, request: &Request, arrival: &Arrival) -> Result<Name, &'static str> {
        match self.scopes.get(&arrival.interface) {
            None => Err("no server on this interface"),
            Some(scope) if request.giaddr == scope.address() => Err("giaddr is our own address"),
            Some(scope) if request.relayed() && !scope.contains(request.giaddr) => {
                Err("giaddr is not in the subnet that the message came by")
            }
            Some(scope) => Ok(scope.interface.clone()),
        }
    }

    /// Parameters only, for a client that has its address otherwise (RFC 2131 section 4.3.5).
    fn inform(&mut self, interface: &Name, request: &Request, out: &mut Vec<Action>) {
        let Some(scope) = self.scopes.get(interface) else { return };
        if !scope.is_host(request.ciaddr) {
            out.push(Action::Notice(Notice::Ignored("DHCPINFORM from no host of the subnet")));
            return;
        }
        // No name is registered: the address is not ours to give a name to.
        self.send(interface, request, MessageType::Ack, Answer::default(), out);
    }

    /// Somebody with hardware address `by` on `interface` said that he has `address`.
    pub fn in_use(
        &mut self,
        interface: &Name,
        address: Ipv4Addr,
        by: portcullis_model::MacAddress,
        now: Now,
    ) -> Vec<Action> {
        let mut out = Vec::new();
        let probed = self.offers.at(address).filter(|offer| offer.interface == *interface);
        let Some(Offer { stage: Stage::Probing { request, .. }, .. }) = probed else {
            return out;
        };
        // The client itself may go on using the address that it had: no conflict.
        if request.hardware.ethernet() == Some(by) {
            return out;
        }
        let Some(Offer { stage: Stage::Probing { request, .. }, .. }) = self.offers.remove(address)
        else {
            return out;
        };
        self.set_aside(interface, address, by.into(), now, &mut out);
        out.push(Action::Notice(Notice::Conflict { address, by: Some(by) }));
        self.discover(interface, *request, now, &mut out);
        out
    }

    /// When [`Server::tick`] has something to do, monotonic milliseconds.
    pub fn next_deadline(&self) -> Option<i64> {
        [self.offers.next_end(), self.table.next_end()].into_iter().flatten().min()
    }

    /// Whether an answer to a probe is waited for.
    pub fn probing(&self) -> bool {
        self.offers.probing()
    }

    /// Lets time pass: probes, offers and leases end.
    pub fn tick(&mut self, now: Now) -> Vec<Action> {
        let mut out = std::mem::take(&mut self.overdue);
        self.watch_clock(now, &mut out);
        while let Some(offer) = self.offers.take_ended(now.up_ms) {
            match offer.stage {
                Stage::Probing { request, sent } => {
                    self.go_on_probing(
                        &offer.interface,
                        offer.address,
                        *request,
                        sent,
                        now,
                        &mut out,
                    );
                }
                Stage::Made => {}
            }
        }
        while let Some((address, lease)) = self.table.take_ended(now.up_ms) {
            self.end(address, lease, &mut out);
        }
        out
    }

    /// Stamps on disk are wall-clock ones: once the clock is set, as it is some seconds after the
    /// boot of a board without one, they are wrong.
    fn watch_clock(&mut self, now: Now, out: &mut Vec<Action>) {
        let offset_ms = now.offset_ms();
        if offset_ms.abs_diff(self.clock_offset_ms) <= CLOCK_STEP_MS {
            return;
        }
        self.clock_offset_ms = offset_ms;
        out.push(Action::Notice(Notice::ClockSet));
        out.extend(self.records(now).into_iter().map(Action::Save));
    }

    fn end(&mut self, address: Ipv4Addr, lease: Lease, out: &mut Vec<Action>) {
        let inside = self.scopes.get(&lease.interface).is_some_and(|s| s.contains(address));
        if lease.state == LeaseState::Bound && inside {
            // Nothing is written: on disk it is a lease whose end has passed.
            self.table.put(address, Lease { state: LeaseState::Expired, ..lease });
        } else {
            out.push(Action::Forget(address));
            if inside {
                self.table.set_idle(address, lease.ends_ms);
            }
        }
        out.push(Action::Changed);
    }

    /// All leases as they belong on disk, by address.
    pub fn records(&self, now: Now) -> Vec<LeaseRecord> {
        self.table.iter().map(|(address, lease)| lease.record(address, now)).collect()
    }

    /// Whether a reservation fixes the address of `lease` for its client.
    pub fn is_reserved(&self, lease: &LeaseRecord) -> bool {
        self.scopes
            .get(&lease.interface)
            .and_then(|scope| scope.reservation(&lease.hardware))
            .is_some_and(|reservation| reservation.address == lease.address)
    }

    /// Running leases and served interfaces.
    pub fn size(&self) -> (usize, usize) {
        let bound = self.table.iter().filter(|(_, l)| l.state == LeaseState::Bound).count();
        (bound, self.scopes.len())
    }

    /// Messages since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Writes a reply and says where it goes (RFC 2131 section 4.1).
    fn send(
        &self,
        interface: &Name,
        request: &Request,
        kind: MessageType,
        answer: Answer<'_>,
        out: &mut Vec<Action>,
    ) {
        let Some(scope) = self.scopes.get(interface) else { return };
        let yiaddr = answer.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let reply = Reply {
            request,
            scope,
            domain: &self.domain,
            kind,
            yiaddr,
            lease_s: answer.address.map(|_| scope.settings.lease_time_s),
            hostname: answer.hostname,
            message: answer.message,
        };
        let Some(payload) = reply.encode() else {
            out.push(Action::Notice(Notice::Ignored("no room for a reply")));
            return;
        };
        out.push(Action::Send(Outgoing {
            interface: interface.clone(),
            source: scope.address(),
            to: destination(scope, request, kind, yiaddr),
            payload,
        }));
    }
}

/// What a reply says besides the parameters of the subnet.
#[derive(Default)]
struct Answer<'a> {
    /// The address given or offered.
    address: Option<Ipv4Addr>,
    hostname: Option<&'a HostName>,
    message: Option<&'a str>,
}

fn destination(
    scope: &Scope,
    request: &Request,
    kind: MessageType,
    yiaddr: Ipv4Addr,
) -> Destination {
    if request.relayed() {
        Destination::Relay(request.giaddr)
    } else if kind == MessageType::Nak {
        Destination::Broadcast
    } else if scope.is_host(request.ciaddr) {
        Destination::Unicast(request.ciaddr)
    } else {
        let group = |octets: [u8; 6]| octets.first().is_none_or(|first| first & 1 == 1);
        match request.hardware.ethernet() {
            Some(mac) if !request.broadcast() && !group(mac.0) => {
                Destination::Frame { mac, address: yiaddr }
            }
            _ => Destination::Broadcast,
        }
    }
}
