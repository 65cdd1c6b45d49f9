//! Whatever clients say in whatever order: see `witness.rs` for what must hold.

use dhcproto::v4::MessageType;
use proptest::prelude::*;
use serde_json::json;

use crate::lab::*;

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Say {
        kind: u8,
        client: u8,
        id: Option<u8>,
        ciaddr: u8,
        requested: Option<u8>,
        server: Option<u8>,
        relay: bool,
        broadcast: bool,
    },
    Pass(i64),
    InUse {
        address: u8,
        by: u8,
    },
    /// A client does what a client does: takes what it is offered.
    Lease {
        client: u8,
        id: Option<u8>,
    },
    Restart,
    Configure {
        start: u8,
        reserve: Option<u8>,
    },
}

fn last_octet() -> impl Strategy<Value = u8> {
    prop_oneof![8 => 98_u8..=111, 1 => any::<u8>(), 1 => Just(1), 1 => Just(50)]
}

fn event() -> impl Strategy<Value = Event> {
    let client = 1_u8..=14;
    let id = || prop::option::weighted(0.2, 0_u8..3);
    prop_oneof![
        8 => (1_u8..=8, client.clone(), id(), prop_oneof![Just(0), last_octet()],
              prop::option::of(last_octet()), prop::option::of(prop_oneof![4 => Just(1_u8), 1 => Just(7)]),
              prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(kind, client, id, ciaddr, requested, server, relay, broadcast)| Event::Say {
                kind, client, id, ciaddr, requested, server, relay, broadcast,
            }),
        6 => (client.clone(), id()).prop_map(|(client, id)| Event::Lease { client, id }),
        4 => prop_oneof![0_i64..1_000, 0_i64..60_000, 0_i64..8_000_000].prop_map(Event::Pass),
        2 => (last_octet(), client.clone()).prop_map(|(address, by)| Event::InUse { address, by }),
        1 => Just(Event::Restart),
        1 => (100_u8..105, prop::option::of(last_octet()))
            .prop_map(|(start, reserve)| Event::Configure { start, reserve }),
    ]
}

fn configuration(start: u8, reserve: Option<u8>) -> portcullis_model::part::DhcpPart {
    let mut reservations = vec![json!({ "mac": "02:00:00:00:00:0e", "address": "192.168.77.50" })];
    if let Some(last) = reserve.filter(|last| ![0, 1, 50, 255].contains(last)) {
        reservations.push(json!({
            "mac": "02:00:00:00:00:0d", "address": format!("192.168.77.{last}"), "hostname": "fixed",
        }));
    }
    part(json!({
        "pool": { "start": format!("192.168.77.{start}"), "end": "192.168.77.109" },
        "lease_time_s": 3600, "reservations": reservations,
    }))
}

fn with_id(say: Say, id: Option<u8>) -> Say {
    match id {
        Some(id) => say.id(&[0, id]),
        None => say,
    }
}

fn play(events: Vec<Event>) {
    let mut current = configuration(100, None);
    let mut lab = Lab::new(current.clone());
    for event in events {
        match event {
            Event::Say { kind, client, id, ciaddr, requested, server, relay, broadcast } => {
                let mut say = with_id(Say::new(MessageType::from(kind), mac(client)), id);
                if ciaddr != 0 {
                    say = say.ciaddr(ip(ciaddr));
                }
                if let Some(last) = requested {
                    say = say.requested(ip(last));
                }
                if let Some(last) = server {
                    say = say.server(ip(last));
                }
                if relay {
                    say = say.giaddr(ip(2));
                }
                lab.say_as(&say.name("name"), broadcast);
            }
            Event::Pass(ms) => drop(lab.pass(ms)),
            Event::InUse { address, by } => drop(lab.in_use(ip(address), mac(by))),
            Event::Lease { client, id } => {
                let say = with_id(discover(mac(client)), id);
                let mut offers = lab.say_as(&say, true);
                offers.extend(lab.pass(portcullis_dhcp::core::PROBE_MS));
                let ours = |h: &&Heard| {
                    h.kind() == MessageType::Offer && h.message.chaddr() == mac(client).0
                };
                if let Some(offer) = offers.iter().rev().find(ours) {
                    let take = with_id(select(mac(client), offer.address()), id);
                    // With another identifier of the same device it may be another's offer.
                    lab.say_as(&take, true);
                }
            }
            Event::Restart => {
                let records = lab.server.records(lab.now);
                lab.server = portcullis_dhcp::core::Server::new(&current, records, lab.now);
                lab.witness.forget_offers();
            }
            Event::Configure { start, reserve } => {
                current = configuration(start, reserve);
                lab.configure(current.clone());
                lab.witness.forget_offers();
            }
        }
        check_records(&lab);
        lab.actions.clear();
    }
    check_pool(&mut lab, &current);
}

/// Once everything has run out, new clients get all that is there to get.
fn check_pool(lab: &mut Lab, part: &portcullis_model::part::DhcpPart) {
    lab.pass(4_000_000);
    let server = &part.servers[&lan()].server;
    let dynamic: Vec<_> = (0..=255_u8)
        .map(ip)
        .filter(|address| (server.pool.start..=server.pool.end).contains(address))
        .filter(|address| server.reservations.iter().all(|r| r.address != *address))
        .collect();
    let clients = 100..100 + u8::try_from(dynamic.len()).expect("few");
    let mut given: Vec<_> = clients.map(|client| lab.lease(&discover(mac(client)))).collect();
    given.sort();
    assert_eq!(given, dynamic);
}

/// What holds for the table as a whole.
fn check_records(lab: &Lab) {
    use portcullis_dhcp::core::LeaseState;
    let records = lab.server.records(lab.now);
    let bound: Vec<_> = records.iter().filter(|r| r.state == LeaseState::Bound).collect();
    for (place, lease) in bound.iter().enumerate() {
        for other in bound.iter().skip(place + 1) {
            assert_ne!(lease.address, other.address);
            assert!(
                lease.hostname.is_none() || lease.hostname != other.hostname,
                "one name for two: {lease:?} {other:?}"
            );
            assert!(
                (&lease.interface, &lease.client) != (&other.interface, &other.client),
                "two addresses for one client: {lease:?} {other:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_address_has_two_holders_and_none_is_lost(events in prop::collection::vec(event(), 1..120)) {
        play(events);
    }

    #[test]
    fn any_octets_are_survived(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..8),
        tail in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut lab = Lab::new(configuration(100, None));
        let arrival = portcullis_dhcp::core::Arrival { interface: lan(), broadcast: true };
        for message in messages {
            lab.receive(&message, &arrival);
        }
        // A good head with any options.
        let mut message = discover(mac(1)).bytes()[..243].to_vec();
        message.extend_from_slice(&tail);
        lab.receive(&message, &arrival);
        lab.pass(1_000);
    }
}
