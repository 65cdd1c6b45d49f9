//! What would become of a packet, told in words, without sending one.

mod question;
mod reasons;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use portcullis_datapath_abi::policy::ROUTER as ROUTER_ID;
use portcullis_model::{
    Action, Label, Name, RouterService,
    firewall::{ForwardProtocol, Protocol, ROUTER, Sets},
    part::FirewallPart,
};

pub use question::{Question, QuestionError};

use crate::{Packet, Resolved, Surroundings, evaluate, resolve};

/// What would become of a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// What happens.
    pub action: Action,
    /// Zone that it comes from.
    pub from: String,
    /// Zone that it goes to; `router` for the router itself.
    pub to: String,
    /// The rule that decides, if one does.
    pub rule: Option<Label>,
    /// Where it goes after translation, if its destination changes: `192.168.77.20:443`.
    pub destination: Option<String>,
    /// Where it seems to come from after translation, if its source changes.
    pub source: Option<String>,
    /// The way to it, a sentence each.
    pub steps: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        let verdict = match self.action {
            Action::Allow => "It passes.",
            Action::Deny => "It is dropped.",
            Action::Reject => "It is dropped, and the sender told.",
        };
        f.write_str(verdict)
    }
}

/// Why nothing can be said.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ExplainError {
    /// Not a packet.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// No such place.
    #[error("`{0}` is neither an interface nor a zone; interfaces are {1}; zones are {2}")]
    Place(String, String, String),
    /// The packet says nothing of where it comes from, and its source does not tell.
    #[error("no interface has the network of {0}: say where the packet comes from, as in `in lan`")]
    Source(IpAddr),
    /// No way to the destination is known.
    #[error(
        "no interface has the network of {0}, and none has a default route: say where the packet goes, as in `out wan`"
    )]
    Destination(IpAddr),
}

/// Explains `question`, as in `tcp 192.168.77.5:1234 -> 203.0.113.5:443 in lan`.
///
/// # Errors
/// If it is not a packet, or says too little.
pub fn explain(
    question: &str,
    part: &FirewallPart,
    surroundings: &Surroundings,
) -> Result<Explanation, ExplainError> {
    let question: Question = question.parse()?;
    let resolved = resolve(part, surroundings);
    let sets = Sets::of(&part.firewall);
    Explainer { part, surroundings, resolved: &resolved, sets: &sets, steps: Vec::new() }
        .explain(&question)
}

struct Explainer<'a> {
    part: &'a FirewallPart,
    surroundings: &'a Surroundings,
    resolved: &'a Resolved,
    sets: &'a Sets,
    steps: Vec<String>,
}

/// What a destination that the router answers for leads to.
struct Inbound {
    destination: IpAddr,
    port: u16,
    /// What lets it in where no rule decides, if it comes from the zone of the external address.
    forward: Option<Label>,
    /// Zone of the external address that it is for.
    external: Option<Name>,
}

