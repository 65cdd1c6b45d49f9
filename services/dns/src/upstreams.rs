//! Which upstream to ask, when to turn to the next one, and when to try a silent one again.
//!
//! Servers are asked in the order of their smoothed round-trip time, unmeasured ones first; those
//! not asked age, so that each gets measured again now and then. When a server lets a query wait
//! for longer than its patience, the next is asked too; the first keeps its chance to answer, since
//! an upstream that resolves a new name takes its time, but has lost its rank. A server without any
//! answer until the deadline, or one that cannot be reached, is silent: it comes last and is probed
//! in the background with growing pauses, and any answer makes it healthy again.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_bus::{dns::Upstream as UpstreamStatus, network::WanLease};
use portcullis_model::UpstreamAddress;

/// A query that has waited so long is failed, and the client told (stub resolvers wait 5 s).
pub const DEADLINE: Duration = Duration::from_millis(4500);

/// A client for which there is an old answer does not wait longer for a new one (RFC 8767 section 5).
pub const STALE_AFTER: Duration = Duration::from_millis(1800);

/// How long to wait for an unmeasured server before the next one is asked too.
const FIRST_PATIENCE: Duration = Duration::from_millis(600);

/// Bounds of the patience with a measured server, which is four times its round-trip time.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(800));

/// Weight of a new round-trip time, as in RFC 6298 section 2.
const WEIGHT: f64 = 0.125;

/// Round-trip time added to a server that answered without an answer (SERVFAIL, REFUSED).
const LAME_PENALTY: Duration = Duration::from_millis(50);

/// What remains of the measured time of a server each time that another is asked first.
const AGEING: f64 = 0.98;

/// First and longest pause between probes of a silent server.
const PROBE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Attempts for one query at most.
const MAX_ATTEMPTS: usize = 8;

/// Upstreams used at most; more give no more safety.
const MAX_UPSTREAMS: usize = 8;

/// A server and where it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// Where it answers.
    pub address: SocketAddr,
    /// `configuration`, or the interface whose lease named it.
    pub source: String,
}

/// The servers to use: the configured ones, or else those that the WAN leases name. Servers that
/// `own` says are this router itself would be asked in a circle and are left out.
pub fn candidates(
    configured: &[UpstreamAddress],
    leases: &[WanLease],
    own: impl Fn(IpAddr) -> bool,
) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = configured
        .iter()
        .map(|upstream| Candidate { address: upstream.0, source: "configuration".to_owned() })
        .collect();
    if configured.is_empty() {
        found = leases
            .iter()
            .filter(|lease| lease.address.is_some())
            .flat_map(|lease| lease.dns.iter().map(|server| (server, &lease.interface)))
            .filter_map(|(server, interface)| {
                let address = SocketAddr::new(server.parse().ok()?, 53);
                Some(Candidate { address, source: interface.clone() })
            })
            .collect();
    }
    let mut wanted: Vec<Candidate> = Vec::new();
    for candidate in found {
        let ip = candidate.address.ip();
        let circle = candidate.address.port() == 53 && (own(ip) || ip.is_loopback());
        let known = wanted.iter().any(|other| other.address == candidate.address);
        if !circle && !known && !ip.is_unspecified() && !ip.is_multicast() {
            wanted.push(candidate);
        }
    }
    wanted.truncate(MAX_UPSTREAMS);
    wanted
}

#[derive(Clone, Debug)]
struct Server {
    candidate: Candidate,
    rtt: Option<Duration>,
    silence: Option<Silence>,
}

#[derive(Clone, Copy, Debug)]
struct Silence {
    probe_at: Instant,
    pause: Duration,
}

impl Server {
    fn patience(&self) -> Duration {
        let (least, most) = PATIENCE;
        self.rtt.map_or(FIRST_PATIENCE, |rtt| (rtt * 4).clamp(least, most))
    }
}

/// The servers in use.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    servers: Vec<Server>,
}

/// One attempt to get an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attempt {
    /// Server to ask.
    pub server: SocketAddr,
    /// When to begin the next attempt if this one is still without an answer.
    pub patience: Duration,
}

/// The attempts for one query: every server in order of preference, then again with more
/// patience.
#[derive(Clone, Debug)]
pub struct Attempts {
    servers: Vec<Attempt>,
    next: usize,
}

impl Attempts {
    /// Never asks `server` again for this query: it answered, and had no answer.
    pub fn exclude(&mut self, server: SocketAddr) {
        if let Some(at) = self.servers.iter().position(|attempt| attempt.server == server) {
            self.servers.remove(at);
            // The round goes on with the one that was next.
            if self.next > at {
                self.next -= 1;
            }
        }
    }
}

impl Iterator for Attempts {
    type Item = Attempt;

    fn next(&mut self) -> Option<Attempt> {
        let count = self.servers.len();
        if count == 0 || self.next >= MAX_ATTEMPTS.min(3 * count) {
            return None;
        }
        let round = u32::try_from(self.next / count).unwrap_or(0);
        let attempt = *self.servers.get(self.next % count)?;
        self.next += 1;
        Some(Attempt { patience: attempt.patience * 2_u32.pow(round), ..attempt })
    }
}

