//! The client's state machine (RFC 2131 figure 5). Pure: frames and time in, frames and lease
//! events out; the caller does the input and output and calls again at [`Client::deadline`].
//!
//! ```text
//! Init -> Selecting -> Requesting -> Probing -> Bound -> Renewing -> Rebinding
//!   ^          (address known)  Rebooting --^      ^---- ACK ---'---------'
//!   '---- NAK, lost lease, conflict, no answer
//! ```
//!
//! A lease in force is kept until it ends, whatever the machine does meanwhile: a cable pulled
//! and put back, or a server that is silent for a while, costs nothing.

use std::{net::Ipv4Addr, time::Duration};

use dhcproto::v4::MessageType;
use portcullis_model::{HostName, MacAddress};

use super::{
    frame::{self, Arp, Received},
    lease::{Grant, Lease, Time},
    message::{self, Reply, Request},
};

/// Upper bound of the random wait before the first message, against all clients of a street
/// asking at once when the power comes back. RFC 2131 section 4.4.1 has 1 to 10 s; a router is
/// one of few clients of its link, and the whole house waits for it.
const DESYNCHRONIZE: Duration = Duration::from_millis(500);

/// First and last step of the retransmission back-off (RFC 2131 section 4.1).
const FIRST_RETRANSMIT: Duration = Duration::from_secs(4);
const LAST_RETRANSMIT: Duration = Duration::from_secs(64);

/// Requests sent before the client starts from the beginning.
const REQUEST_ATTEMPTS: u32 = 4;

/// Requests for the remembered address before it asks anyone for anything.
const REBOOT_ATTEMPTS: u32 = 2;

/// From this attempt on, the answer is asked for as broadcast: some networks lose unicast frames
/// to a host that has no address yet (RFC 2131 section 4.1).
const BROADCAST_FROM_ATTEMPT: u32 = 3;

/// Shortest pause between requests of a lease's holder (RFC 2131 section 4.4.5).
const RENEW_PAUSE: Duration = Duration::from_secs(60);

/// Probes for a new address, and the pause after each (RFC 5227 section 2.1.1 has three within
/// seven seconds; the WAN's other end is a router that answers ARP in milliseconds).
const PROBES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// Pause after a DHCPDECLINE (RFC 2131 section 3.1 point 5).
const DECLINE_PAUSE: Duration = Duration::from_secs(10);

/// Who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Hardware address of the interface.
    pub mac: MacAddress,
    /// Name told to the server.
    pub hostname: HostName,
}

/// A lease from an earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The lease.
    pub lease: Lease,
    /// Whether the address was in use without a break: the service restarted, the kernel did not.
    /// Otherwise the server is asked first (INIT-REBOOT).
    pub in_use: bool,
}

/// What happens to the client.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The link is there.
    LinkUp,
    /// The link is gone.
    LinkDown,
    /// An Ethernet frame came.
    Frame(&'a [u8]),
    /// A UDP datagram came to the leased address, port 68; its payload.
    Datagram(&'a [u8]),
    /// The deadline has come (or not, that does no harm).
    Timer,
    /// The interface is no longer configured by DHCP: give the address back.
    Release,
}

/// What the caller shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this Ethernet frame.
    Frame(Vec<u8>),
    /// Send this payload by UDP from the leased address, port 68, to port 67 of `server`.
    Datagram {
        /// The server.
        server: Ipv4Addr,
        /// The DHCP message.
        payload: Vec<u8>,
    },
    /// Use this lease, in place of any other, and remember it.
    Bound(Lease),
    /// Use no lease and remember none.
    Lost(Loss),
}

/// Why a lease is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Its time is over.
    #[error("the lease ran out")]
    Expired,
    /// The server took it back (DHCPNAK); with its words.
    #[error("server {server} refused the address (DHCPNAK) {text}")]
    Refused {
        /// Which server.
        server: Ipv4Addr,
        /// Its words, may be empty.
        text: String,
    },
    /// Another host uses the address.
    #[error("{address} is already in use by {holder}")]
    Conflict {
        /// The address.
        address: Ipv4Addr,
        /// The other host.
        holder: MacAddress,
    },
    /// We gave it back.
    #[error("released")]
    Released,
}

