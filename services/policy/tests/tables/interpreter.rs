//! The document's rules taken literally, one member of one list after the other, with sets, hosts,
//! schedules and zones as they are written. What [`resolve`] makes of them must mean the same: the
//! tables are compared only with what is behind it.

use std::net::{IpAddr, Ipv6Addr};

use portcullis_model::{
    Action, Firewall,
    firewall::{
        AddressMatch, AddressSet, Day, DestinationHost, IcmpMatch, PortMatch, PortSet, ROUTER,
        Rule, Schedule, TimeOfDay, ZoneMatch,
    },
};
use portcullis_policy::{Packet, Surroundings, evaluate, resolve};
use proptest::{collection, option, prelude::*, sample::select};

use crate::{arbitrary, part, surroundings};

const ZONES: [&str; 4] = [ROUTER, "lan", "wan", "dmz"];

struct Interpreter<'a> {
    firewall: &'a Firewall,
    surroundings: &'a Surroundings,
    packet: &'a Packet,
}

impl Interpreter<'_> {
    /// Name of the rule that decides, action, and whether it is logged.
    fn decide(&self) -> (Option<String>, Action, bool) {
        for rule in &self.firewall.rules {
            if rule.enabled && self.fits(rule) {
                return (Some(rule.name.to_string()), rule.action, rule.log);
            }
        }
        let (from, to) = (ZONES[self.packet.from as usize], ZONES[self.packet.to as usize]);
        for policy in &self.firewall.policies {
            if policy.from.as_str() == from && policy.to.as_str() == to {
                return (None, policy.action, policy.log);
            }
        }
        (None, Action::Deny, false)
    }

    fn fits(&self, rule: &Rule) -> bool {
        let packet = self.packet;
        zone(&rule.from, packet.from)
            && zone(&rule.to, packet.to)
            && (rule.sources.is_empty()
                || rule.sources.iter().any(|one| self.address(one, packet.source)))
            && (rule.destinations.is_empty() && rule.destination_hosts.is_empty()
                || rule.destinations.iter().any(|one| self.address(one, packet.destination))
                || rule.destination_hosts.iter().any(|one| self.host(one)))
            && (rule.protocols.is_empty()
                || rule.protocols.iter().any(|one| one.0 == packet.protocol))
            && (rule.source_ports.is_empty()
                || rule.source_ports.iter().any(|one| self.port(one, packet.source_port)))
            && (rule.destination_ports.is_empty()
                || rule.destination_ports.iter().any(|one| self.port(one, packet.destination_port)))
            && (rule.icmp_types.is_empty() || rule.icmp_types.iter().any(|one| self.icmp(one)))
            && (rule.macs.is_empty() || rule.macs.iter().any(|one| one.0 == packet.mac))
            && rule
                .schedule
                .as_ref()
                .is_none_or(|name| holds(&self.firewall.schedules[name], self.surroundings.unix_s))
    }

    fn address(&self, one: &AddressMatch, address: IpAddr) -> bool {
        match one {
            AddressMatch::Net(net) => net.contains(&address),
            AddressMatch::Range(first, last) => {
                first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
            }
            AddressMatch::Set(name) => {
                let members = &self.firewall.addresses[name].members;
                members.iter().any(|one| self.address(one, address))
            }
        }
    }

    fn host(&self, host: &DestinationHost) -> bool {
        let networks = &self.surroundings.addresses[&host.interface];
        networks.iter().any(|net| match net.addr() {
            IpAddr::V6(router) if !router.is_unicast_link_local() => {
                self.packet.destination == IpAddr::V6(host.suffix.within(router))
            }
            _ => false,
        })
    }

    fn port(&self, one: &PortMatch, port: u16) -> bool {
        match one {
            PortMatch::Range(range) => range.first() <= port && port <= range.last(),
            PortMatch::Set(name) => {
                self.firewall.ports[name].members.iter().any(|one| self.port(one, port))
            }
        }
    }

    fn icmp(&self, one: &IcmpMatch) -> bool {
        let [kind, code] = self.packet.destination_port.to_be_bytes();
        match one {
            IcmpMatch::EchoRequest => kind == if self.packet.protocol == 1 { 8 } else { 128 },
            IcmpMatch::Type { kind: wanted, code: None } => kind == *wanted,
            IcmpMatch::Type { kind: wanted, code: Some(of) } => (kind, code) == (*wanted, *of),
        }
    }
}

fn zone(zones: &ZoneMatch, id: u8) -> bool {
    match zones {
        ZoneMatch::Any => id != 0,
        ZoneMatch::These(names) => names.iter().any(|name| name.as_str() == ZONES[id as usize]),
    }
}

