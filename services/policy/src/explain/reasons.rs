//! Why a rule fits, in words.

use portcullis_datapath_abi::classifier::Dimension;
use portcullis_model::{Action, MacAddress, firewall::Protocol};

use crate::{Packet, ResolvedRule, resolve::address_of};

/// The sentence that says that a rule decides, and by what.
pub(super) fn decides(rule: &ResolvedRule, packet: &Packet) -> String {
    let verb = match rule.action {
        Action::Allow => "allows",
        Action::Deny => "denies",
        Action::Reject => "rejects",
    };
    let reasons: Vec<String> =
        Dimension::ALL.iter().filter_map(|dimension| reason(rule, packet, *dimension)).collect();
    let why = if reasons.is_empty() {
        "it asks for nothing but the zones".to_owned()
    } else {
        reasons.join(", ")
    };
    format!("Rule `{}` {verb} it: {why}.", rule.name)
}

/// What the rule asked of a dimension, and what the packet has there.
fn reason(rule: &ResolvedRule, packet: &Packet, dimension: Dimension) -> Option<String> {
    let field = rule.field(dimension)?;
    let value = *packet.point().values.get(dimension as usize)?;
    let (low, high) = field.iter().find(|(low, high)| *low <= value && value <= *high)?;
    let range = |what: String, low: String, high: String| {
        if low == high { what } else { format!("{what} (of {low}-{high})") }
    };
    Some(match dimension {
        Dimension::Service => {
            let protocol = Protocol(packet.protocol);
            let port = packet.destination_port;
            if (low & 0xffff, high & 0xffff) == (0, 0xffff) || low >> 16 != high >> 16 {
                format!("protocol {protocol}")
            } else if protocol.is_icmp() {
                format!("{protocol} type {} code {}", port >> 8, port & 0xff)
            } else {
                let (low, high) = ((low & 0xffff).to_string(), (high & 0xffff).to_string());
                range(format!("{protocol} port {port}"), low, high)
            }
        }
        Dimension::Source | Dimension::Destination => {
            let (what, address) = if dimension == Dimension::Source {
                ("source", packet.source)
            } else {
                ("destination", packet.destination)
            };
            let (low, high) = (address_of(low).to_string(), address_of(high).to_string());
            range(format!("{what} {address}"), low, high)
        }
        Dimension::SourcePort => {
            range(format!("source port {}", packet.source_port), low.to_string(), high.to_string())
        }
        Dimension::Mac => format!("sender {}", MacAddress(packet.mac)),
    })
}

/// What may still refuse it.
pub(super) fn limits(rule: &ResolvedRule) -> Option<String> {
    let mut limits = Vec::new();
    if let Some(limit) = rule.rate_limit {
        let whose = if limit.per_source { " of one source" } else { "" };
        limits.push(format!("{} new flows a second{whose}", limit.per_second));
    }
    if let Some(most) = rule.connections {
        limits.push(format!("{most} flows of one source at the same time"));
    }
    (!limits.is_empty()).then(|| format!("Up to {}.", limits.join(" and up to ")))
}