/// One transaction with the servers.
#[derive(Clone, Debug)]
struct Exchange {
    xid: u32,
    began: Time,
    attempt: u32,
    next: Time,
    /// What the last message said of how long we have been asking.
    secs: u16,
    /// Whether answers are asked for as broadcasts.
    broadcast: bool,
}

#[derive(Clone, Debug)]
enum State {
    NoLink,
    Init { until: Time },
    Selecting(Exchange),
    Requesting(Exchange, Grant),
    Rebooting(Exchange, Ipv4Addr),
    Probing { lease: Lease, sent: u32, next: Time },
    Bound,
    Renewing(Exchange),
    Rebinding(Exchange),
}

/// A DHCP client of one interface.
#[derive(Clone, Debug)]
pub struct Client {
    identity: Identity,
    random: fastrand::Rng,
    state: State,
    /// The lease whose address is in use.
    lease: Option<Lease>,
    /// The address to ask for.
    wish: Option<Ipv4Addr>,
    /// Whether its lease ran out: a server that does not know it any more would be silent if asked for
    /// it as for one of ours (RFC 2131 section 4.3.2), so it is only named in the discover.
    wish_is_old: bool,
    /// When the client began to look for a lease.
    began: Time,
    /// Refusals (DHCPNAK) since the last lease, for the back-off from a server that offers what it
    /// then refuses.
    refusals: u32,
}

impl Client {
    /// A client without link. `seed` makes the transaction numbers and jitter.
    pub fn new(identity: Identity, seed: u64, remembered: Option<Remembered>) -> Self {
        let wish = remembered.as_ref().map(|r| r.lease.grant.address.addr());
        let lease = remembered.filter(|r| r.in_use).map(|r| r.lease);
        let random = fastrand::Rng::with_seed(seed);
        Self {
            identity,
            random,
            state: State::NoLink,
            lease,
            wish,
            wish_is_old: false,
            began: Time::ZERO,
            refusals: 0,
        }
    }

