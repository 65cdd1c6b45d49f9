//! A new configuration with clients on the network.

use dhcproto::v4::MessageType;
use portcullis_dhcp::core::{Action, LeaseState, Server};
use serde_json::json;

use crate::lab::*;

#[test]
fn leases_stay_and_those_that_do_not_fit_are_refused_at_renewal() {
    let mut lab = Lab::new(part(json!({})));
    let kept = lab.lease(&discover(mac(1)).requested(ip(104)));
    let lost = lab.lease(&discover(mac(2)).requested(ip(109)));
    let pool = json!({ "start": "192.168.77.101", "end": "192.168.77.105" });
    lab.configure(part(json!({ "pool": pool, "lease_time_s": 600 })));
    assert_eq!(lab.server.records(lab.now).len(), 2);
    assert_eq!(lab.record(lost).map(|l| l.state), Some(LeaseState::Bound));
    let answer = |lab: &mut Lab, client, address| {
        lab.say_as(&request(mac(client)).ciaddr(address), false).first().map(Heard::kind)
    };
    assert_eq!(answer(&mut lab, 1, kept), Some(MessageType::Ack));
    lab.actions.clear();
    assert_eq!(answer(&mut lab, 2, lost), Some(MessageType::Nak));
    assert!(lab.actions.contains(&Action::Forget(lost)));
    assert_eq!(lab.record(lost), None);
    assert_eq!(lab.lease(&discover(mac(2))), ip(101));
}

#[test]
fn a_subnet_that_goes_away_is_not_served_and_its_leases_run_out() {
    let mut lab = Lab::new(part(json!({})));
    let address = lab.lease(&discover(mac(1)));
    let mut without = part(json!({}));
    without.servers.remove(&lan());
    lab.configure(without);
    assert!(lab.say(&discover(mac(1))).is_none());
    assert!(lab.record(address).is_some());
    lab.actions.clear();
    lab.pass(86_400_000);
    assert_eq!(lab.record(address), None);
    assert!(lab.actions.contains(&Action::Forget(address)));
}

#[test]
fn the_same_part_again_changes_nothing() {
    let mut lab = Lab::new(part(json!({})));
    lab.lease(&discover(mac(1)));
    lab.say(&discover(mac(2)));
    let before = lab.server.records(lab.now);
    lab.actions.clear();
    lab.configure(part(json!({})));
    assert!(lab.actions.is_empty(), "{:?}", lab.actions);
    assert_eq!(lab.server.records(lab.now), before);
    // The open offer is still good.
    let ack = lab.say(&select(mac(2), ip(101))).expect("ack");
    assert_eq!(ack.kind(), MessageType::Ack);
}

/// As after an update that came with a new configuration: the disk must not keep what nobody knows.
#[test]
fn what_a_start_finds_out_of_date_is_mended_on_disk() {
    let mut lab = Lab::new(part(json!({})));
    let named = lab.lease(&discover(mac(1)).name("hp"));
    let mut stray = lab.record(named).expect("a lease");
    stray.address = [10, 77, 0, 5].into();
    stray.state = LeaseState::Released;
    let reserved = part(json!({
        "reservations": [{
            "mac": "02:00:00:00:00:01", "address": "192.168.77.100", "hostname": "printer",
        }],
    }));
    let mut records = lab.server.records(lab.now);
    records.push(stray.clone());
    let mut server = Server::new(&reserved, records, lab.now);
    let actions = server.tick(lab.now);
    assert!(actions.contains(&Action::Forget(stray.address)), "{actions:?}");
    let renamed = actions.iter().any(|action| match action {
        Action::Save(lease) => {
            lease.hostname.as_ref().is_some_and(|name| name.as_str() == "printer")
        }
        _ => false,
    });
    assert!(renamed, "{actions:?}");
    assert!(server.tick(lab.now).is_empty());
}
