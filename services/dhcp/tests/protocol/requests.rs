//! DHCPREQUEST by the state of the client (RFC 2131 section 4.3.2), DECLINE, RELEASE, INFORM.

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use portcullis_dhcp::core::{DECLINE_MS, Destination, LeaseState};
use serde_json::json;

use crate::lab::*;

/// What a row of the table expects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expect {
    Ack,
    Nak,
    Silence,
}
use Expect::{Ack, Nak, Silence};

fn outcome(heard: &[Heard]) -> Expect {
    match heard {
        [] => Silence,
        [one] if one.kind() == MessageType::Ack => Ack,
        [one] if one.kind() == MessageType::Nak => Nak,
        other => panic!("{other:?}"),
    }
}

/// A server on which client 1 has .100, client 2 had .101 and gave it back, client 3 was offered
/// .102, .103 is set aside, and client 9 has a reservation of .50.
fn prepared() -> Lab {
    let mut lab = Lab::new(part(json!({
        "reservations": [{ "mac": "02:00:00:00:00:09", "address": "192.168.77.50" }],
    })));
    assert_eq!(lab.lease(&discover(mac(1))), ip(100));
    assert_eq!(lab.lease(&discover(mac(2))), ip(101));
    lab.say(&Say::new(MessageType::Release, mac(2)).server(OURS).ciaddr(ip(101)));
    let declined = lab.say(&discover(mac(4)).requested(ip(103))).expect("an offer").address();
    assert_eq!(declined, ip(103));
    lab.say(&Say::new(MessageType::Decline, mac(4)).server(OURS).requested(declined));
    assert_eq!(lab.say(&discover(mac(3))).expect("an offer").address(), ip(102));
    lab
}

#[test]
fn section_4_3_2_by_table() {
    let other = ip(7);
    let rows: Vec<(&str, Say, bool, Expect)> = vec![
        // SELECTING.
        ("the offered address", select(mac(3), ip(102)), true, Ack),
        ("another than the offered", select(mac(3), ip(105)), true, Nak),
        ("what it has already", select(mac(1), ip(100)), true, Ack),
        ("another than it has", select(mac(1), ip(105)), true, Nak),
        ("free, the offer was forgotten", select(mac(7), ip(105)), true, Ack),
        ("another client's", select(mac(7), ip(100)), true, Nak),
        ("offered to another client", select(mac(7), ip(102)), true, Nak),
        ("set aside", select(mac(7), ip(103)), true, Nak),
        ("outside the pool", select(mac(7), ip(200)), true, Nak),
        ("reserved for another", select(mac(7), ip(50)), true, Nak),
        ("our own address", select(mac(7), OURS), true, Nak),
        ("the broadcast address", select(mac(7), ip(255)), true, Nak),
        ("another server", request(mac(3)).server(other).requested(ip(102)), true, Silence),
        ("no address at all", request(mac(3)).server(OURS), true, Silence),
        // INIT-REBOOT.
        ("reboot, its lease", request(mac(1)).requested(ip(100)), true, Ack),
        ("reboot, its former lease", request(mac(2)).requested(ip(101)), true, Ack),
        ("reboot, not its lease", request(mac(1)).requested(ip(105)), true, Nak),
        ("reboot, other subnet", request(mac(1)).requested([10, 0, 0, 9].into()), true, Nak),
        (
            "reboot, unknown, other subnet",
            request(mac(7)).requested([10, 0, 0, 9].into()),
            true,
            Nak,
        ),
        ("reboot, unknown client", request(mac(7)).requested(ip(105)), true, Silence),
        ("nothing", request(mac(7)), true, Silence),
        // RENEWING.
        ("renew", request(mac(1)).ciaddr(ip(100)), false, Ack),
        ("renew a former lease", request(mac(2)).ciaddr(ip(101)), false, Ack),
        ("renew, not its lease", request(mac(1)).ciaddr(ip(105)), false, Nak),
        ("renew another's", request(mac(7)).ciaddr(ip(100)), false, Nak),
        ("renew, record lost", request(mac(7)).ciaddr(ip(105)), false, Ack),
        ("renew outside the pool", request(mac(7)).ciaddr(ip(200)), false, Nak),
        ("renew, reserved elsewhere", request(mac(9)).ciaddr(ip(105)), false, Nak),
        // REBINDING.
        ("rebind", request(mac(1)).ciaddr(ip(100)), true, Ack),
        ("rebind, not its lease", request(mac(1)).ciaddr(ip(105)), true, Nak),
        ("rebind, unknown client", request(mac(7)).ciaddr(ip(105)), true, Silence),
        ("rebind, other subnet", request(mac(7)).ciaddr([10, 0, 0, 9].into()), true, Nak),
    ];
    for (what, say, broadcast, expected) in rows {
        let mut lab = prepared();
        let heard = lab.say_as(&say, broadcast);
        assert_eq!(outcome(&heard), expected, "{what}: {:?}", lab.notices().collect::<Vec<_>>());
        for reply in heard {
            let to = match (expected, say.0.ciaddr().is_unspecified()) {
                (Nak, _) => Destination::Broadcast,
                (_, false) => Destination::Unicast(say.0.ciaddr()),
                (_, true) => {
                    let mac = say.0.chaddr().try_into().map(portcullis_model::MacAddress);
                    Destination::Frame { mac: mac.expect("Ethernet"), address: reply.address() }
                }
            };
            assert_eq!(reply.to, to, "{what}");
            let lease_time = reply.option(OptionCode::AddressLeaseTime).is_some();
            assert_eq!(lease_time, expected == Ack, "{what}");
            assert!(reply.option(OptionCode::ServerIdentifier).is_some(), "{what}");
        }
    }
}

