//! Whole stories with a well-behaved server, then random servers on a random network.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dhcproto::v4::{DhcpOption, Message};
use proptest::prelude::*;

use super::*;
use crate::client::{
    lease::SHORTEST_LEASE_S,
    test_server::{self as server, ADDRESS, MAC, SERVER, answer, kind, requested},
};

const START: Time = Duration::from_secs(1 << 32);
const OTHER: MacAddress = MacAddress([2, 2, 2, 2, 2, 2]);

/// The client, its clock, and what it does.
struct World {
    client: Client,
    now: Time,
    /// Messages sent: source address of the frame, none for a unicast datagram.
    sent: Vec<(Option<Ipv4Addr>, Message)>,
    events: Vec<Output>,
    in_use: Option<Lease>,
}

impl World {
    fn new(seed: u64, remembered: Option<Remembered>) -> Self {
        let identity = Identity { mac: MAC, hostname: "gate".parse().unwrap() };
        let in_use = remembered.as_ref().filter(|r| r.in_use).map(|r| r.lease.clone());
        let client = Client::new(identity, seed, remembered);
        Self { client, now: START, sent: Vec::new(), events: Vec::new(), in_use }
    }

    fn input(&mut self, input: Input<'_>) {
        for output in self.client.handle(self.now, input) {
            match &output {
                Output::Frame(frame) => {
                    if let Some((source, message)) = server::sent(frame) {
                        self.check_sent(&message);
                        // Before there is an address, none is claimed.
                        let own = self.in_use.as_ref().map(|l| l.grant.address.addr());
                        assert!(source.is_unspecified() || Some(source) == own);
                        self.sent.push((Some(source), message));
                    }
                }
                Output::Datagram { payload, .. } => {
                    let message = server::decode(payload);
                    self.check_sent(&message);
                    self.sent.push((None, message));
                }
                Output::Bound(lease) => {
                    assert!(!lease.expired(self.now), "bound to what has run out");
                    self.in_use = Some(lease.clone());
                }
                Output::Lost(_) => self.in_use = None,
            }
            self.events.push(output);
        }
        // The caller and the client agree on the one address in use, and it is never used for
        // longer than granted: the client wants to be called at its end at the latest.
        assert_eq!(self.client.lease(), self.in_use.as_ref());
        if let Some(lease) = &self.in_use {
            assert!(!lease.expired(self.now));
            if let Some(end) = lease.expires() {
                assert!(self.client.deadline().unwrap() <= end);
            }
        }
    }

    /// RFC 2131 table 5 and section 4.3.2.
    fn check_sent(&self, message: &Message) {
        let own = self.in_use.as_ref().map(|lease| lease.grant.address.addr());
        let client = (!message.ciaddr().is_unspecified()).then(|| message.ciaddr());
        let server = server::server_identifier(message);
        assert_eq!(message.chaddr(), MAC.0);
        match kind(message) {
            MessageType::Discover => assert_eq!((client, server), (None, None)),
            MessageType::Request if client.is_some() => {
                // The lease is gone already in the step that released it, never here.
                assert_eq!((client, requested(message), server), (own, None, None));
            }
            MessageType::Request => assert!(requested(message).is_some()),
            MessageType::Decline => {
                assert!(client.is_none() && requested(message).is_some() && server.is_some());
            }
            MessageType::Release => assert!(client.is_some() && server.is_some()),
            other => panic!("a client sends no {other:?}"),
        }
    }

    /// Goes to the next deadline.
    fn wait(&mut self) {
        self.now = self.now.max(self.client.deadline().unwrap());
        self.input(Input::Timer);
    }

    fn wait_until(&mut self, time: Time) {
        while self.client.deadline().is_some_and(|deadline| deadline <= time) {
            self.wait();
        }
        self.now = time;
    }

    fn last(&self) -> Message {
        self.sent.last().unwrap().1.clone()
    }

    fn answer(&mut self, kind: MessageType, change: impl FnOnce(&mut Message)) {
        let mut reply = answer(&self.last(), kind);
        change(&mut reply);
        self.input(Input::Frame(&server::frame(&server::encode(&reply))));
    }

    /// To a lease of `lease_s` seconds, from nothing.
    fn bind(&mut self, lease_s: u32) {
        self.input(Input::LinkUp);
        self.wait();
        self.answer(MessageType::Offer, |_| ());
        self.answer(MessageType::Ack, |reply| {
            reply.opts_mut().insert(DhcpOption::AddressLeaseTime(lease_s));
        });
        while self.client.state() != "bound" {
            self.wait();
        }
    }