    /// The lease whose address is in use.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// The state's name in RFC 2131, in lower case; `init-reboot` waits for the link to ask for a
    /// remembered address, and probing is the end of `requesting`.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::NoLink if self.wish.is_some() && !self.wish_is_old => "init-reboot",
            State::NoLink | State::Init { .. } => "init",
            State::Selecting(_) => "selecting",
            State::Requesting(..) | State::Probing { .. } => "requesting",
            State::Rebooting(..) => "rebooting",
            State::Bound => "bound",
            State::Renewing(_) => "renewing",
            State::Rebinding(_) => "rebinding",
        }
    }

    /// Whether DHCP answers are awaited: only then need the caller listen for frames.
    pub fn awaits_answers(&self) -> bool {
        matches!(
            self.state,
            State::Selecting(_)
                | State::Requesting(..)
                | State::Rebooting(..)
                | State::Renewing(_)
                | State::Rebinding(_)
        )
    }

    /// Whether ARP packets are awaited.
    pub fn probes(&self) -> bool {
        matches!(self.state, State::Probing { .. })
    }

    /// When [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Time> {
        let lease = self.lease.as_ref();
        let own = match &self.state {
            State::NoLink => None,
            State::Init { until } => Some(*until),
            State::Selecting(e) | State::Requesting(e, _) | State::Rebooting(e, _) => Some(e.next),
            State::Probing { next, .. } => Some(*next),
            State::Bound => lease.and_then(Lease::renews),
            State::Renewing(e) => {
                Some(e.next).into_iter().chain(lease.and_then(Lease::rebinds)).min()
            }
            State::Rebinding(e) => Some(e.next),
        };
        own.into_iter().chain(lease.and_then(Lease::expires)).min()
    }

    /// Takes one input and says what to do, in this order.
    pub fn handle(&mut self, now: Time, input: Input<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        self.expire(now, &mut out);
        match input {
            Input::LinkUp if matches!(self.state, State::NoLink) => self.begin(now, &mut out),
            Input::LinkUp => {}
            Input::LinkDown => self.state = State::NoLink,
            Input::Frame(bytes) => match frame::parse(bytes, self.identity.mac) {
                Some(Received::Dhcp(payload)) => self.message(now, payload, &mut out),
                Some(Received::Arp(arp)) => self.arp(now, arp, &mut out),
                None => {}
            },
            Input::Datagram(payload) => self.message(now, payload, &mut out),
            Input::Timer => self.timer(now, &mut out),
            Input::Release => self.release(&mut out),
        }
        out
    }

    fn expire(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.lease.as_ref().is_some_and(|lease| lease.expired(now)) {
            self.lease = None;
            self.wish_is_old = true;
            out.push(Output::Lost(Loss::Expired));
            if matches!(self.state, State::Bound | State::Renewing(_) | State::Rebinding(_)) {
                self.state = State::Init { until: now };
                self.began = now;
            }
        }
    }

    /// The link is there: ask for the address that we had, or for any.
    fn begin(&mut self, now: Time, out: &mut Vec<Output>) {
        self.began = now;
        match self.wish.filter(|_| !self.wish_is_old) {
            Some(address) => {
                let mut exchange = self.exchange(now);
                self.send_request(now, &mut exchange, Ask::Address { address, server: None }, out);
                self.state = State::Rebooting(exchange, address);
            }
            None => {
                let wait = self.random.u64(0..=DESYNCHRONIZE.as_millis() as u64);
                self.state = State::Init { until: now + Duration::from_millis(wait) };
            }
        }
    }

    fn timer(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        // Taken out to be changed; every arm puts the next state in.
        match std::mem::replace(&mut self.state, State::NoLink) {
            State::NoLink => {}
            State::Init { .. } => {
                let mut exchange = self.exchange(now);
                self.send_discover(now, &mut exchange, out);
                self.state = State::Selecting(exchange);
            }
            State::Selecting(mut exchange) => {
                if exchange.next <= now {
                    self.send_discover(now, &mut exchange, out);
                }
                self.state = State::Selecting(exchange);
            }
            State::Requesting(mut exchange, grant) => {
                if exchange.next > now {
                    self.state = State::Requesting(exchange, grant);
                } else if exchange.attempt >= REQUEST_ATTEMPTS {
                    self.state = State::Init { until: now };
                } else {
                    let ask =
                        Ask::Address { address: grant.address.addr(), server: Some(grant.server) };
                    self.send_request(now, &mut exchange, ask, out);
                    self.state = State::Requesting(exchange, grant);
                }
            }
            State::Rebooting(mut exchange, address) => {
                if exchange.next > now {
                    self.state = State::Rebooting(exchange, address);
                } else if exchange.attempt >= REBOOT_ATTEMPTS {
                    self.state = State::Init { until: now };
                } else {
                    let ask = Ask::Address { address, server: None };
                    self.send_request(now, &mut exchange, ask, out);
                    self.state = State::Rebooting(exchange, address);
                }
            }
            State::Probing { lease, sent, next } => self.probe(now, lease, sent, next, out),
            State::Bound => self.extend(now, None, out),
            State::Renewing(exchange) => self.extend(now, Some(exchange), out),
            State::Rebinding(exchange) => self.extend(now, Some(exchange), out),
        }
    }

    /// T1 or T2 has come, or a request for more time went unanswered (RFC 2131 section 4.4.5).
    fn extend(&mut self, now: Time, exchange: Option<Exchange>, out: &mut Vec<Output>) {
        let Some(lease) = self.lease.clone() else {
            self.state = State::Init { until: now };
            return;
        };
        if exchange.is_none() {
            self.began = now;
        }
        let rebinding = lease.rebinds().is_some_and(|t2| t2 <= now);
        let end = if rebinding { lease.expires() } else { lease.rebinds() };
        // Each request is a transaction of its own: the new lease counts from its sending.
        let mut next = self.exchange(now);
        let ask = Ask::More { lease: &lease, any_server: rebinding };
        self.send_request(now, &mut next, ask, out);
        let left = end.unwrap_or(now).saturating_sub(now);
        next.next = now + (left / 2).max(RENEW_PAUSE);
        self.state = if rebinding { State::Rebinding(next) } else { State::Renewing(next) };
    }

    fn message(&mut self, now: Time, payload: &[u8], out: &mut Vec<Output>) {
        let (State::Selecting(exchange)
        | State::Requesting(exchange, _)
        | State::Rebooting(exchange, _)
        | State::Renewing(exchange)
        | State::Rebinding(exchange)) = &self.state
        else {
            return;
        };
        let Some(reply) = message::parse(payload, exchange.xid, self.identity.mac) else { return };
        let obtained = exchange.began;
        match (&self.state, reply) {
            (State::Selecting(exchange), Reply::Offer(grant)) => {
                // The same transaction goes on, its retransmissions count anew. An answer that came
                // only as a broadcast would not come otherwise this time either.
                let mut exchange = Exchange { attempt: 0, began: now, ..exchange.clone() };
                let ask =
                    Ask::Address { address: grant.address.addr(), server: Some(grant.server) };
                self.send_request(now, &mut exchange, ask, out);
                self.state = State::Requesting(exchange, grant);
            }
            (State::Requesting(_, offer), Reply::Ack(grant))
                if grant.server == offer.server && grant.address.addr() == offer.address.addr() =>
            {
                self.granted(now, Lease { grant, obtained }, out);
            }
            (State::Rebooting(_, address), Reply::Ack(grant))
                if grant.address.addr() == *address =>
            {
                self.granted(now, Lease { grant, obtained }, out);
            }
            (State::Renewing(_) | State::Rebinding(_), Reply::Ack(grant))
                if self.holds(grant.address.addr()) =>
            {
                self.granted(now, Lease { grant, obtained }, out);
            }
            (State::Requesting(_, offer), Reply::Nak { server, .. }) if server != offer.server => {}
            (
                State::Requesting(..)
                | State::Rebooting(..)
                | State::Renewing(_)
                | State::Rebinding(_),
                Reply::Nak { server, text },
            ) => {
                // A refused offer says nothing about a lease that is still in force.
                let keeps = matches!(self.state, State::Requesting(..)) && self.lease.is_some();
                if !keeps {
                    self.lease = None;
                    self.wish = None;
                    out.push(Output::Lost(Loss::Refused { server, text }));
                }
                self.began = now;
                // At once the first time: a moved router must not wait. Then backing off.
                let pause = match self.refusals {
                    0 => Duration::ZERO,
                    refusals => backoff(refusals - 1),
                };
                self.refusals = self.refusals.saturating_add(1);
                self.state = State::Init { until: now + pause + self.jitter() };
            }
            _ => {}
        }
    }

    fn holds(&self, address: Ipv4Addr) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.grant.address.addr() == address)
    }

    fn granted(&mut self, now: Time, lease: Lease, out: &mut Vec<Output>) {
        if lease.expired(now) {
            self.state = State::Init { until: now };
        } else if self.holds(lease.grant.address.addr()) {
            // In use all the time: nobody can have taken it.
            self.bind(lease, out);
        } else {
            self.probe(now, lease, 0, now, out);
        }
    }

    fn probe(&mut self, now: Time, lease: Lease, sent: u32, next: Time, out: &mut Vec<Output>) {
        let address = lease.grant.address.addr();
        if next > now {
            self.state = State::Probing { lease, sent, next };
        } else if sent < PROBES {
            let mac = self.identity.mac;
            out.push(Output::Frame(frame::arp_request(mac, Ipv4Addr::UNSPECIFIED, address)));
            self.state = State::Probing { lease, sent: sent + 1, next: now + PROBE_PAUSE };
        } else if lease.expired(now) {
            self.state = State::Init { until: now };
        } else {
            self.bind(lease, out);
            out.push(Output::Frame(frame::arp_request(self.identity.mac, address, address)));
        }
    }

    fn bind(&mut self, lease: Lease, out: &mut Vec<Output>) {
        self.refusals = 0;
        self.wish = Some(lease.grant.address.addr());
        self.wish_is_old = false;
        self.lease = Some(lease.clone());
        self.state = State::Bound;
        out.push(Output::Bound(lease));
    }

    /// RFC 5227 section 2.1.1: somebody has the address, or probes for it as well.
    fn arp(&mut self, now: Time, arp: Arp, out: &mut Vec<Output>) {
        let State::Probing { lease, .. } = &self.state else { return };
        let (address, server) = (lease.grant.address.addr(), lease.grant.server);
        let holds = arp.sender_address == address;
        let probes = arp.sender_address.is_unspecified() && arp.target_address == address;
        if arp.sender == self.identity.mac || !(holds || probes) {
            return;
        }
        let xid = self.random.u32(..);
        let mut decline = self.request(MessageType::Decline, xid, 0);
        decline.requested = Some(address);
        decline.server = Some(server);
        let payload = decline.encode();
        out.push(self.broadcast(Ipv4Addr::UNSPECIFIED, &payload));
        self.wish = self.lease.as_ref().map(|lease| lease.grant.address.addr());
        if self.lease.is_none() {
            out.push(Output::Lost(Loss::Conflict { address, holder: arp.sender }));
        }
        self.state = State::Init { until: now + DECLINE_PAUSE };
    }

    fn release(&mut self, out: &mut Vec<Output>) {
        if let Some(lease) = self.lease.take() {
            let xid = self.random.u32(..);
            let mut request = self.request(MessageType::Release, xid, 0);
            request.address = Some(lease.grant.address.addr());
            request.server = Some(lease.grant.server);
            let payload = request.encode();
            out.push(Output::Datagram { server: lease.grant.server, payload });
        }
        self.wish = None;
        self.state = State::NoLink;
        out.push(Output::Lost(Loss::Released));
    }

    fn exchange(&mut self, now: Time) -> Exchange {
        let xid = self.random.u32(..);
        Exchange { xid, began: now, attempt: 0, next: now, secs: 0, broadcast: false }
    }

    fn send_discover(&mut self, now: Time, exchange: &mut Exchange, out: &mut Vec<Output>) {
        self.count(now, exchange);
        exchange.secs = self.secs(now);
        let mut request = self.request(MessageType::Discover, exchange.xid, exchange.secs);
        request.requested = self.wish;
        request.broadcast = exchange.broadcast;
        let payload = request.encode();
        out.push(self.broadcast(Ipv4Addr::UNSPECIFIED, &payload));
    }

    fn send_request(
        &mut self,
        now: Time,
        exchange: &mut Exchange,
        ask: Ask<'_>,
        out: &mut Vec<Output>,
    ) {
        self.count(now, exchange);
        // A request that answers an offer has the number of the discover, for relays that go by it
        // (RFC 2131 section 3.1 point 3).
        if !matches!(ask, Ask::Address { server: Some(_), .. }) {
            exchange.secs = self.secs(now);
        }
        let mut request = self.request(MessageType::Request, exchange.xid, exchange.secs);
        match ask {
            Ask::Address { address, server } => {
                request.requested = Some(address);
                request.server = server;
                request.broadcast = exchange.broadcast;
                let payload = request.encode();
                out.push(self.broadcast(Ipv4Addr::UNSPECIFIED, &payload));
            }
            Ask::More { lease, any_server } => {
                let address = lease.grant.address.addr();
                request.address = Some(address);
                let payload = request.encode();
                out.push(if any_server {
                    self.broadcast(address, &payload)
                } else {
                    Output::Datagram { server: lease.grant.server, payload }
                });
            }
        }
    }

    /// Counts an attempt and sets the time of the next: 4, 8, 16, 32, 64 s, each plus or minus up
    /// to one second (RFC 2131 section 4.1).
    fn count(&mut self, now: Time, exchange: &mut Exchange) {
        let pause = backoff(exchange.attempt) - Duration::from_secs(1) + self.jitter() * 2;
        exchange.attempt = exchange.attempt.saturating_add(1);
        exchange.broadcast |= exchange.attempt >= BROADCAST_FROM_ATTEMPT;
        exchange.next = now + pause;
    }

    /// Up to a second.
    fn jitter(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(0..=1000))
    }

    fn secs(&self, now: Time) -> u16 {
        u16::try_from(now.saturating_sub(self.began).as_secs()).unwrap_or(u16::MAX)
    }

    fn request(&self, kind: MessageType, xid: u32, secs: u16) -> Request<'_> {
        Request {
            kind,
            xid,
            secs,
            broadcast: false,
            address: None,
            requested: None,
            server: None,
            mac: self.identity.mac,
            hostname: &self.identity.hostname,
        }
    }

    fn broadcast(&self, source: Ipv4Addr, payload: &[u8]) -> Output {
        Output::Frame(frame::dhcp_broadcast(self.identity.mac, source, payload))
    }
}

/// 4, 8, 16, 32, 64, 64, ... s.
fn backoff(attempt: u32) -> Duration {
    (FIRST_RETRANSMIT * 2_u32.saturating_pow(attempt.min(8))).min(LAST_RETRANSMIT)
}

/// The forms of DHCPREQUEST (RFC 2131 section 4.3.2).
enum Ask<'a> {
    /// SELECTING (with the chosen server) or INIT-REBOOT.
    Address { address: Ipv4Addr, server: Option<Ipv4Addr> },
    /// RENEWING, or REBINDING by broadcast.
    More { lease: &'a Lease, any_server: bool },
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
