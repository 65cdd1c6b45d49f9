//! Bringing a document to the services: only those whose part changed, in an order in which each
//! finds what it builds on.

use std::time::Duration;

use portcullis_bus::{
    Error, Result, config::ServiceOutcome, connect_at, dhcp::DhcpBusProxy, dns::DnsBusProxy,
    firewall::FirewallBusProxy, network::NetworkBusProxy, socket_path, web::WebBusProxy,
};
use portcullis_model::{
    Document,
    part::{DhcpPart, DnsPart, FirewallPart, NetworkPart, WebPart},
};

/// Services that have a part, in the order in which they are told.
pub const SERVICES: [&str; 5] = ["network", "firewall", "dhcp", "dns", "web"];

/// How long one service may take over its part.
const APPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// The part of `service` as JSON; none if no service of that name has one.
///
/// # Errors
/// None is known: all parts have a JSON form.
pub fn part(document: &Document, service: &str) -> Option<serde_json::Result<String>> {
    Some(match service {
        "network" => serde_json::to_string(&NetworkPart::of(document)),
        "firewall" => serde_json::to_string(&FirewallPart::of(document)),
        "dhcp" => serde_json::to_string(&DhcpPart::of(document)),
        "dns" => serde_json::to_string(&DnsPart::of(document)),
        "web" => serde_json::to_string(&WebPart::of(document)),
        _ => return None,
    })
}

/// Services whose part differs between two documents, with the new part.
///
/// # Errors
/// As [`part`].
pub fn changed_parts(
    old: &Document,
    new: &Document,
) -> serde_json::Result<Vec<(&'static str, String)>> {
    let mut changed = Vec::new();
    for service in SERVICES {
        // Maps in the parts are ordered, so equal parts have equal texts.
        if let (Some(old), Some(new)) = (part(old, service), part(new, service)) {
            let new = new?;
            if old? != new {
                changed.push((service, new));
            }
        }
    }
    Ok(changed)
}

/// Hands `part` to `service` and waits for its answer.
pub async fn hand_over(service: &str, part: String) -> ServiceOutcome {
    let outcome = match tokio::time::timeout(APPLY_TIMEOUT, send(service, part)).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "no answer within {} s; it takes its part when it starts",
            APPLY_TIMEOUT.as_secs()
        )),
    };
    let applied = outcome.is_ok();
    ServiceOutcome {
        service: service.to_owned(),
        applied,
        message: outcome.err().unwrap_or_default(),
    }
}

async fn send(service: &str, part: String) -> Result<()> {
    let connection = connect_at(&socket_path(service), APPLY_TIMEOUT).await?;
    match service {
        "network" => NetworkBusProxy::new(&connection).await?.apply(part).await,
        "firewall" => FirewallBusProxy::new(&connection).await?.apply(part).await,
        "dhcp" => DhcpBusProxy::new(&connection).await?.apply(part).await,
        "dns" => DnsBusProxy::new(&connection).await?.apply(part).await,
        "web" => WebBusProxy::new(&connection).await?.apply(part).await,
        _ => Err(Error::NotFound(format!("no service `{service}` takes a part"))),
    }
}