#[test]
fn a_request_for_another_server_frees_the_offer() {
    let mut lab = prepared();
    assert_eq!(lab.say(&discover(mac(7)).requested(ip(105))).expect("offer").address(), ip(105));
    lab.say(&request(mac(7)).server(ip(7)).requested(ip(66)));
    assert_eq!(lab.say(&discover(mac(8)).requested(ip(105))).expect("offer").address(), ip(105));
}

#[test]
fn a_declined_address_is_set_aside_for_a_while() {
    let mut lab = prepared();
    let aside = lab.record(ip(103)).expect("an entry");
    assert_eq!(aside.state, LeaseState::Declined);
    let asked = discover(mac(7)).requested(ip(103));
    assert_ne!(lab.say(&asked).expect("offer").address(), ip(103));
    lab.pass(DECLINE_MS);
    assert_eq!(lab.record(ip(103)), None);
    assert_eq!(lab.say(&discover(mac(8)).requested(ip(103))).expect("offer").address(), ip(103));
}

#[test]
fn only_the_holder_can_decline_or_release() {
    let mut lab = prepared();
    for stranger in [
        Say::new(MessageType::Decline, mac(7)).server(OURS).requested(ip(100)),
        Say::new(MessageType::Release, mac(7)).server(OURS).ciaddr(ip(100)),
        Say::new(MessageType::Decline, mac(1)).server(ip(7)).requested(ip(100)),
        Say::new(MessageType::Release, mac(1)).server(ip(7)).ciaddr(ip(100)),
        Say::new(MessageType::Release, mac(1)).id(b"other").server(OURS).ciaddr(ip(100)),
    ] {
        let before = lab.record(ip(100));
        assert!(lab.say_as(&stranger, true).is_empty());
        assert_eq!(lab.record(ip(100)), before);
    }
    lab.say(&Say::new(MessageType::Release, mac(1)).server(OURS).ciaddr(ip(100)));
    assert_eq!(lab.record(ip(100)).map(|l| l.state), Some(LeaseState::Released));
}

#[test]
fn a_released_address_comes_back_to_its_client() {
    let mut lab = prepared();
    // Without a probe: the client itself was the last to use it.
    let offer = lab.say_as(&discover(mac(2)), true);
    assert_eq!(offer.first().map(Heard::address), Some(ip(101)));
}