impl Upstreams {
    /// Takes a new set of servers; what is known of those that stay is kept. Says whether the set
    /// is another one.
    pub fn replace(&mut self, candidates: Vec<Candidate>) -> bool {
        let same = self.servers.iter().map(|server| &server.candidate).eq(&candidates);
        if !same {
            let old = std::mem::take(&mut self.servers);
            self.servers = candidates
                .into_iter()
                .map(|candidate| {
                    let known = old.iter().find(|s| s.candidate.address == candidate.address);
                    Server {
                        rtt: known.and_then(|s| s.rtt),
                        silence: known.and_then(|s| s.silence),
                        candidate,
                    }
                })
                .collect();
        }
        !same
    }

    /// Addresses in configured order.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().map(|server| server.candidate.address)
    }

    /// The attempts for a new query.
    pub fn attempts(&mut self) -> Attempts {
        let order = self.order();
        for server in order.iter().skip(1) {
            if let Some(server) = self.servers.get_mut(*server) {
                server.rtt = server.rtt.map(|rtt| rtt.mul_f64(AGEING));
            }
        }
        let servers = order
            .into_iter()
            .filter_map(|index| self.servers.get(index))
            .map(|s| Attempt { server: s.candidate.address, patience: s.patience() })
            .collect();
        Attempts { servers, next: 0 }
    }

    /// Indices in the order of preference.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<(usize, &Server)> = self.servers.iter().enumerate().collect();
        // Sorting is stable: equal ones stay as configured.
        order.sort_by_key(|(_, server)| (server.silence.is_some(), server.rtt));
        order.into_iter().map(|(index, _)| index).collect()
    }

    /// `server` answered after `rtt`.
    pub fn answered(&mut self, server: SocketAddr, rtt: Duration) {
        if let Some(server) = self.find(server) {
            server.silence = None;
            server.rtt = Some(match server.rtt {
                Some(old) => old.mul_f64(1.0 - WEIGHT) + rtt.mul_f64(WEIGHT),
                None => rtt,
            });
        }
    }

    /// `server` answered after `rtt`, with a failure: it is there, and others may do better.
    pub fn answered_lame(&mut self, server: SocketAddr, rtt: Duration) {
        self.answered(server, rtt + LAME_PENALTY);
    }

    /// `server` has let a query wait for `waited`, and may still answer.
    pub fn slow(&mut self, server: SocketAddr, waited: Duration) {
        if let Some(server) = self.find(server) {
            server.rtt = server.rtt.max(Some(waited));
        }
    }

    /// `server` did not answer until the deadline, or cannot be reached.
    pub fn silent(&mut self, server: SocketAddr, now: Instant) {
        let (first, longest) = PROBE_PAUSE;
        if let Some(server) = self.find(server) {
            server.silence = Some(match server.silence {
                None => Silence { probe_at: now + first, pause: first },
                // Queries beside the probes do not postpone them.
                Some(silence) if silence.probe_at > now => silence,
                Some(Silence { pause, .. }) => {
                    let pause = (pause * 2).min(longest);
                    Silence { probe_at: now + pause, pause }
                }
            });
        }
    }

    /// When the next probe is due.
    pub fn next_probe(&self) -> Option<Instant> {
        self.servers.iter().filter_map(|s| Some(s.silence?.probe_at)).min()
    }

    /// Silent servers to probe now; each is due again only after its next pause.
    pub fn due_probes(&mut self, now: Instant) -> Vec<SocketAddr> {
        let due: Vec<SocketAddr> = self
            .servers
            .iter()
            .filter(|s| s.silence.is_some_and(|silence| silence.probe_at <= now))
            .map(|s| s.candidate.address)
            .collect();
        for server in &due {
            self.silent(*server, now);
        }
        due
    }

    /// For the bus, in the order of preference.
    pub fn status(&self) -> Vec<UpstreamStatus> {
        self.order()
            .into_iter()
            .filter_map(|index| self.servers.get(index))
            .map(|server| UpstreamStatus {
                address: server.candidate.address.to_string(),
                source: server.candidate.source.clone(),
                healthy: server.silence.is_none(),
                rtt_ms: server.rtt.map(|rtt| u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX)),
            })
            .collect()
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| server.candidate.address == address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 53))
    }

    fn upstreams(count: u8) -> Upstreams {
        let mut upstreams = Upstreams::default();
        let candidate = |n| Candidate { address: address(n), source: "wan".to_owned() };
        assert!(upstreams.replace((1..=count).map(candidate).collect()));
        upstreams
    }

    fn first(upstreams: &mut Upstreams) -> SocketAddr {
        upstreams.attempts().next().unwrap().server
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_fastest_measured_server_is_preferred() {
        let mut upstreams = upstreams(2);
        assert_eq!(first(&mut upstreams), address(1));
        upstreams.answered(address(1), ms(40));
        assert_eq!(first(&mut upstreams), address(2), "unmeasured ones are tried");
        upstreams.answered(address(2), ms(10));
        assert_eq!(first(&mut upstreams), address(2));
    }

    #[test]
    fn a_slower_server_is_measured_again_some_time() {
        let mut upstreams = upstreams(2);
        upstreams.answered(address(1), ms(40));
        upstreams.answered(address(2), ms(10));
        let after = (0..200).position(|_| first(&mut upstreams) == address(1));
        assert!(after.is_some_and(|n| n > 20), "{after:?}");
    }

    #[test]
    fn a_silent_server_comes_last_until_it_answers() {
        let (mut upstreams, now) = (upstreams(2), Instant::now());
        upstreams.silent(address(1), now);
        assert_eq!(first(&mut upstreams), address(2));
        upstreams.silent(address(2), now + ms(1));
        assert!(upstreams.attempts().next().is_some(), "silent servers are still asked");
        upstreams.answered(address(1), ms(300));
        assert_eq!(first(&mut upstreams), address(1));
    }

    #[test]
    fn a_slow_server_loses_its_rank_at_once_and_stays_healthy() {
        let mut upstreams = upstreams(2);
        upstreams.answered(address(1), ms(10));
        upstreams.answered(address(2), ms(100));
        let attempt = upstreams.attempts().next().unwrap();
        assert_eq!(attempt.server, address(1));
        upstreams.slow(address(1), attempt.patience);
        assert_eq!(first(&mut upstreams), address(2));
        assert!(upstreams.status().iter().all(|upstream| upstream.healthy));
    }

    #[test]
    fn probes_come_with_growing_pauses() {
        let (mut upstreams, start) = (upstreams(1), Instant::now());
        assert_eq!(upstreams.next_probe(), None);
        upstreams.silent(address(1), start);
        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..8 {
            let due = upstreams.next_probe().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
            assert_eq!(upstreams.due_probes(now), [address(1)]);
            assert!(upstreams.due_probes(now).is_empty());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        upstreams.answered(address(1), ms(5));
        assert_eq!(upstreams.next_probe(), None);
    }

    #[test]
    fn attempts_go_round_with_more_patience_and_skip_the_lame() {
        let mut attempts = upstreams(2).attempts();
        assert_eq!(attempts.next().unwrap().server, address(1));
        attempts.exclude(address(1));
        let rest: Vec<_> = attempts.map(|a| (a.server, a.patience.as_millis())).collect();
        let silent = address(2);
        assert_eq!(rest, [(silent, 600), (silent, 1200), (silent, 2400)]);
    }

    #[test]
    fn knowledge_of_servers_that_stay_is_kept() {
        let mut upstreams = upstreams(2);
        upstreams.answered(address(2), ms(10));
        let stay = Candidate { address: address(2), source: "wan2".to_owned() };
        assert!(upstreams.replace(vec![stay.clone()]));
        assert!(!upstreams.replace(vec![stay]));
        assert_eq!(upstreams.status()[0].rtt_ms, Some(10));
        assert_eq!(upstreams.status()[0].source, "wan2");
    }

    #[test]
    fn candidates_come_from_the_configuration_or_the_leases() {
        let lease = WanLease {
            interface: "wan".to_owned(),
            address: Some("203.0.113.5/24".to_owned()),
            dns: ["192.0.2.1", "192.168.77.1", "192.0.2.1", "x", "2001:db8::1"]
                .map(str::to_owned)
                .into(),
            ..WanLease::default()
        };
        let own = |ip: IpAddr| ip == IpAddr::from([192, 168, 77, 1]);
        let found = candidates(&[], std::slice::from_ref(&lease), own);
        let shown: Vec<_> = found.iter().map(|c| c.address.to_string()).collect();
        assert_eq!(shown, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        let configured: UpstreamAddress = "9.9.9.9:5353".parse().unwrap();
        let found = candidates(&[configured], std::slice::from_ref(&lease), own);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].source, "configuration");
        let lost = WanLease { address: None, ..lease };
        assert!(candidates(&[], &[lost], own).is_empty());
    }

    proptest! {
        #[test]
        fn every_query_has_attempts_and_they_end(
            events in proptest::collection::vec((0_u8..5, 1_u8..5, 0_u64..3000), 0..100)
        ) {
            let mut upstreams = upstreams(4);
            let mut now = Instant::now();
            for (what, server, time) in events {
                now += ms(time);
                match what {
                    0 => upstreams.answered(address(server), ms(time)),
                    1 => upstreams.answered_lame(address(server), ms(time)),
                    2 => upstreams.silent(address(server), now),
                    3 => upstreams.slow(address(server), ms(time)),
                    _ => drop(upstreams.due_probes(now)),
                }
                let attempts: Vec<_> = upstreams.attempts().collect();
                prop_assert!((4..=MAX_ATTEMPTS).contains(&attempts.len()));
                let mut first: Vec<_> = attempts[..4].iter().map(|a| a.server).collect();
                first.sort();
                prop_assert_eq!(first, (1..=4).map(address).collect::<Vec<_>>());
                // A dead first server costs less than a second.
                prop_assert!(attempts[0].patience <= ms(800));
            }
        }
    }
}
