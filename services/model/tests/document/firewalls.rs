//! Arbitrary firewalls: every field, most of them not valid together.

use portcullis_model::{
    Action, Firewall, Label, Policy, RouterService, Timeouts, Zone,
    firewall::{
        AddressMatch, AddressSet, CollectorAddress, Datapath, Day, DestinationHost, FloodLimit,
        FlowExport, ForwardProtocol, Hook, HostSuffix, IcmpMatch, Log, MssClamp, PortForward,
        PortMatch, PortRange, PortSet, Protection, Protocol, RateLimit, Rule, Schedule, SourceNat,
        StaticNat, SynCookies, TimeOfDay, ZoneMatch,
    },
};
use proptest::{collection, option, prelude::*, sample::select};

use crate::{addresses, macs, names};

fn labels() -> impl Strategy<Value = Label> {
    "[a-z0-9][a-z0-9_.-]{0,62}".prop_map(|text| text.parse().unwrap())
}

fn matches() -> impl Strategy<Value = AddressMatch> {
    prop_oneof![
        (any::<std::net::IpAddr>(), any::<u8>()).prop_map(|(address, length)| {
            let length = length % if address.is_ipv4() { 33 } else { 129 };
            AddressMatch::Net(ipnet::IpNet::new_assert(address, length).trunc())
        }),
        any::<[u32; 2]>().prop_map(|[a, b]| AddressMatch::Range(
            std::net::Ipv4Addr::from(a.min(b)).into(),
            std::net::Ipv4Addr::from(a.max(b)).into()
        )),
        any::<[u128; 2]>().prop_map(|[a, b]| AddressMatch::Range(
            std::net::Ipv6Addr::from(a.min(b)).into(),
            std::net::Ipv6Addr::from(a.max(b)).into()
        )),
        names().prop_map(AddressMatch::Set),
    ]
}

fn ranges() -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX, any::<u16>())
        .prop_map(|(first, more)| PortRange::new(first, first.saturating_add(more)).unwrap())
}

fn port_matches() -> impl Strategy<Value = PortMatch> {
    prop_oneof![ranges().prop_map(PortMatch::Range), names().prop_map(PortMatch::Set)]
}

fn zone_matches() -> impl Strategy<Value = ZoneMatch> {
    let name = prop_oneof![names(), Just("any".parse().unwrap())];
    prop_oneof![Just(ZoneMatch::Any), collection::vec(name, 0..3).prop_map(ZoneMatch::These)]
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let time = || (0..=1440_u16).prop_map(|minutes| TimeOfDay::from_minutes(minutes).unwrap());
    (collection::btree_set(select(Day::ALL.to_vec()), 0..8), time(), time())
        .prop_map(|(days, from, to)| Schedule { days, from, to })
}

fn actions() -> impl Strategy<Value = Action> {
    select(vec![Action::Allow, Action::Deny, Action::Reject])
}

fn rules() -> impl Strategy<Value = Rule> {
    let host = (names(), 1..=u64::MAX).prop_map(|(interface, suffix)| {
        let suffix: HostSuffix =
            std::net::Ipv6Addr::from(u128::from(suffix)).to_string().parse().unwrap();
        DestinationHost { interface, suffix }
    });
    let icmp = prop_oneof![
        Just(IcmpMatch::EchoRequest),
        (any::<u8>(), any::<Option<u8>>()).prop_map(|(kind, code)| IcmpMatch::Type { kind, code }),
    ];
    let limit = any::<(u32, u32, bool)>().prop_map(|(per_second, burst, per_source)| RateLimit {
        per_second,
        burst,
        per_source,
    });
    let who = (labels(), any::<bool>(), zone_matches(), zone_matches());
    let what = (
        collection::vec(matches(), 0..3),
        collection::vec(matches(), 0..3),
        collection::vec(host, 0..2),
        collection::vec(any::<u8>().prop_map(Protocol), 0..3),
        collection::vec(port_matches(), 0..3),
        collection::vec(port_matches(), 0..3),
        collection::vec(icmp, 0..3),
        collection::vec(macs(), 0..2),
    );
    let then = (
        option::of(names()),
        actions(),
        any::<bool>(),
        option::of(limit),
        any::<Option<u32>>(),
        any::<bool>(),
    );
    (who, what, then).prop_map(|(who, what, then)| Rule {
        name: who.0,
        enabled: who.1,
        from: who.2,
        to: who.3,
        sources: what.0,
        destinations: what.1,
        destination_hosts: what.2,
        protocols: what.3,
        source_ports: what.4,
        destination_ports: what.5,
        icmp_types: what.6,
        macs: what.7,
        schedule: then.0,
        action: then.1,
        log: then.2,
        rate_limit: then.3,
        connections_per_source: then.4,
        full_cone: then.5,
    })
}

