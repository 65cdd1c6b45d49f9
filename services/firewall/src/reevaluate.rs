//! Asking the policy again about flows that are there: established flows outlive a change of policy
//! unless somebody wants it otherwise. Pure.

use std::net::{IpAddr, Ipv6Addr};

use portcullis_datapath_abi::{
    FlowKey, FlowRecord, address,
    flow::{FROM_ROUTER, ICMP, ICMPV6, IPV6, TCP, UDP},
    policy::ROUTER,
    port,
};
use portcullis_model::{
    Action, Firewall, RouterService,
    firewall::{AddressRanges, ForwardProtocol, PortForward, Sets},
};
use portcullis_policy::{Packet, Resolved, evaluate};

use crate::purge::bytes6;

/// What decides about a flow.
pub struct Judge<'a> {
    resolved: &'a Resolved,
    firewall: &'a Firewall,
    zone_name: &'a dyn Fn(u8) -> Option<String>,
    /// Port forwards that are in force, with the sources that may use them, if not all may.
    forwards: Vec<(&'a PortForward, Option<AddressRanges>)>,
}

// Types of the ICMP messages that open a flow.
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

impl<'a> Judge<'a> {
    /// With these rules, and the port forwards and services of zones of this configuration; `zone_name`
    /// knows the zones' ids.
    pub fn new(
        resolved: &'a Resolved,
        firewall: &'a Firewall,
        zone_name: &'a dyn Fn(u8) -> Option<String>,
    ) -> Self {
        let sets = Sets::of(firewall);
        let enabled = firewall.port_forwards.iter().filter(|forward| forward.enabled);
        let forwards = enabled.map(|forward| {
            let restricted = !forward.sources.is_empty();
            (forward, restricted.then(|| sets.addresses(&forward.sources)))
        });
        Self { resolved, firewall, zone_name, forwards: forwards.collect() }
    }

    /// Whether the policy would let the flow in now. Limits are not asked: they are about new flows.
    pub fn allows(&self, record: &FlowRecord) -> bool {
        if record.flags & FROM_ROUTER != 0 {
            return true;
        }
        let (packet, outside) = packet(record);
        self.allows_packet(&packet, outside.as_ref())
    }

    /// The same of the first packet of a flow, with its destination inside; `outside` is what its
    /// sender addressed, if that is something else.
    pub fn allows_packet(&self, packet: &Packet, outside: Option<&Outside>) -> bool {
        let decision = evaluate(self.resolved, packet);
        if decision.rule.is_some() {
            return decision.action == Action::Allow;
        }
        if outside.is_some_and(|outside| self.is_forwarded(outside, packet)) {
            return true;
        }
        decision.action == Action::Allow || packet.to == ROUTER && self.serves(packet)
    }

    /// Whether a port forward leads from what the initiator addressed to where the flow goes, and
    /// lets the initiator in: from its own zone, or back into the zone of the host.
    fn is_forwarded(&self, outside: &Outside, packet: &Packet) -> bool {
        let from = (self.zone_name)(packet.from);
        let leads = |(forward, sources): &(&PortForward, Option<AddressRanges>)| {
            let protocol = match forward.protocol {
                ForwardProtocol::Tcp => packet.protocol == TCP,
                ForwardProtocol::Udp => packet.protocol == UDP,
                ForwardProtocol::Both => packet.protocol == TCP || packet.protocol == UDP,
            };
            let invited = from.as_deref() == Some(forward.zone.as_str())
                || forward.hairpin && packet.from == packet.to;
            let addressed = forward.addresses.is_empty()
                || forward.addresses.iter().any(|address| IpAddr::V4(*address) == outside.address);
            let range = forward.ports.iter().find(|range| range.contains(outside.port));
            let arrives = range.is_some_and(|range| {
                let inside = forward.to_port.map_or(outside.port, |first| {
                    first.wrapping_add(outside.port.wrapping_sub(range.first()))
                });
                inside == packet.destination_port
            });
            protocol
                && invited
                && sources.as_ref().is_none_or(|sources| sources.contains(packet.source))
                && addressed
                && arrives
                && IpAddr::V4(forward.to) == packet.destination
        };
        self.forwards.iter().any(leads)
    }

    fn serves(&self, packet: &Packet) -> bool {
        let service = match (packet.protocol, packet.destination_port) {
            (UDP, 67) => RouterService::Dhcp,
            (UDP | TCP, 53) => RouterService::Dns,
            (TCP, 443) => RouterService::Web,
            (ICMP | ICMPV6, _) => RouterService::Ping,
            _ => return false,
        };
        (self.zone_name)(packet.from)
            .and_then(|name| self.firewall.zones.get(name.as_str()))
            .is_some_and(|zone| zone.services.contains(&service))
    }
}

/// What the initiator addressed, if that is not where the flow goes.
pub struct Outside {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
}