    fn kinds(&self) -> Vec<MessageType> {
        self.sent.iter().map(|(_, message)| kind(message)).collect()
    }

    fn losses(&self) -> Vec<String> {
        let loss = |event: &Output| match event {
            Output::Lost(loss) => Some(loss.to_string()),
            _ => None,
        };
        self.events.iter().filter_map(loss).collect()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn discover_offer_request_ack_probe_bound() {
    let mut world = World::new(1, None);
    assert_eq!((world.client.state(), world.client.deadline()), ("init", None));
    world.input(Input::LinkUp);
    assert!(world.client.deadline().unwrap() <= START + DESYNCHRONIZE);
    world.wait();
    assert_eq!(world.client.state(), "selecting");
    assert!(world.client.awaits_answers());
    let discover = world.last();
    world.answer(MessageType::Offer, |_| ());
    assert_eq!(world.client.state(), "requesting");
    let request = world.last();
    assert_eq!(kind(&request), MessageType::Request);
    assert_eq!(request.xid(), discover.xid());
    assert_eq!(requested(&request), Some(ADDRESS));
    assert_eq!(server::server_identifier(&request), Some(SERVER));
    world.answer(MessageType::Ack, |_| ());
    assert!(world.client.probes() && world.client.lease().is_none());
    let began = world.now;
    while world.client.state() != "bound" {
        world.wait();
    }
    assert_eq!(world.now - began, PROBE_PAUSE * PROBES);
    assert!(!world.client.awaits_answers());
    let lease = world.client.lease().unwrap();
    assert_eq!(lease.grant.address.addr(), ADDRESS);
    // Counted from the request.
    assert_eq!(lease.expires(), Some(began + seconds(3600)));
    assert_eq!(world.client.deadline(), Some(began + seconds(1800)));
}

#[test]
fn renews_by_unicast_rebinds_by_broadcast_and_gives_up_at_the_end() {
    let mut world = World::new(2, None);
    world.bind(3600);
    let lease = world.client.lease().unwrap().clone();
    world.sent.clear();
    world.wait();
    assert_eq!(world.now, lease.renews().unwrap());
    assert_eq!(world.client.state(), "renewing");
    assert_eq!((world.sent[0].0, world.sent[0].1.ciaddr()), (None, ADDRESS));
    // Half of what is left until T2 (1350 s), each time: 675, 337.5, ... but 60 at least.
    world.wait();
    assert_eq!(world.now, lease.renews().unwrap() + seconds(675));
    world.wait_until(lease.rebinds().unwrap());
    assert_eq!(world.client.state(), "rebinding");
    let (source, request) = world.sent.last().unwrap();
    assert_eq!((*source, request.ciaddr()), (Some(ADDRESS), ADDRESS));
    assert_eq!(world.losses(), Vec::<String>::new());
    world.wait_until(lease.expires().unwrap());
    assert_eq!(world.losses(), ["the lease ran out"]);
    assert_eq!(world.now, lease.expires().unwrap());
    // And starts over, with the wish for the same address.
    assert_eq!(
        (kind(&world.last()), requested(&world.last())),
        (MessageType::Discover, Some(ADDRESS))
    );
    let renewals = world.kinds().iter().filter(|k| **k == MessageType::Request).count();
    assert!((5..=15).contains(&renewals), "{renewals}");
}

#[test]
fn a_renewal_extends_the_lease_from_its_request() {
    let mut world = World::new(3, None);
    world.bind(3600);
    world.wait();
    let asked = world.now;
    world.now += seconds(2);
    world.answer(MessageType::Ack, |_| ());
    assert_eq!(world.client.state(), "bound");
    assert_eq!(world.client.lease().unwrap().expires(), Some(asked + seconds(3600)));
    // An address in use is not probed.
    assert!(matches!(world.events.last(), Some(Output::Bound(_))));
}

#[test]
fn a_renewal_for_another_address_is_not_believed() {
    let mut world = World::new(3, None);
    world.bind(3600);
    world.wait();
    world.answer(MessageType::Ack, |reply| {
        reply.set_yiaddr(Ipv4Addr::new(10, 9, 0, 7));
    });
    assert_eq!(world.client.state(), "renewing");
}

#[test]
fn a_refused_renewal_drops_the_address_at_once() {
    let mut world = World::new(4, None);
    world.bind(3600);
    world.wait();
    world.answer(MessageType::Nak, |_| ());
    assert_eq!(world.losses(), ["server 10.9.0.1 refused the address (DHCPNAK) "]);
    world.wait();
    assert_eq!(requested(&world.last()), None, "and is not asked for again");
}

fn remembered(in_use: bool) -> Remembered {
    let grant = Grant {
        address: "10.9.0.100/24".parse().unwrap(),
        server: SERVER,
        lease_s: 3600,
        renewal_s: 1800,
        rebinding_s: 3150,
        routes: Vec::new(),
        dns: Vec::new(),
        ntp: Vec::new(),
        domain: None,
        mtu: None,
    };
    Remembered { lease: Lease { grant, obtained: START - seconds(60) }, in_use }
}

#[test]
fn after_a_reboot_the_old_address_is_asked_for_and_not_used_unasked() {
    let mut world = World::new(5, Some(remembered(false)));
    assert_eq!(world.client.state(), "init-reboot");
    world.input(Input::LinkUp);
    assert_eq!(world.client.state(), "rebooting");
    let request = world.last();
    assert_eq!((kind(&request), requested(&request)), (MessageType::Request, Some(ADDRESS)));
    assert_eq!(
        (server::server_identifier(&request), request.ciaddr()),
        (None, Ipv4Addr::UNSPECIFIED)
    );
    assert!(world.client.lease().is_none());
    world.answer(MessageType::Ack, |_| ());
    while world.client.state() != "bound" {
        world.wait();
    }
    assert_eq!(world.kinds(), [MessageType::Request]);
}

#[test]
fn after_a_restart_the_address_stays_in_use_while_the_server_is_asked() {
    let mut world = World::new(6, Some(remembered(true)));
    let old = world.client.lease().unwrap().clone();
    world.input(Input::LinkUp);
    assert_eq!((world.client.state(), world.client.lease()), ("rebooting", Some(&old)));
    // No answer: any server is asked, and the lease is still good until its end.
    world.wait_until(START + seconds(60));
    assert_eq!((world.client.state(), world.client.lease()), ("selecting", Some(&old)));
    world.wait_until(old.expires().unwrap());
    assert_eq!(world.losses(), ["the lease ran out"]);
}

#[test]
fn a_pulled_cable_costs_nothing_and_its_return_asks_the_server() {
    let mut world = World::new(7, None);
    world.bind(3600);
    world.input(Input::LinkDown);
    world.now += seconds(30);
    assert!(world.client.lease().is_some());
    world.input(Input::LinkUp);
    assert_eq!((world.client.state(), requested(&world.last())), ("rebooting", Some(ADDRESS)));
    world.answer(MessageType::Ack, |_| ());
    assert_eq!((world.client.state(), world.losses().len()), ("bound", 0));
    // The other end may be another network by now.
    world.input(Input::LinkDown);
    world.input(Input::LinkUp);
    world.answer(MessageType::Nak, |_| ());
    assert_eq!((world.client.lease(), world.losses().len()), (None, 1));
}

#[test]
fn a_cable_pulled_for_long_ends_the_lease_in_time() {
    let mut world = World::new(8, None);
    world.bind(3600);
    world.input(Input::LinkDown);
    world.wait();
    assert_eq!(world.losses(), ["the lease ran out"]);
    assert_eq!((world.client.deadline(), world.client.state()), (None, "init"));
    // A server that has forgotten it need not answer a request for it.
    world.input(Input::LinkUp);
    world.wait();
    assert_eq!(
        (kind(&world.last()), requested(&world.last())),
        (MessageType::Discover, Some(ADDRESS))
    );
    world.answer(MessageType::Offer, |_| ());
    world.answer(MessageType::Ack, |_| ());
    while world.client.state() != "bound" {
        world.wait();
    }
    // What is in force again is asked for again.
    world.input(Input::LinkDown);
    assert_eq!(world.client.state(), "init-reboot");
}

#[test]
fn an_address_in_use_by_another_is_declined() {
    for probe in [false, true] {
        let mut world = World::new(9, None);
        world.input(Input::LinkUp);
        world.wait();
        world.answer(MessageType::Offer, |_| ());
        world.answer(MessageType::Ack, |_| ());
        let sender = if probe { Ipv4Addr::UNSPECIFIED } else { ADDRESS };
        // Our own packets, seen on the way out, are no conflict.
        world.input(Input::Frame(&frame::arp_request(MAC, ADDRESS, ADDRESS)));
        assert!(world.client.probes());
        world.input(Input::Frame(&frame::arp_request(OTHER, sender, ADDRESS)));
        assert_eq!(kind(&world.last()), MessageType::Decline);
        assert_eq!(requested(&world.last()), Some(ADDRESS));
        assert_eq!(world.losses(), ["10.9.0.100 is already in use by 02:02:02:02:02:02"]);
        let declined = world.now;
        world.wait();
        assert!(world.now >= declined + DECLINE_PAUSE);
        assert_eq!((kind(&world.last()), requested(&world.last())), (MessageType::Discover, None));
    }
}

#[test]
fn a_released_address_is_given_back_to_its_server() {
    let mut world = World::new(10, None);
    world.bind(3600);
    world.input(Input::Release);
    let (source, release) = world.sent.last().unwrap();
    assert_eq!((*source, kind(release), release.ciaddr()), (None, MessageType::Release, ADDRESS));
    assert_eq!((world.losses(), world.client.deadline()), (vec!["released".to_owned()], None));
}

#[test]
fn an_endless_lease_never_ends() {
    let mut world = World::new(11, None);
    world.bind(u32::MAX);
    assert_eq!(world.client.deadline(), None);
}

#[test]
fn another_servers_ack_does_not_count() {
    let mut world = World::new(12, None);
    world.input(Input::LinkUp);
    world.wait();
    world.answer(MessageType::Offer, |_| ());
    let other = DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 9, 0, 66));
    world.answer(MessageType::Ack, |reply| drop(reply.opts_mut().insert(other.clone())));
    world.answer(MessageType::Nak, |reply| drop(reply.opts_mut().insert(other)));
    assert!(world.client.state() == "requesting" && !world.client.probes());
}