fn port_forwards() -> impl Strategy<Value = PortForward> {
    let protocol = select(vec![ForwardProtocol::Tcp, ForwardProtocol::Udp, ForwardProtocol::Both]);
    let outside = (
        labels(),
        any::<bool>(),
        names(),
        collection::vec(addresses(), 0..3),
        protocol,
        collection::vec(ranges(), 0..3),
    );
    let inside = (
        addresses(),
        any::<Option<u16>>(),
        collection::vec(matches(), 0..3),
        any::<bool>(),
        any::<bool>(),
    );
    (outside, inside).prop_map(|(outside, inside)| PortForward {
        name: outside.0,
        enabled: outside.1,
        zone: outside.2,
        addresses: outside.3,
        protocol: outside.4,
        ports: outside.5,
        to: inside.0,
        to_port: inside.1,
        sources: inside.2,
        hairpin: inside.3,
        log: inside.4,
    })
}

fn zones() -> impl Strategy<Value = Zone> {
    let services =
        vec![RouterService::Dhcp, RouterService::Dns, RouterService::Ping, RouterService::Web];
    let clamp = prop_oneof![
        Just(MssClamp::Off),
        Just(MssClamp::PathMtu),
        (536..=8960_u16).prop_map(MssClamp::Bytes)
    ];
    (any::<bool>(), collection::btree_set(select(services), 0..4), clamp, any::<bool>()).prop_map(
        |(masquerade, services, mss_clamp, bogons)| Zone {
            masquerade,
            services,
            mss_clamp,
            bogons,
        },
    )
}

fn protections() -> impl Strategy<Value = Protection> {
    let limit =
        || any::<[u32; 2]>().prop_map(|[per_source, total]| FloodLimit { per_source, total });
    let cookies = select(vec![SynCookies::Off, SynCookies::Auto, SynCookies::Always]);
    (
        any::<bool>(),
        collection::vec(matches(), 0..3),
        collection::vec(matches(), 0..3),
        option::of(collection::vec(names(), 0..3)),
        (limit(), limit(), limit()),
        cookies,
    )
        .prop_map(|(malformed, blocklist, exempt, zones, (syn, udp, icmp), syn_cookies)| {
            Protection { malformed, blocklist, exempt, zones, syn, udp, icmp, syn_cookies }
        })
}

pub fn firewalls() -> impl Strategy<Value = Firewall> {
    let policy = (names(), names(), actions(), any::<bool>())
        .prop_map(|(from, to, action, log)| Policy { from, to, action, log });
    let timeouts = any::<[u32; 6]>().prop_map(|[a, b, c, d, e, f]| Timeouts {
        tcp_established_s: a,
        tcp_transitory_s: b,
        udp_s: c,
        udp_unreplied_s: d,
        icmp_s: e,
        fragment_s: f,
    });
    let collector = any::<std::net::SocketAddr>().prop_map(|address| {
        // The text form has neither flow label nor scope.
        CollectorAddress(std::net::SocketAddr::new(address.ip(), address.port()))
    });
    let export = (collection::vec(collector, 0..3), any::<[u32; 3]>()).prop_map(
        |(collectors, [active_timeout_s, template_refresh_s, domain])| FlowExport {
            collectors,
            active_timeout_s,
            template_refresh_s,
            domain,
        },
    );
    let static_nat = (names(), addresses(), addresses())
        .prop_map(|(zone, external, internal)| StaticNat { zone, external, internal });
    let source_nat = (names(), collection::vec(matches(), 0..3), collection::vec(matches(), 0..3))
        .prop_map(|(zone, sources, addresses)| SourceNat { zone, sources, addresses });
    let sets = (
        collection::btree_map(
            names(),
            collection::vec(matches(), 0..3).prop_map(|members| AddressSet { members }),
            0..3,
        ),
        collection::btree_map(
            names(),
            collection::vec(port_matches(), 0..3).prop_map(|members| PortSet { members }),
            0..3,
        ),
        collection::btree_map(names(), schedules(), 0..3),
    );
    let table = (
        select(vec![Datapath::Ebpf, Datapath::Nftables]),
        any::<u32>(),
        collection::btree_map(names(), select(vec![Hook::Auto, Hook::Xdp, Hook::Tcx]), 0..3),
        collection::btree_map(names(), zones(), 0..4),
        collection::vec(policy, 0..4),
        collection::vec(rules(), 0..4),
    );
    let nat = (
        collection::vec(port_forwards(), 0..3),
        collection::vec(static_nat, 0..3),
        collection::vec(source_nat, 0..3),
    );
    let log = any::<(u32, bool)>().prop_map(|(per_second, flows)| Log { per_second, flows });
    (sets, table, nat, (timeouts, protections(), export, log)).prop_map(
        |(sets, table, nat, (timeouts, protection, flow_export, log))| Firewall {
            datapath: table.0,
            max_flows: table.1,
            hooks: table.2,
            zones: table.3,
            policies: table.4,
            addresses: sets.0,
            ports: sets.1,
            schedules: sets.2,
            rules: table.5,
            port_forwards: nat.0,
            static_nat: nat.1,
            source_nat: nat.2,
            timeouts,
            protection,
            flow_export,
            log,
        },
    )
}
