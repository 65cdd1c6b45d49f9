//! Rules from the document to whole packets, through the datapath's core with all its stages.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

#[allow(dead_code, reason = "the core's own tests use more of it")]
#[path = "../../../ebpf/datapath/tests/core/frames.rs"]
mod frames;

use std::net::Ipv4Addr;

use frames::*;
use portcullis_datapath::simulation::Simulation;
use portcullis_datapath_abi::flow::{LIMITED, LOGGED, TO_ROUTER};
use portcullis_model::{Document, part::FirewallPart};
use portcullis_policy::{Surroundings, compile, resolve};

const SYN: u8 = 2;
const ACK: u8 = 16;
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 101);

/// The router of the core's tests with these rules beside the default policy.
fn with(rules: &str) -> Simulation {
    let document = Document::parse(rules).unwrap_or_else(|error| panic!("{error}"));
    let surroundings = Surroundings {
        zones: [("lan", LAN_ZONE), ("wan", WAN_ZONE)]
            .map(|(n, id)| (n.parse().unwrap(), id))
            .into(),
        ..Surroundings::default()
    };
    let compiled = compile(&resolve(&FirewallPart::of(&document), &surroundings)).unwrap();
    let mut router = router();
    let classes: Vec<_> = compiled.class_entries(router.policy.bank).collect();
    router.policy.install(&compiled.lines, &classes);
    router
}

fn lan(router: &Simulation, from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> String {
    outcome(pass(router, LAN, &datagram(from, to, protocol, 64, payload)))
}

fn wan(router: &Simulation, from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> String {
    outcome(pass(router, WAN, &datagram(from, to, protocol, 64, payload)))
}

fn outcome(result: Result<Vec<u8>, String>) -> String {
    result.map_or_else(|counter| counter, |_| "passes".to_owned())
}

#[test]
fn a_rule_decides_before_the_policy_of_its_zones() {
    let router = with(
        "[[firewall.rules]]\nname = \"no-mail\"\nfrom = \"lan\"\nto = \"wan\"\nprotocols = [\"tcp\"]\ndestination_ports = [25]\naction = \"deny\"\n",
    );
    assert_eq!(lan(&router, HOST, SERVER, 6, &tcp(4000, 25, SYN, b"")), "drop.policy");
    assert_eq!(lan(&router, HOST, SERVER, 6, &tcp(4000, 26, SYN, b"")), "passes");
    assert_eq!(lan(&router, HOST, SERVER, 17, &udp(4000, 25, b"")), "passes");
    assert_eq!(router.flows4().len(), 2);
}

#[test]
fn a_rule_opens_what_no_policy_does_and_marks_its_flows() {
    let router = with(
        "[[firewall.rules]]\nname = \"other\"\naction = \"deny\"\nfrom = \"lan\"\nto = \"lan\"\n\
         [[firewall.rules]]\nname = \"in\"\nfrom = \"wan\"\nto = \"lan\"\nsources = [\"203.0.113.0/24\"]\nprotocols = [\"udp\"]\nsource_ports = [53]\n\
         action = \"allow\"\nlog = true\nconnections_per_source = 2\n",
    );
    for n in 0..2 {
        assert_eq!(wan(&router, SERVER, HOST, 17, &udp(53, 4000 + n, b"")), "passes");
    }
    assert_eq!(wan(&router, SERVER, HOST, 17, &udp(53, 4002, b"")), "drop.connections");
    assert_eq!(wan(&router, HOP, HOST, 17, &udp(53, 4002, b"")), "passes", "another source");
    assert_eq!(wan(&router, HOP, HOST, 17, &udp(54, 4002, b"")), "drop.policy");
    for record in router.flows.live().values() {
        assert_eq!((record.rule, record.flags & (LIMITED | LOGGED)), (1, LIMITED | LOGGED));
    }
}

#[test]
fn a_rate_is_of_flows_and_not_of_packets() {
    let router = with(
        "[[firewall.rules]]\nname = \"slow\"\nfrom = \"lan\"\nto = \"wan\"\naction = \"allow\"\nrate_limit = { per_second = 2 }\n",
    );
    for _ in 0..10 {
        assert_eq!(lan(&router, HOST, SERVER, 17, &udp(4000, 53, b"")), "passes");
    }
    assert_eq!(lan(&router, HOST, SERVER, 17, &udp(4001, 53, b"")), "passes");
    assert_eq!(lan(&router, HOST, SERVER, 17, &udp(4002, 53, b"")), "drop.rate-limit");
}

#[test]
fn rules_about_the_router_come_before_its_services() {
    let router = with(
        "[[firewall.rules]]\nname = \"admin\"\nfrom = \"lan\"\nto = \"router\"\nsources = [\"192.168.77.100\"]\nprotocols = [\"tcp\"]\ndestination_ports = [22]\naction = \"allow\"\n\
         [[firewall.rules]]\nname = \"no-web\"\nfrom = \"lan\"\nto = \"router\"\nsources = [\"192.168.77.101\"]\nprotocols = [\"tcp\"]\ndestination_ports = [443]\naction = \"deny\"\n",
    );
    // What no rule is about is up to the services, and needs no flow.
    assert_eq!(lan(&router, HOST, ROUTER, 6, &tcp(4000, 443, SYN, b"")), "router.service");
    assert_eq!(lan(&router, HOST, ROUTER, 6, &tcp(4000, 443, ACK, b"")), "router.service");
    assert_eq!(lan(&router, OTHER, ROUTER, 17, &udp(4000, 53, b"")), "router.service");
    assert_eq!(lan(&router, OTHER, ROUTER, 6, &tcp(4000, 443, SYN, b"")), "drop.policy");
    assert_eq!(lan(&router, OTHER, ROUTER, 6, &tcp(4000, 22, SYN, b"")), "drop.policy");
    assert_eq!(lan(&router, OTHER, ROUTER, 1, &echo(8, 1, b"")), "router.service");
    assert!(router.flows.live().is_empty());
    // What a rule opens beyond them does.
    assert_eq!(lan(&router, HOST, ROUTER, 6, &tcp(4000, 22, SYN, b"")), "router.flow");
    let flows = router.flows.live();
    assert_eq!(flows.len(), 1);
    assert!(flows.values().all(|record| record.flags & TO_ROUTER != 0 && record.rule == 0));
    // From the WAN nothing has changed.
    assert_eq!(wan(&router, SERVER, OUTSIDE, 6, &tcp(4000, 22, SYN, b"")), "drop.policy");
}