#[test]
fn retransmissions_back_off_and_ask_for_broadcast_answers() {
    let mut world = World::new(13, None);
    world.input(Input::LinkUp);
    world.wait();
    let mut times = vec![world.now];
    for _ in 0..8 {
        world.wait();
        times.push(world.now);
    }
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, step) in pauses.iter().zip([4, 8, 16, 32, 64, 64, 64, 64]) {
        assert!((seconds(step - 1)..=seconds(step + 1)).contains(pause), "{pause:?} for {step} s");
    }
    let flags: Vec<_> = world.sent.iter().map(|(_, m)| m.flags().broadcast()).collect();
    assert_eq!(flags[..5], [false, false, true, true, true]);
    assert_eq!(world.sent[0].1.secs(), 0);
    assert!(world.last().secs() >= 240);
}

#[test]
fn a_request_goes_the_way_of_the_discover_that_was_answered() {
    let mut world = World::new(15, None);
    world.input(Input::LinkUp);
    // The first whose answer is asked for as a broadcast.
    while world.sent.last().is_none_or(|(_, message)| !message.flags().broadcast()) {
        world.wait();
    }
    let discover = world.last();
    assert!(discover.secs() >= 10);
    world.now += seconds(2);
    world.answer(MessageType::Offer, |_| ());
    world.wait();
    let requests = &world.sent[world.sent.len() - 2..];
    for (_, request) in requests {
        assert_eq!(kind(request), MessageType::Request);
        assert!(request.flags().broadcast(), "its answer would be lost as those before were");
        // RFC 2131 section 3.1 point 3.
        assert_eq!((request.xid(), request.secs()), (discover.xid(), discover.secs()));
    }
}

