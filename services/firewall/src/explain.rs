//! What would become of a packet, as the bus tells it.

use portcullis_bus::firewall::Explanation;
use portcullis_model::Action;

/// In the words of the bus.
pub fn in_bus_terms(told: portcullis_policy::Explanation) -> Explanation {
    let mut steps = told.steps;
    for (end, address) in [("destination", &told.destination), ("source", &told.source)] {
        if let Some(address) = address {
            steps.push(format!("Its {end} becomes {address}."));
        }
    }
    Explanation {
        verdict: match told.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Reject => "reject",
        }
        .to_owned(),
        from_zone: told.from,
        to_zone: told.to,
        rule: told.rule.map(|rule| rule.to_string()).unwrap_or_default(),
        steps,
    }
}
