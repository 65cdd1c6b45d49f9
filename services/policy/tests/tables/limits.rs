//! Rates, and flows of one source.

use portcullis_datapath::{classify::Action, limits::release};
use portcullis_datapath_abi::{Counter, classifier::LIMITED};
use portcullis_model::Document;
use portcullis_policy::{Packet, compile, resolve};

use crate::{ask, install, part, surroundings};

const SECOND: u64 = 1_000_000_000;

fn tables(limits: &str) -> portcullis_datapath::simulation::policy::PolicyState {
    let text = format!(
        "[[firewall.rules]]\nname = \"in\"\nfrom = \"wan\"\nto = \"dmz\"\nprotocols = [\"tcp\"]\naction = \"allow\"\n{limits}"
    );
    let firewall = Document::parse(&text).unwrap().firewall;
    install(&compile(&resolve(&part(firewall), &surroundings())).unwrap())
}

fn packet(source: u8) -> Packet {
    Packet {
        from: 2,
        to: 3,
        source: [192, 0, 2, source].into(),
        destination: [10, 0, 0, 2].into(),
        protocol: 6,
        source_port: 1024,
        destination_port: 443,
        mac: [0; 6],
    }
}

#[test]
fn a_rate_is_shared_by_all_sources() {
    let tables = tables("rate_limit = { per_second = 10, burst = 5 }");
    let allowed = |source| ask(&tables, &packet(source)).action == Action::Allow;
    assert_eq!((0..20).filter(|n| allowed(*n)).count(), 5, "the burst");
    let over = ask(&tables, &packet(1));
    assert_eq!((over.action, over.reason()), (Action::Deny, Counter::DropRateLimit));
    tables.nanoseconds.set(tables.nanoseconds.get() + SECOND / 10);
    assert_eq!((0..20).filter(|n| allowed(*n)).count(), 1, "one is due each tenth of a second");
    // Over a long time no more than the rate.
    let mut passed = 0;
    for _ in 0..1000 {
        tables.nanoseconds.set(tables.nanoseconds.get() + SECOND / 50);
        passed += usize::from(allowed(9));
    }
    assert!((200..=205).contains(&passed), "{passed} in 20 s");
}

#[test]
fn a_rate_for_each_source() {
    let tables = tables("rate_limit = { per_second = 3, per_source = true }");
    for source in 0..4 {
        let passed =
            (0..10).filter(|_| ask(&tables, &packet(source)).action == Action::Allow).count();
        assert_eq!(passed, 3, "the burst is what the rate is");
    }
    // More sources than there is room for are refused here; in the kernel the oldest makes room.
    let refused = (0..=255).filter(|n| ask(&tables, &packet(*n)).action == Action::Deny).count();
    assert_eq!(refused, 256 - 60);
}

#[test]
fn flows_of_one_source() {
    let tables = tables("connections_per_source = 3");
    for source in [1, 2] {
        for _ in 0..3 {
            let ruling = ask(&tables, &packet(source));
            assert_eq!(ruling.action, Action::Allow);
            assert_ne!(ruling.flags & LIMITED, 0);
        }
        let over = ask(&tables, &packet(source));
        assert_eq!((over.action, over.reason()), (Action::Deny, Counter::DropConnections));
        assert_eq!(over.flags & LIMITED, 0, "it was not counted");
    }
    // One of them ends.
    let source = [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([192, 0, 2, 1])];
    release(&tables, 0, &source);
    assert_eq!(ask(&tables, &packet(1)).action, Action::Allow);
    assert_eq!(ask(&tables, &packet(1)).action, Action::Deny);
    // More ends than beginnings do not give more than the limit.
    for _ in 0..10 {
        release(&tables, 0, &source);
    }
    assert_eq!((0..9).filter(|_| ask(&tables, &packet(1)).action == Action::Allow).count(), 3);
}

#[test]
fn a_flow_over_the_rate_does_not_count_for_its_source() {
    let tables = tables("rate_limit = { per_second = 1 }\nconnections_per_source = 2\n");
    assert_eq!(ask(&tables, &packet(1)).action, Action::Allow);
    for _ in 0..5 {
        assert_eq!(ask(&tables, &packet(1)).reason(), Counter::DropRateLimit);
    }
    tables.nanoseconds.set(tables.nanoseconds.get() + SECOND);
    assert_eq!(ask(&tables, &packet(1)).action, Action::Allow);
    tables.nanoseconds.set(tables.nanoseconds.get() + SECOND);
    assert_eq!(ask(&tables, &packet(1)).reason(), Counter::DropConnections);
}
