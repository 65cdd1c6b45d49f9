//! Leases and clocks: ends run on the monotonic clock, the disk has wall-clock stamps.

use portcullis_dhcp::core::{Action, LeaseState, Now, Server};
use serde_json::json;

use crate::lab::*;

#[test]
fn t1_t2_and_the_end() {
    let mut lab = Lab::new(part(json!({ "lease_time_s": 1000 })));
    let address = lab.lease(&discover(mac(1)));
    lab.pass(999_999);
    assert_eq!(lab.record(address).map(|l| l.state), Some(LeaseState::Bound));
    lab.actions.clear();
    lab.pass(1);
    assert_eq!(lab.record(address).map(|l| l.state), Some(LeaseState::Expired));
    assert!(lab.actions.contains(&Action::Changed));
}

#[test]
fn setting_the_clock_ends_no_lease_and_rewrites_the_stamps() {
    for step in [10_i64 * 365 * 86_400, -(10 * 365 * 86_400)] {
        let mut lab = Lab::new(part(json!({ "lease_time_s": 1000 })));
        let address = lab.lease(&discover(mac(1)));
        lab.actions.clear();
        lab.now.unix_ms = lab.now.unix_ms.saturating_add_signed(step * 1000);
        lab.pass(0);
        let actions = lab.server.tick(lab.now);
        let saved = actions.iter().find_map(|action| match action {
            Action::Save(record) => Some(record.clone()),
            _ => None,
        });
        let saved = saved.expect("the stamp is rewritten");
        assert_eq!(saved.state, LeaseState::Bound);
        assert!(saved.ends_unix_s.abs_diff(lab.now.unix_ms / 1000 + 1000) <= 1, "{saved:?}");
        assert_eq!(lab.record(address).map(|l| l.state), Some(LeaseState::Bound));
        assert!(lab.server.tick(lab.now).is_empty(), "once is enough");
    }
}

#[test]
fn a_restart_with_a_wrong_clock_keeps_no_lease_longer_than_it_was_given_for() {
    let mut lab = Lab::new(part(json!({ "lease_time_s": 1000 })));
    let address = lab.lease(&discover(mac(1)));
    let records = lab.server.records(lab.now);
    let restart = |unix_ms: u64| {
        let now = Now { unix_ms, up_ms: 0 };
        let mut server = Server::new(&part(json!({})), records.clone(), now);
        server.tick(now);
        let record = server.records(now).into_iter().find(|r| r.address == address);
        let record = record.expect("nothing is lost");
        (record.state, record.ends_unix_s.saturating_sub(unix_ms / 1000))
    };
    let (state, left) = restart(START_UNIX_MS + 600_000);
    assert_eq!(state, LeaseState::Bound);
    assert!((400..=402).contains(&left), "{left}");
    assert_eq!(restart(0), (LeaseState::Bound, 1000));
    assert_eq!(restart(START_UNIX_MS + 5_000_000).0, LeaseState::Expired);
    assert_eq!(restart(u64::MAX).0, LeaseState::Expired);
}