#[test]
fn a_server_that_refuses_what_it_offers_is_not_stormed() {
    let mut world = World::new(14, None);
    world.input(Input::LinkUp);
    let end = world.now + seconds(600);
    while world.now < end {
        world.wait();
        if kind(&world.last()) == MessageType::Discover {
            world.answer(MessageType::Offer, |_| ());
            world.answer(MessageType::Nak, |_| ());
        }
    }
    assert!(world.sent.len() < 40, "{} messages in ten minutes", world.sent.len());
}

/// What the network does to one message of the client's.
#[derive(Clone, Debug)]
enum Fate {
    Lost,
    Answered { kind: u8, delay_s: u64, lease_s: u32, address: u8, copies: u8 },
    Garbled { byte: prop::sample::Index, value: u8 },
    Conflict,
    LinkFlap { down_s: u64 },
}

fn fate() -> impl Strategy<Value = Fate> {
    let answered = (
        prop::sample::select(vec![0_u8, 0, 0, 0, 0, 1, 2]),
        prop::sample::select(vec![0_u64, 0, 0, 1, 5, 70]),
        prop::sample::select(vec![SHORTEST_LEASE_S, 30, 120, 3600, u32::MAX - 1]),
        100_u8..103,
        1_u8..3,
    )
        .prop_map(|(kind, delay_s, lease_s, address, copies)| Fate::Answered {
            kind,
            delay_s,
            lease_s,
            address,
            copies,
        });
    prop_oneof![
        2 => Just(Fate::Lost),
        10 => answered,
        1 => (any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(byte, value)| Fate::Garbled { byte, value }),
        1 => Just(Fate::Conflict),
        1 => (0_u64..4000).prop_map(|down_s| Fate::LinkFlap { down_s }),
    ]
}

