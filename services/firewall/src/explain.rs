//! What would become of a packet, and what is to be known of rules, as the bus tells it.

use portcullis_bus::firewall::{Explanation, RuleFinding};
use portcullis_model::Action;
use portcullis_policy::{Finding, FindingKind, Resolved, examine};

/// In the words of the bus.
pub fn in_bus_terms(told: portcullis_policy::Explanation) -> Explanation {
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
        steps: told.steps,
    }
}

/// Rules that never decide, and rules that were merged.
pub fn findings(resolved: &Resolved) -> Vec<RuleFinding> {
    examine(resolved).findings.iter().map(finding).collect()
}

fn finding(finding: &Finding) -> RuleFinding {
    let kind = match &finding.kind {
        FindingKind::Empty => "empty",
        FindingKind::Shadowed { same_effect: true, .. } => "redundant",
        FindingKind::Shadowed { same_effect: false, .. } => "shadowed",
        FindingKind::Unreachable { .. } => "unreachable",
        FindingKind::Merged { .. } => "merged",
    };
    RuleFinding {
        rule: finding.rule.to_string(),
        kind: kind.to_owned(),
        message: finding.to_string(),
    }
}