impl Explainer<'_> {
    fn explain(mut self, question: &Question) -> Result<Explanation, ExplainError> {
        let from = match &question.inside {
            Some(place) => self.zone_of_place(place)?,
            None => self
                .interface_of(question.source)
                .map(|name| self.zone_of(name))
                .ok_or(ExplainError::Source(question.source))?,
        };
        if let Some(step) = self.blocked(question) {
            self.steps.push(step);
            return Ok(self.verdict(Action::Deny, &from, ROUTER, None));
        }
        let inbound = self.inbound(question, &from);
        let to = self.destination_zone(question, &inbound)?;
        self.steps.push(format!("It comes from zone `{from}` and goes to `{to}`."));
        let packet = Packet {
            from: self.zone_id(&from),
            to: self.zone_id(&to),
            source: question.source,
            destination: inbound.destination,
            protocol: question.protocol.0,
            source_port: question.source_port,
            destination_port: if question.protocol.is_icmp() {
                question.icmp
            } else {
                inbound.port
            },
            mac: question.mac.map_or([0; 6], |mac| mac.0),
        };
        self.passed_over(&packet);
        let decision = evaluate(self.resolved, &packet);
        let rule = decision.rule.map(|rule| rule.name.clone());
        let action = match decision.rule {
            Some(rule) => {
                self.steps.push(reasons::decides(rule, &packet));
                self.steps.extend(reasons::limits(rule));
                rule.action
            }
            None => self.without_rule(&inbound, &from, &to, question, decision.action),
        };
        let mut explanation = self.verdict(action, &from, &to, rule);
        if action == Action::Allow {
            let moved = inbound.destination != question.destination
                || inbound.port != question.destination_port;
            explanation.destination =
                moved.then(|| end(inbound.destination, inbound.port, question.protocol));
            self.outbound(question, &inbound, &from, &to, &mut explanation);
        }
        explanation.steps = self.steps;
        Ok(explanation)
    }

    fn verdict(&self, action: Action, from: &str, to: &str, rule: Option<Label>) -> Explanation {
        Explanation {
            action,
            from: from.to_owned(),
            to: to.to_owned(),
            rule,
            destination: None,
            source: None,
            steps: self.steps.clone(),
        }
    }

    fn blocked(&self, question: &Question) -> Option<String> {
        let list = self.sets.addresses(&self.part.firewall.protection.blocklist);
        [question.source, question.destination].iter().find_map(|address| {
            list.contains(*address)
                .then(|| format!("{address} is on the blocklist (firewall.protection)."))
        })
    }

    /// Where a packet to one of the router's addresses, or to one that stands for a host, leads.
    fn inbound(&mut self, question: &Question, from: &str) -> Inbound {
        let mut inbound = Inbound {
            destination: question.destination,
            port: question.destination_port,
            forward: None,
            external: None,
        };
        let IpAddr::V4(destination) = question.destination else { return inbound };
        let firewall = &self.part.firewall;
        for forward in firewall.port_forwards.iter().filter(|forward| forward.enabled) {
            let same_zone = forward.zone.as_str() == from;
            let protocol = match forward.protocol {
                ForwardProtocol::Tcp => question.protocol == Protocol::TCP,
                ForwardProtocol::Udp => question.protocol == Protocol::UDP,
                ForwardProtocol::Both => question.protocol.has_ports(),
            };
            let address = if forward.addresses.is_empty() {
                self.addresses_in(&forward.zone).any(|own| own == IpAddr::V4(destination))
            } else {
                forward.addresses.contains(&destination)
            };
            let range = forward.ports.iter().find(|r| r.contains(question.destination_port));
            let source = forward.sources.is_empty()
                || self.sets.addresses(&forward.sources).contains(question.source);
            if let Some(range) = range
                && (same_zone || forward.hairpin)
                && protocol
                && address
                && source
            {
                inbound.destination = forward.to.into();
                inbound.port = forward.to_port.map_or(question.destination_port, |first| {
                    first.saturating_add(question.destination_port - range.first())
                });
                inbound.forward = same_zone.then(|| forward.name.clone());
                inbound.external = Some(forward.zone.clone());
                self.steps.push(format!(
                    "Port forward `{}` sends it on to {}:{}{}.",
                    forward.name,
                    inbound.destination,
                    inbound.port,
                    if same_zone { "" } else { " (hairpin)" }
                ));
                return inbound;
            }
        }
        for entry in &firewall.static_nat {
            if entry.external == destination {
                inbound.destination = entry.internal.into();
                inbound.external = Some(entry.zone.clone());
                self.steps.push(format!(
                    "{} stands for {} (1:1 in zone `{}`).",
                    entry.external, entry.internal, entry.zone
                ));
                return inbound;
            }
        }
        inbound
    }

    fn destination_zone(
        &self,
        question: &Question,
        inbound: &Inbound,
    ) -> Result<String, ExplainError> {
        let own = self.surroundings.addresses.values().flatten();
        if own.map(IpNet::addr).any(|own| own == inbound.destination) {
            return Ok(ROUTER.to_owned());
        }
        match &question.outside {
            Some(place) => self.zone_of_place(place),
            None => self
                .interface_of(inbound.destination)
                .or(self.surroundings.default_route.as_ref())
                .map(|name| self.zone_of(name))
                .ok_or(ExplainError::Destination(inbound.destination)),
        }
    }

    /// Rules that would fit but do not hold now.
    fn passed_over(&mut self, packet: &Packet) {
        let point = packet.point();
        for rule in &self.resolved.rules {
            if rule.active && rule.fits(&point) {
                break;
            }
            if !rule.active && rule.fits(&point) {
                let why = match &rule.schedule {
                    Some(schedule) if rule.enabled => {
                        format!("its schedule `{schedule}` does not hold now")
                    }
                    _ => "it is disabled".to_owned(),
                };
                self.steps.push(format!("Rule `{}` would fit, but {why}.", rule.name));
            }
        }
    }

    fn without_rule(
        &mut self,
        inbound: &Inbound,
        from: &str,
        to: &str,
        question: &Question,
        default: Action,
    ) -> Action {
        if let Some(forward) = &inbound.forward {
            self.steps.push(format!("No rule fits; the port forward `{forward}` lets it in."));
            return Action::Allow;
        }
        if inbound.external.is_some() && from == to {
            self.steps.push(format!("No rule fits; it goes back into `{to}`, where it came from."));
            return Action::Allow;
        }
        if to != ROUTER {
            let verb = match default {
                Action::Allow => "allows it",
                Action::Deny => "denies it",
                Action::Reject => "rejects it",
            };
            let written = self
                .part
                .firewall
                .policies
                .iter()
                .any(|policy| policy.from.as_str() == from && policy.to.as_str() == to);
            self.steps.push(if written {
                format!("No rule fits; the policy from `{from}` to `{to}` {verb}.")
            } else {
                format!("No rule fits, and there is no policy from `{from}` to `{to}`.")
            });
            return default;
        }
        let service = service(question);
        let zone = self.part.firewall.zones.iter().find(|(name, _)| name.as_str() == from);
        match service {
            Some((name, service)) if zone.is_some_and(|(_, z)| z.services.contains(&service)) => {
                self.steps.push(format!(
                    "No rule fits; zone `{from}` may reach the router's service `{name}`."
                ));
                Action::Allow
            }
            Some((name, _)) => {
                self.steps.push(format!(
                    "No rule fits, and zone `{from}` may not reach the router's service `{name}`."
                ));
                Action::Deny
            }
            None => {
                self.steps
                    .push("No rule fits, and it is for none of the router's services.".to_owned());
                Action::Deny
            }
        }
    }

    /// What the source of a packet that passes becomes.
    fn outbound(
        &mut self,
        question: &Question,
        inbound: &Inbound,
        from: &str,
        to: &str,
        explanation: &mut Explanation,
    ) {
        let (IpAddr::V4(source), true) = (question.source, to != ROUTER) else { return };
        let firewall = &self.part.firewall;
        // What goes back into its own zone leaves as if by the zone of the external address: only so
        // does the answer come back to the router, where it is translated back.
        let back = inbound.external.as_ref().filter(|_| from == to);
        let exit = back.map_or(to, Name::as_str);
        let fixed = firewall
            .static_nat
            .iter()
            .find(|entry| entry.zone.as_str() == exit && entry.internal == source);
        if let Some(entry) = fixed {
            self.steps.push(format!("Its source becomes {} (1:1).", entry.external));
            explanation.source = Some(entry.external.to_string());
            return;
        }
        let pool = firewall.source_nat.iter().enumerate().find(|(_, entry)| {
            entry.zone.as_str() == exit
                && (entry.sources.is_empty()
                    || self.sets.addresses(&entry.sources).contains(source.into()))
        });
        if let Some((index, entry)) = pool {
            let pool: Vec<_> = entry.addresses.iter().map(ToString::to_string).collect();
            let pool = pool.join(", ");
            self.steps.push(format!("Its source becomes one of {pool} (source_nat[{index}])."));
            explanation.source = Some(pool);
            return;
        }
        let masquerades =
            firewall.zones.iter().any(|(name, zone)| name.as_str() == exit && zone.masquerade);
        let own = if let Some(zone) = back {
            self.addresses_in(zone).find(IpAddr::is_ipv4)
        } else if masquerades {
            self.interface_of(inbound.destination)
                .or(self.surroundings.default_route.as_ref())
                .filter(|name| self.zone_of(name) == to)
                .and_then(|name| self.surroundings.addresses.get(name)?.iter().find_map(ipv4))
                .map(IpAddr::V4)
        } else {
            return;
        };
        let own = own.map_or_else(|| "the address of the interface".to_owned(), |a| a.to_string());
        let why = if back.is_some() {
            "so that the answer comes back to the router".to_owned()
        } else {
            format!("masquerade of zone `{to}`")
        };
        self.steps.push(format!("Its source becomes {own} ({why})."));
        explanation.source = Some(own);
    }

    fn zone_id(&self, zone: &str) -> u8 {
        if zone == ROUTER {
            return ROUTER_ID;
        }
        self.surroundings.zones.get(zone).copied().unwrap_or(u8::MAX)
    }

    /// Zone of an interface; an interface that was removed meanwhile has none.
    fn zone_of(&self, interface: &Name) -> String {
        self.part.interfaces.get(interface).map(ToString::to_string).unwrap_or_default()
    }

    fn zone_of_place(&self, place: &Name) -> Result<String, ExplainError> {
        if self.part.interfaces.contains_key(place) {
            return Ok(self.zone_of(place));
        }
        if self.part.firewall.zones.contains_key(place) || place.as_str() == ROUTER {
            return Ok(place.to_string());
        }
        let list = |names: Vec<String>| names.join(", ");
        Err(ExplainError::Place(
            place.to_string(),
            list(self.part.interfaces.keys().map(ToString::to_string).collect()),
            list(self.part.firewall.zones.keys().map(ToString::to_string).collect()),
        ))
    }

    /// The interface in whose network an address is; the longest prefix counts.
    fn interface_of(&self, address: IpAddr) -> Option<&Name> {
        let networks = self
            .surroundings
            .addresses
            .iter()
            .flat_map(|(name, networks)| networks.iter().map(move |network| (name, network)));
        networks
            .filter(|(_, network)| network.contains(&address))
            .max_by_key(|(_, network)| network.prefix_len())
            .map(|(name, _)| name)
    }

    fn addresses_in<'a>(&'a self, zone: &'a Name) -> impl Iterator<Item = IpAddr> + 'a {
        self.surroundings
            .addresses
            .iter()
            .filter(move |(name, _)| self.part.interfaces.get(*name) == Some(zone))
            .flat_map(|(_, networks)| networks.iter().map(IpNet::addr))
    }
}

fn ipv4(network: &IpNet) -> Option<Ipv4Addr> {
    match network {
        IpNet::V4(network) => Some(network.addr()),
        IpNet::V6(_) => None,
    }
}

fn end(address: IpAddr, port: u16, protocol: Protocol) -> String {
    if protocol.has_ports() {
        std::net::SocketAddr::new(address, port).to_string()
    } else {
        address.to_string()
    }
}

/// The router's service that a packet is for.
fn service(question: &Question) -> Option<(&'static str, RouterService)> {
    let (udp, tcp) = (question.protocol == Protocol::UDP, question.protocol == Protocol::TCP);
    match question.destination_port {
        67 if udp => Some(("dhcp", RouterService::Dhcp)),
        53 if udp || tcp => Some(("dns", RouterService::Dns)),
        443 if tcp => Some(("web", RouterService::Web)),
        _ if question.is_echo_request() => Some(("ping", RouterService::Ping)),
        _ => None,
    }
}