fn honest(request: &Message) -> MessageType {
    if kind(request) == MessageType::Discover { MessageType::Offer } else { MessageType::Ack }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The invariants are in [`World::input`] and [`World::check_sent`].
    #[test]
    fn no_server_and_no_network_can_make_it_misuse_an_address(
        seed: u64,
        in_use in prop::option::of(any::<bool>()),
        fates in prop::collection::vec(fate(), 1..60),
    ) {
        let mut world = World::new(seed, in_use.map(remembered));
        world.input(Input::LinkUp);
        let mut on_the_way: Vec<(Time, Vec<u8>)> = Vec::new();
        let mut fates = fates.into_iter();
        loop {
            // Whichever is first: a frame that arrives, or the client's deadline.
            on_the_way.sort_by_key(|(time, _)| *time);
            let deadline = world.client.deadline();
            let arrives = on_the_way.first().map(|(time, _)| *time);
            let before = world.sent.len();
            match (arrives, deadline) {
                (Some(time), deadline) if deadline.is_none_or(|deadline| time <= deadline) => {
                    world.now = world.now.max(time);
                    let (_, frame) = on_the_way.remove(0);
                    world.input(Input::Frame(&frame));
                }
                (_, Some(_)) => world.wait(),
                (_, None) => break,
            }
            let fresh: Vec<_> = world.sent[before..].iter().map(|(_, m)| m.clone()).collect();
            for request in fresh {
                let Some(fate) = fates.next() else { return Ok(()) };
                let answer = |number: u8| match number {
                    0 => answer(&request, honest(&request)),
                    1 => answer(&request, MessageType::Nak),
                    _ => answer(&request, MessageType::Offer),
                };
                match fate {
                    Fate::Lost => {}
                    Fate::Answered { kind, delay_s, lease_s, address, copies } => {
                        let mut reply = answer(kind);
                        if kind != 1 {
                            let wish = requested(&request)
                                .or(Some(request.ciaddr()).filter(|a| !a.is_unspecified()));
                            let own = Ipv4Addr::new(10, 9, 0, address);
                            reply.set_yiaddr(wish.filter(|_| address != 102).unwrap_or(own));
                            reply.opts_mut().insert(DhcpOption::AddressLeaseTime(lease_s));
                        }
                        let frame = server::frame(&server::encode(&reply));
                        for copy in 0..copies {
                            let time = world.now + seconds(delay_s * u64::from(copy + 1));
                            on_the_way.push((time, frame.clone()));
                        }
                    }
                    Fate::Garbled { byte, value } => {
                        let mut frame = server::frame(&server::encode(&answer(0)));
                        let at = byte.index(frame.len());
                        frame[at] = value;
                        on_the_way.push((world.now, frame));
                    }
                    Fate::Conflict => {
                        let address = requested(&request).unwrap_or(ADDRESS);
                        let frame = server::frame(&server::encode(&answer(0)));
                        on_the_way.push((world.now, frame));
                        let arp = frame::arp_request(OTHER, address, address);
                        on_the_way.push((world.now + Duration::from_millis(100), arp));
                    }
                    Fate::LinkFlap { down_s } => {
                        world.input(Input::LinkDown);
                        let end = world.now + seconds(down_s);
                        world.wait_until(end);
                        world.input(Input::LinkUp);
                    }
                }
            }
        }
    }

    #[test]
    fn no_frame_makes_it_panic(
        seed: u64,
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 1..20),
    ) {
        let mut world = World::new(seed, None);
        world.input(Input::LinkUp);
        for frame in frames {
            world.wait();
            world.input(Input::Frame(&frame));
            world.input(Input::Datagram(&frame));
        }
    }
}
