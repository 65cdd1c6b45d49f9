//! Which rules are found to be hidden, and that no other rule ever is.

use std::collections::BTreeSet;

use portcullis_model::Document;
use portcullis_policy::{FindingKind, evaluate, examine, resolve};
use proptest::{collection, prelude::*};

use crate::{arbitrary, distinct, part, surroundings};

fn findings(rules: &str) -> Vec<String> {
    let firewall = Document::parse(rules).unwrap_or_else(|error| panic!("{error}")).firewall;
    let found = examine(&resolve(&part(firewall), &surroundings()));
    assert!(found.complete);
    found.findings.iter().map(ToString::to_string).collect()
}

fn rule(name: &str, what: &str) -> String {
    format!("[[firewall.rules]]\nname = \"{name}\"\n{what}\n")
}

#[test]
fn a_rule_behind_a_wider_one_never_decides() {
    let wide =
        rule("all-tcp", "from = \"lan\"\nto = \"wan\"\nprotocols = [\"tcp\"]\naction = \"allow\"");
    let other = rule(
        "no-mail",
        "from = \"lan\"\nto = \"wan\"\nsources = [\"10.0.0.0/8\"]\nprotocols = [\"tcp\"]\ndestination_ports = [25]\naction = \"deny\"",
    );
    assert_eq!(
        findings(&(wide.clone() + &other)),
        ["`no-mail` never decides: `all-tcp` before it always does"]
    );
    // The other way round both decide.
    assert_eq!(findings(&(other + &wide)), Vec::<String>::new());
    let same = rule(
        "https",
        "from = \"lan\"\nto = [\"wan\"]\nprotocols = [\"tcp\"]\ndestination_ports = [443]\naction = \"allow\"",
    );
    assert_eq!(
        findings(&(wide + &same)).first().map(String::as_str),
        Some("`https` is not needed: `all-tcp` before it does the same")
    );
}

#[test]
fn several_rules_hide_one_together() {
    let half = |name: &str, net: &str, log: bool| {
        rule(
            name,
            &format!("from = \"lan\"\nsources = [\"{net}\"]\naction = \"deny\"\nlog = {log}"),
        )
    };
    let whole = rule(
        "whole",
        "from = \"lan\"\nto = \"wan\"\nsources = [\"10.0.0.0/8\"]\naction = \"allow\"",
    );
    let halves = half("low", "10.0.0.0/9", true) + &half("high", "10.128.0.0/9", true);
    assert_eq!(
        findings(&(halves.clone() + &whole)),
        ["`whole` never decides: rules before it always do: `low`, `high`"]
    );
    // A gap of one address, not at the edge.
    let gap = half("low", "10.0.0.0/9", true)
        + &rule(
            "high",
            "from = \"lan\"\nsources = [\"10.128.0.0-10.200.0.0\", \"10.200.0.2-10.255.255.255\"]\naction = \"deny\"\nlog = true",
        );
    assert_eq!(findings(&(gap + &whole)), Vec::<String>::new());
    // By zone: everything but the packets to the router.
    let zones = rule("to-zones", "action = \"deny\"");
    let router = rule("to-router", "to = \"router\"\naction = \"allow\"");
    assert_eq!(findings(&(zones + &router)), Vec::<String>::new());
}

#[test]
fn a_schedule_hides_only_its_own_times() {
    let schedules =
        "[firewall.schedules.day]\nfrom = \"08:00\"\n[firewall.schedules.night]\nto = \"08:00\"\n";
    let at = |name: &str, schedule: &str| {
        rule(name, &format!("to = \"wan\"\naction = \"deny\"\nlog = true\n{schedule}"))
    };
    let text = String::from(schedules)
        + &at("by-day", "schedule = \"day\"")
        + &at("at-night", "schedule = \"night\"")
        + &at("by-day-again", "schedule = \"day\"")
        + &at("always", "")
        + &at("at-night-again", "schedule = \"night\"");
    assert_eq!(
        findings(&text),
        [
            "`by-day-again` is not needed: `by-day` before it does the same",
            "`at-night-again` is not needed: `at-night` before it does the same",
        ]
    );
}

#[test]
fn rules_that_fit_nothing_and_rules_that_are_one() {
    let text = String::from("[firewall.addresses.none]\nmembers = []\n")
        + &rule("nobody", "sources = [\"@none\"]\naction = \"deny\"")
        + &rule(
            "host",
            "destination_hosts = [{ interface = \"lan\", suffix = \"::1\" }]\naction = \"allow\"",
        )
        + &rule("a", "sources = [\"10.0.0.0/25\"]\naction = \"allow\"")
        + &rule("b", "sources = [\"10.0.0.128/25\"]\naction = \"allow\"")
        + &rule("c", "sources = [\"192.0.2.1\"]\naction = \"allow\"")
        + &rule("d", "sources = [\"192.0.2.2\"]\naction = \"reject\"");
    assert_eq!(
        findings(&text),
        [
            "`nobody` fits no packet",
            "`host` fits no packet",
            "`b` was merged with `a`, which does the same",
            "`c` was merged with `a`, which does the same",
        ]
    );
}

#[test]
fn ten_thousand_rules_are_examined() {
    let mut firewall = distinct(10_000);
    let last = firewall.rules[4321].clone();
    firewall
        .rules
        .push(portcullis_model::firewall::Rule { name: "again".parse().unwrap(), ..last });
    let begin = std::time::Instant::now();
    let found = examine(&resolve(&part(firewall), &surroundings()));
    println!("10,001 rules examined: {:?}", begin.elapsed());
    assert!(found.complete);
    let texts: Vec<_> = found.findings.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["`again` is not needed: `r4321` before it does the same"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A rule that decides about some packet is not reported as hidden or empty.
    #[test]
    fn no_rule_that_decides_is_reported(
        firewall in arbitrary::firewalls(0..30),
        packets in collection::vec(arbitrary::packets(), 400),
    ) {
        let resolved = resolve(&part(firewall), &surroundings());
        let hidden: BTreeSet<_> = examine(&resolved)
            .findings
            .into_iter()
            .filter(|finding| !matches!(finding.kind, FindingKind::Merged { .. }))
            .map(|finding| finding.rule)
            .collect();
        for packet in &packets {
            if let Some(rule) = evaluate(&resolved, packet).rule {
                prop_assert!(!hidden.contains(&rule.name), "{} decides about {packet:?}", rule.name);
            }
        }
    }

    /// A copy of a rule behind it is always found.
    #[test]
    fn copies_are_found(firewall in arbitrary::firewalls(1..30), which in any::<prop::sample::Index>()) {
        let mut firewall = firewall;
        let mut copy = firewall.rules[which.index(firewall.rules.len())].clone();
        if copy.enabled {
            copy.name = "copy".parse().unwrap();
            firewall.rules.push(copy);
            let found = examine(&resolve(&part(firewall), &surroundings())).findings;
            let copy = found.iter().find(|finding| finding.rule.as_str() == "copy");
            prop_assert!(copy.is_some());
        }
    }
}