/// The first packet of a flow as rules see it: with the destination inside.
fn packet(record: &FlowRecord) -> (Packet, Option<Outside>) {
    if record.flags & IPV6 != 0 {
        let key = record.ends6();
        let packet = Packet {
            from: key.zone,
            to: key.peer_zone,
            source: Ipv6Addr::from(bytes6(key.source)).into(),
            destination: Ipv6Addr::from(bytes6(key.destination)).into(),
            protocol: key.protocol,
            source_port: port(key.source_port),
            destination_port: port(key.destination_port),
            mac: initiator(record),
        };
        return (with_icmp_type(packet), None);
    }
    let [forward, reverse]: [FlowKey; 2] = record.ends4().keys;
    let packet = Packet {
        from: forward.zone,
        to: reverse.zone,
        source: address(forward.source).into(),
        destination: address(reverse.source).into(),
        protocol: forward.protocol,
        source_port: port(forward.source_port),
        destination_port: port(reverse.source_port),
        mac: initiator(record),
    };
    let changed =
        forward.destination != reverse.source || forward.destination_port != reverse.source_port;
    let outside = changed.then(|| Outside {
        address: address(forward.destination).into(),
        port: port(forward.destination_port),
    });
    (with_icmp_type(packet), outside)
}

/// Flows of ICMP have query ids where others have ports; rules see the type and code.
pub fn with_icmp_type(packet: Packet) -> Packet {
    let kind = match packet.protocol {
        ICMP => ECHO_REQUEST,
        ICMPV6 => ECHO_REQUEST_V6,
        _ => return packet,
    };
    Packet { source_port: 0, destination_port: u16::from(kind) << 8, ..packet }
}