#[test]
fn inform_gets_parameters_and_no_address() {
    let mut lab = prepared();
    let inform = Say::new(MessageType::Inform, mac(7)).ciaddr(ip(66)).wants(&[3, 6, 15]);
    let heard = lab.say(&inform).expect("an answer");
    assert_eq!(heard.kind(), MessageType::Ack);
    assert_eq!(heard.to, Destination::Unicast(ip(66)));
    assert!(heard.address().is_unspecified());
    assert_eq!(heard.option(OptionCode::AddressLeaseTime), None);
    assert_eq!(
        heard.option(OptionCode::DomainNameServer),
        Some(&DhcpOption::DomainNameServer(vec![OURS]))
    );
    assert_eq!(lab.record(ip(66)), None);
    for nobody in [[8, 8, 8, 8].into(), ip(0), ip(255), OURS] {
        let inform = Say::new(MessageType::Inform, mac(7)).ciaddr(nobody);
        assert!(lab.say(&inform).is_none(), "{nobody}");
    }
    // Nor is a reply sent there that is for one client alone.
    let offer = lab.say(&discover(mac(1)).ciaddr(ip(255))).expect("an offer");
    assert_eq!(offer.to, Destination::Frame { mac: mac(1), address: ip(100) });
}

#[test]
fn answers_go_where_section_4_1_says() {
    let mut lab = prepared();
    let frame = lab.say(&discover(mac(1))).expect("offer");
    assert_eq!(frame.to, Destination::Frame { mac: mac(1), address: ip(100) });
    assert_eq!(lab.say(&discover(mac(1)).broadcast()).expect("offer").to, Destination::Broadcast);
    let relay = ip(2);
    let relayed = lab.say(&discover(mac(1)).giaddr(relay)).expect("offer");
    assert_eq!(relayed.to, Destination::Relay(relay));
    assert_eq!(relayed.message.giaddr(), relay);
    let nak = lab.say(&request(mac(1)).giaddr(relay).requested(ip(105))).expect("nak");
    assert_eq!((nak.kind(), nak.to), (MessageType::Nak, Destination::Relay(relay)));
    assert!(nak.message.flags().broadcast(), "the relay agent must broadcast a NAK");
    // A made-up group address is not a station to send a frame to.
    let group = portcullis_model::MacAddress([1, 0, 0x5e, 0, 0, 1]);
    assert_eq!(lab.say(&discover(group)).expect("offer").to, Destination::Broadcast);
}

#[test]
fn only_subnets_of_ours_are_served() {
    let mut lab = prepared();
    assert!(lab.say_by("wan", &discover(mac(7)), true).is_empty());
    assert!(!lab.server.probing());
    assert!(lab.say(&discover(mac(7)).giaddr([172, 16, 0, 1].into())).is_none());
    assert!(lab.say(&discover(mac(7)).giaddr(OURS)).is_none());
    // A relay agent of the guest network stands in the guest network.
    let relayed = discover(mac(7)).giaddr([10, 5, 0, 2].into());
    assert!(lab.say_by("guest", &relayed, false).is_empty());
    let guest = lab.pass(1_000).pop().expect("offer");
    assert_eq!(guest.address().octets()[..2], [10, 5]);
    assert_eq!(
        guest.option(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier([10, 5, 0, 1].into()))
    );
}

#[test]
fn nobody_speaks_for_another_network_by_a_made_up_relay_agent() {
    let mut lab = prepared();
    let before = lab.record(ip(100));
    assert_eq!(before.as_ref().map(|lease| lease.state), Some(LeaseState::Bound));
    let release = Say::new(MessageType::Release, mac(1)).server(OURS).ciaddr(ip(100));
    for say in [release, discover(mac(7)), select(mac(7), ip(108))] {
        assert!(lab.say_by("guest", &say.giaddr(ip(2)), false).is_empty());
        assert!(!lab.server.probing());
    }
    assert_eq!(lab.record(ip(100)), before);
    assert_eq!(lab.record(ip(108)), None);
}

/// A relay agent sends to our address what clients broadcast.
#[test]
fn an_unknown_client_behind_a_relay_agent_may_be_another_servers() {
    let mut lab = prepared();
    let rebinding = request(mac(7)).ciaddr(ip(105)).giaddr(ip(2));
    assert_eq!(outcome(&lab.say_as(&rebinding, false)), Silence);
    let known = request(mac(1)).ciaddr(ip(100)).giaddr(ip(2));
    assert_eq!(outcome(&lab.say_as(&known, false)), Ack);
}

/// Some put their former address beside the one that they select.
#[test]
fn what_a_client_selects_counts_whatever_it_had() {
    let mut lab = prepared();
    let selecting = select(mac(3), ip(102)).ciaddr(ip(105));
    let heard = lab.say(&selecting).expect("an answer");
    assert_eq!((heard.kind(), heard.address()), (MessageType::Ack, ip(102)));
}