/// Minute by minute, as a person looks at a clock and a calendar.
fn holds(schedule: &Schedule, unix_s: u64) -> bool {
    let minute = (unix_s / 60 % 1440) as u16;
    let weekday = |day: u64| {
        // 1970-01-01, day 0, was a Thursday.
        [Day::Thu, Day::Fri, Day::Sat, Day::Sun, Day::Mon, Day::Tue, Day::Wed][day as usize % 7]
    };
    let today = unix_s / 86_400;
    let begins = |day: u64| schedule.days.contains(&weekday(day));
    let (from, to) = (schedule.from.minutes(), schedule.to.minutes());
    if from < to {
        begins(today) && from <= minute && minute < to
    } else {
        begins(today) && from <= minute || begins(today - 1) && minute < to
    }
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let time = || select(vec![0, 1, 479, 480, 720, 1439, 1440]);
    let days = collection::btree_set(select(Day::ALL.to_vec()), 1..5);
    (days, time(), time()).prop_map(|(days, from, to)| Schedule {
        days,
        from: TimeOfDay::from_minutes(from).unwrap(),
        to: TimeOfDay::from_minutes(to).unwrap(),
    })
}

/// What is put into a rule beside what it has.
#[derive(Clone, Debug)]
struct More {
    sources: Option<&'static str>,
    destinations: Option<&'static str>,
    ports: bool,
    host: bool,
    schedule: Option<&'static str>,
}

fn more() -> impl Strategy<Value = More> {
    let set = || option::weighted(0.3, select(vec!["inner", "outer", "empty"]));
    let schedule = option::weighted(0.3, select(vec!["one", "two"]));
    (set(), set(), any::<bool>(), prop::bool::weighted(0.2), schedule).prop_map(
        |(sources, destinations, ports, host, schedule)| More {
            sources,
            destinations,
            ports,
            host,
            schedule,
        },
    )
}

fn firewalls() -> impl Strategy<Value = Firewall> {
    let sets = (
        collection::vec(arbitrary::matches(), 0..4),
        collection::vec(arbitrary::matches(), 0..3),
        collection::vec(arbitrary::ports(), 0..3),
    );
    (arbitrary::firewalls(0..12), collection::vec(more(), 12), sets, (schedules(), schedules()))
        .prop_map(|(mut firewall, more, (inner, mut outer, ports), (one, two))| {
            let name = |text: &str| text.parse().unwrap();
            outer.push(AddressMatch::Set(name("inner")));
            for (set, members) in [("inner", inner), ("outer", outer), ("empty", vec![])] {
                firewall.addresses.insert(name(set), AddressSet { members });
            }
            firewall.ports.insert(name("ports"), PortSet { members: ports });
            firewall.schedules.insert(name("one"), one);
            firewall.schedules.insert(name("two"), two);
            for (rule, more) in firewall.rules.iter_mut().zip(more) {
                rule.sources.extend(more.sources.map(|set| AddressMatch::Set(name(set))));
                rule.destinations.extend(more.destinations.map(|set| AddressMatch::Set(name(set))));
                if more.ports && rule.protocols.iter().all(|protocol| protocol.has_ports()) {
                    let set = PortMatch::Set(name("ports"));
                    // Without protocols a rule has no ports.
                    rule.destination_ports.extend((!rule.protocols.is_empty()).then_some(set));
                }
                if more.host {
                    let suffix = "::1".parse().unwrap();
                    rule.destination_hosts.push(DestinationHost { interface: name("lan"), suffix });
                }
                rule.schedule = more.schedule.map(name);
            }
            firewall
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn rules_without_names_mean_what_is_written(
        firewall in firewalls(),
        packets in collection::vec(arbitrary::packets(), 100),
        // A week and a day, from a Sunday on.
        minutes in 0..8 * 1440_u64,
    ) {
        let router: Ipv6Addr = "2001:db8:1::ff".parse().unwrap();
        let lan = vec![
            ipnet::IpNet::new(router.into(), 64).unwrap(),
            "fe80::1/64".parse().unwrap(),
            "10.0.0.1/24".parse().unwrap(),
        ];
        let surroundings = Surroundings {
            addresses: [("lan".parse().unwrap(), lan)].into(),
            unix_s: 1_795_305_600 + minutes * 60,
            ..surroundings()
        };
        let part = part(firewall);
        let resolved = resolve(&part, &surroundings);
        for packet in &packets {
            let literally =
                Interpreter { firewall: &part.firewall, surroundings: &surroundings, packet };
            let decision = evaluate(&resolved, packet);
            let name = decision.rule.map(|rule| rule.name.to_string());
            prop_assert_eq!(
                (name, decision.action, decision.log),
                literally.decide(),
                "{:?}",
                packet
            );
        }
    }
}