/// The initiator's hardware address: where answers are sent. Zeros before there was one.
fn initiator(record: &FlowRecord) -> [u8; 6] {
    let [_, answers] = &record.sides;
    let [first, second, _] = answers.macs.map(u32::to_ne_bytes);
    let ([a, b, c, d], [e, f, ..]) = (first, second);
    if answers.generation == 0 { [0; 6] } else { [a, b, c, d, e, f] }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use portcullis_datapath_abi::{
        FlowKey6,
        flow::{Ends4, TO_ROUTER},
        from_address,
    };
    use portcullis_model::{Document, firewall::AddressMatch, part::FirewallPart};
    use portcullis_policy::{Surroundings, resolve};

    use super::*;
    use crate::purge::words6;

    const LAN: u8 = 1;
    const WAN: u8 = 2;

    fn part(rules: &str) -> FirewallPart {
        let document = Document::parse(rules).unwrap_or_else(|error| panic!("{error}"));
        FirewallPart::of(&document)
    }

    fn allows(part: &FirewallPart, record: &FlowRecord) -> bool {
        let names = ["lan", "wan"].map(|name| part.firewall.zones.get_key_value(name));
        let zones = names.into_iter().flatten().zip([LAN, WAN]);
        let surroundings = Surroundings {
            zones: zones.map(|((name, _), id)| (name.clone(), id)).collect(),
            ..Surroundings::default()
        };
        let resolved = resolve(part, &surroundings);
        let zone_name = |id| match id {
            LAN => Some("lan".to_owned()),
            WAN => Some("wan".to_owned()),
            _ => None,
        };
        Judge::new(&resolved, &part.firewall, &zone_name).allows(record)
    }

    fn flow(protocol: u8, from: u8, to: u8, destination: Ipv4Addr, ports: [u16; 2]) -> FlowRecord {
        let [source_port, destination_port] = ports.map(port);
        let forward = FlowKey {
            source: from_address(Ipv4Addr::new(192, 168, 77, 5)),
            destination: from_address(destination),
            source_port,
            destination_port,
            protocol,
            zone: from,
            reserved: 0,
        };
        let reverse = FlowKey {
            source: forward.destination,
            destination: from_address(Ipv4Addr::new(198, 51, 100, 2)),
            source_port: destination_port,
            destination_port: source_port,
            protocol,
            zone: to,
            reserved: 0,
        };
        let mut record = FlowRecord::default();
        record.set_ends4(&Ends4 { keys: [forward, reverse], ..Ends4::default() });
        record
    }

    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

    fn deny(what: &str) -> String {
        format!(
            "[[firewall.rules]]\nname = \"no\"\nfrom = \"lan\"\nto = \"wan\"\naction = \"deny\"\n{what}\n"
        )
    }

    #[test]
    fn a_new_rule_ends_what_it_refuses_and_nothing_else() {
        let web = flow(TCP, LAN, WAN, SERVER, [40_000, 443]);
        let mail = flow(TCP, LAN, WAN, SERVER, [40_000, 25]);
        assert!(allows(&part(""), &web) && allows(&part(""), &mail));
        let no_mail = part(&deny("protocols = [\"tcp\"]\ndestination_ports = [25]"));
        assert!(allows(&no_mail, &web) && !allows(&no_mail, &mail));
        assert!(!allows(&part(""), &flow(TCP, WAN, LAN, SERVER, [40_000, 443])), "wan to lan");
    }

    #[test]
    fn icmp_is_asked_by_its_type_and_ipv6_by_its_addresses() {
        let ping = flow(ICMP, LAN, WAN, SERVER, [77, 0]);
        let no_ping = part(&deny("protocols = [\"icmp\"]\nicmp_types = [\"echo-request\"]"));
        assert!(allows(&part(""), &ping) && !allows(&no_ping, &ping));

        let at = |text: &str| words6(text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED));
        let mut six = FlowRecord { flags: IPV6, ..FlowRecord::default() };
        six.set_ends6(&FlowKey6 {
            source: at("2001:db8:1::5"),
            destination: at("2001:db8:2::1"),
            destination_port: port(443),
            protocol: TCP,
            zone: LAN,
            peer_zone: WAN,
            ..FlowKey6::default()
        });
        assert!(allows(&part(""), &six));
        assert!(!allows(&part(&deny("destinations = [\"2001:db8:2::/48\"]")), &six));
    }

    #[test]
    fn a_port_forward_keeps_its_flows_for_as_long_as_it_is_there() {
        let inside = Ipv4Addr::new(192, 168, 77, 9);
        let mut forwarded = flow(TCP, WAN, LAN, inside, [50_000, 80]);
        let mut ends = forwarded.ends4();
        let [forward, _] = &mut ends.keys;
        forward.destination = from_address(Ipv4Addr::new(198, 51, 100, 2));
        forward.destination_port = port(8081);
        forwarded.set_ends4(&ends);
        let with = part(
            "[[firewall.port_forwards]]\nname = \"web\"\nzone = \"wan\"\nprotocol = \"tcp\"\n\
             ports = [\"8080-8082\"]\nto = \"192.168.77.9\"\nto_port = 79\n",
        );
        assert!(allows(&with, &forwarded));
        assert!(!allows(&part(""), &forwarded));
        let changed = |change: fn(&mut PortForward)| {
            let mut other = with.clone();
            other.firewall.port_forwards.iter_mut().for_each(change);
            other
        };
        // The flow comes from 192.168.77.5.
        for (sources, allowed) in [("@others", false), ("192.168.77.0/29", true)] {
            let mut limited = part("[firewall.addresses.others]\nmembers = [\"192.168.77.6\"]\n");
            limited.firewall.port_forwards = with.firewall.port_forwards.clone();
            for forward in &mut limited.firewall.port_forwards {
                forward.sources = sources.parse::<AddressMatch>().into_iter().collect();
            }
            assert_eq!(allows(&limited, &forwarded), allowed, "{sources}");
        }
        let of_lan = changed(|forward| {
            forward.zone = "lan".to_owned().try_into().unwrap_or_else(|_| panic!());
        });
        assert!(!allows(&of_lan, &forwarded), "it is another zone's");
        assert!(!allows(&changed(|forward| forward.enabled = false), &forwarded));
        let mut other = with.clone();
        for forward in &mut other.firewall.port_forwards {
            forward.to_port = Some(100);
        }
        assert!(!allows(&other, &forwarded));
    }

    #[test]
    fn hosts_of_the_same_zone_come_by_a_port_forward_only_if_it_lets_them() {
        let inside = Ipv4Addr::new(192, 168, 77, 9);
        let mut forwarded = flow(TCP, LAN, LAN, inside, [50_000, 8080]);
        let mut ends = forwarded.ends4();
        let [forward, _] = &mut ends.keys;
        forward.destination = from_address(Ipv4Addr::new(198, 51, 100, 2));
        forwarded.set_ends4(&ends);
        let with = |hairpin: bool| {
            part(&format!(
                "[[firewall.port_forwards]]\nname = \"web\"\nzone = \"wan\"\nprotocol = \"tcp\"\n\
                 ports = [8080]\nto = \"192.168.77.9\"\nhairpin = {hairpin}\n"
            ))
        };
        assert!(allows(&with(true), &forwarded));
        assert!(!allows(&with(false), &forwarded));
    }

    #[test]
    fn the_routers_own_flows_and_its_services_stay() {
        let own = FlowRecord { flags: FROM_ROUTER, ..flow(TCP, ROUTER, WAN, SERVER, [1, 2]) };
        assert!(allows(&part(&deny("")), &own));
        let to_router = |port| FlowRecord {
            flags: TO_ROUTER,
            ..flow(TCP, LAN, ROUTER, Ipv4Addr::new(192, 168, 77, 1), [40_000, port])
        };
        assert!(allows(&part(""), &to_router(443)) && !allows(&part(""), &to_router(22)));
    }
}
