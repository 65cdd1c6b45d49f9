//! Single cases, packets through the whole core.

use std::net::Ipv4Addr;

use portcullis_datapath::{Departure, Verdict};
use portcullis_datapath_abi::{
    flow::ENDPOINT_INDEPENDENT_FILTER,
    from_address,
    nat::{FROM_SOURCES, Forward, HAIRPIN},
    policy::{SOURCE_POOLS, STATIC_NAT},
};

use crate::{
    frames::{
        HOST, LAN, OUTSIDE, ROUTER, SERVER, WAN, WAN_ZONE, datagram, echo, ethernet, icmp_error,
        pass, sum, tcp, udp,
    },
    site::*,
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

fn to_web(flags: u8, zone: u8) -> Forward {
    Forward {
        to: from_address(WEB_SERVER),
        first_port: 8080,
        to_port: 80,
        zone,
        flags,
        reserved: 0,
    }
}

#[test]
fn one_internal_end_has_one_external_end_whomever_it_talks_to() {
    let site = site();
    let mut seen = Vec::new();
    for (server, port) in [(SERVER, 53), (SERVER, 54), (CLIENT, 53)] {
        let [source, destination] = send(&site, LAN, (HOST, 4000), (server, port)).unwrap();
        assert_eq!(destination, (server, port));
        seen.push(source);
    }
    assert_eq!(seen, [(OUTSIDE, 4000); 3]);
    assert_eq!(site.nat.mappings().len(), 1);
    assert_eq!(site.nat.mappings()[&0].references, 3);
    // Another host's same port is another end.
    let [other, _] = send(&site, LAN, (OTHER_HOST, 4000), (SERVER, 53)).unwrap();
    assert!(other.1 != 4000 && other.1 >= 1024 && other.1.is_multiple_of(2), "{other:?}");
}

#[test]
fn only_who_was_written_to_may_answer_unless_the_rule_says_otherwise() {
    let site = site();
    send(&site, LAN, (HOST, 4000), (SERVER, 53)).unwrap();
    assert_eq!(send(&site, WAN, (SERVER, 53), (OUTSIDE, 4000)).unwrap()[1], (HOST, 4000));
    for stranger in [(SERVER, 54), (CLIENT, 53)] {
        assert_eq!(
            send(&site, WAN, stranger, (OUTSIDE, 4000)),
            Err("drop.policy".to_owned()),
            "address- and port-dependent filtering"
        );
    }
    open_filter(&site);
    for stranger in [(SERVER, 54), (CLIENT, 53)] {
        let ends = send(&site, WAN, stranger, (OUTSIDE, 4000)).unwrap();
        assert_eq!(ends, [stranger, (HOST, 4000)], "endpoint-independent filtering");
        // And its answer leaves with the same external end.
        let back = send(&site, LAN, (HOST, 4000), stranger).unwrap();
        assert_eq!(back, [(OUTSIDE, 4000), stranger]);
    }
    // From another inside zone the policy decides.
    assert_eq!(send(&site, DMZ, (WEB_SERVER, 1), (OUTSIDE, 4000)), Err("drop.policy".to_owned()));
}

/// As a rule with `full_cone` leaves it.
fn open_filter(site: &portcullis_datapath::simulation::Simulation) {
    use portcullis_datapath::nat::NatTables;
    let mapping = site.mapping(0).unwrap();
    // SAFETY: the mapping lives as long as the tables and nobody else uses it now.
    unsafe { (*mapping.as_ptr()).flags = ENDPOINT_INDEPENDENT_FILTER };
}

#[test]
fn hosts_inside_reach_each_other_by_their_external_ends() {
    // RFC 4787 REQ-9: the source seen is the external one.
    let site = site();
    send(&site, LAN, (HOST, 4000), (SERVER, 53)).unwrap();
    send(&site, LAN, (OTHER_HOST, 5000), (SERVER, 53)).unwrap();
    let ends = send(&site, LAN, (HOST, 4000), (OUTSIDE, 5000)).unwrap();
    assert_eq!(ends, [(OUTSIDE, 4000), (OTHER_HOST, 5000)]);
    let back = send(&site, LAN, (OTHER_HOST, 5000), (OUTSIDE, 4000)).unwrap();
    assert_eq!(back, [(OUTSIDE, 5000), (HOST, 4000)]);
    // A host that has no mapping yet gets one.
    let third = Ipv4Addr::new(192, 168, 77, 102);
    let ends = send(&site, LAN, (third, 6000), (OUTSIDE, 5000)).unwrap();
    assert_eq!(ends, [(OUTSIDE, 6000), (OTHER_HOST, 5000)]);
    // Nobody's port.
    assert_eq!(send(&site, LAN, (HOST, 4000), (OUTSIDE, 5001)), Err("drop.policy".to_owned()));
}

#[test]
fn a_host_reaches_itself_by_its_external_end() {
    let site = site();
    send(&site, LAN, (HOST, 4000), (SERVER, 53)).unwrap();
    // From another port of its own, and from the very same one.
    let ends = send(&site, LAN, (HOST, 4002), (OUTSIDE, 4000)).unwrap();
    assert_eq!(ends, [(OUTSIDE, 4002), (HOST, 4000)]);
    for _ in 0..2 {
        let ends = send(&site, LAN, (HOST, 4000), (OUTSIDE, 4000)).unwrap();
        assert_eq!(ends, [(OUTSIDE, 4000), (HOST, 4000)]);
    }
    assert_eq!(site.flows4().len(), 3);
}

#[test]
fn a_forward_leads_in_and_its_answers_out() {
    let mut site = site();
    forward(&mut site, 17, 8080, to_web(HAIRPIN, WAN_ZONE));
    let ends = send(&site, WAN, (CLIENT, 999), (OUTSIDE, 8080)).unwrap();
    assert_eq!(ends, [(CLIENT, 999), (WEB_SERVER, 80)], "the server sees who asks");
    let back = send(&site, DMZ, (WEB_SERVER, 80), (CLIENT, 999)).unwrap();
    assert_eq!(back, [(OUTSIDE, 8080), (CLIENT, 999)]);
    assert_eq!(send(&site, WAN, (CLIENT, 999), (OUTSIDE, 8081)), Err("drop.policy".to_owned()));
    assert_eq!(send(&site, WAN, (CLIENT, 999), (SECOND, 8080)), Err("drop.policy".to_owned()));
    // Its port is nobody's source.
    let [source, _] = send(&site, LAN, (HOST, 8080), (SERVER, 53)).unwrap();
    assert_ne!(source.1, 8080);
}

#[test]
fn a_forward_is_for_its_sources_only() {
    let mut site = site();
    forward(&mut site, 17, 8080, to_web(HAIRPIN | FROM_SOURCES, WAN_ZONE));
    source_of_forward(&mut site, 0, CLIENT);
    assert!(send(&site, WAN, (CLIENT, 999), (OUTSIDE, 8080)).is_ok());
    assert_eq!(send(&site, WAN, (SERVER, 999), (OUTSIDE, 8080)), Err("drop.policy".to_owned()));
    assert_eq!(send(&site, LAN, (HOST, 999), (OUTSIDE, 8080)), Err("drop.policy".to_owned()));
}

#[test]
fn a_forward_is_reached_from_inside_by_the_external_address() {
    let mut site = site();
    let in_lan = Forward { to: from_address(OTHER_HOST), ..to_web(HAIRPIN, WAN_ZONE) };
    forward(&mut site, 17, 8080, in_lan);
    forward(&mut site, 17, 8081, Forward { first_port: 8081, ..to_web(HAIRPIN, WAN_ZONE) });
    forward(&mut site, 17, 8082, Forward { first_port: 8082, flags: 0, ..in_lan });
    // The server is in the same network: its answer must come back to the router.
    let ends = send(&site, LAN, (HOST, 4000), (OUTSIDE, 8080)).unwrap();
    assert_eq!(ends, [(OUTSIDE, 4000), (OTHER_HOST, 80)]);
    let back = send(&site, LAN, (OTHER_HOST, 80), (OUTSIDE, 4000)).unwrap();
    assert_eq!(back, [(OUTSIDE, 8080), (HOST, 4000)]);
    // The server is in another zone: the policy between the two decides, and the source stays.
    assert_eq!(send(&site, LAN, (HOST, 4000), (OUTSIDE, 8081)), Err("drop.policy".to_owned()));
    site.policy.allow(zone(LAN), zone(DMZ));
    let ends = send(&site, LAN, (HOST, 4000), (OUTSIDE, 8081)).unwrap();
    assert_eq!(ends, [(HOST, 4000), (WEB_SERVER, 80)]);
    // Without hairpin it is an address of the router.
    assert_eq!(send(&site, LAN, (HOST, 4000), (OUTSIDE, 8082)), Err("drop.policy".to_owned()));
}

#[test]
fn an_address_of_its_own_is_used_both_ways_and_policy_decides() {
    let mut site = site();
    one_to_one(&mut site, SECOND, WEB_SERVER);
    assert_eq!(site.zones[&WAN_ZONE].flags & STATIC_NAT, STATIC_NAT);
    let out = send(&site, DMZ, (WEB_SERVER, 25), (SERVER, 25)).unwrap();
    assert_eq!(out, [(SECOND, 25), (SERVER, 25)], "all ports, privileged ones too");
    assert!(site.nat.mappings().is_empty());
    assert_eq!(send(&site, WAN, (CLIENT, 9), (SECOND, 7777)), Err("drop.policy".to_owned()));
    site.policy.allow(zone(WAN), zone(DMZ));
    let ends = send(&site, WAN, (CLIENT, 9), (SECOND, 7777)).unwrap();
    assert_eq!(ends, [(CLIENT, 9), (WEB_SERVER, 7777)]);
    let back = send(&site, DMZ, (WEB_SERVER, 7777), (CLIENT, 9)).unwrap();
    assert_eq!(back, [(SECOND, 7777), (CLIENT, 9)]);
    // Hairpin, RFC 5508 REQ-7 a: queries too.
    site.policy.allow(zone(LAN), zone(DMZ));
    let ping = datagram(HOST, SECOND, 1, 64, &echo(8, 77, b"ping"));
    let there = pass(&site, LAN, &ping).unwrap();
    assert_eq!(there[16..20], WEB_SERVER.octets());
    let pong = datagram(WEB_SERVER, HOST, 1, 64, &echo(0, 77, b"ping"));
    let back = pass(&site, DMZ, &pong).unwrap();
    assert_eq!((&back[12..16], &back[16..20]), (&SECOND.octets()[..], &HOST.octets()[..]));
}

#[test]
fn a_source_keeps_its_address_of_the_pool() {
    let mut site = site();
    let first = Ipv4Addr::new(198, 51, 100, 64);
    pool(&mut site, first, 8);
    assert_eq!(site.zones[&WAN_ZONE].flags & SOURCE_POOLS, SOURCE_POOLS);
    let mut addresses = std::collections::BTreeSet::new();
    for host in 10..60 {
        let host = Ipv4Addr::new(192, 168, 77, host);
        let [a, _] = send(&site, LAN, (host, 4000), (SERVER, 53)).unwrap();
        let [b, _] = send(&site, LAN, (host, 4001), (CLIENT, 53)).unwrap();
        assert_eq!(a.0, b.0, "RFC 4787 REQ-2: paired");
        addresses.insert(a.0);
    }
    assert_eq!(addresses.len(), 8, "all are used: {addresses:?}");
    assert!(addresses.iter().all(|address| u32::from(*address) - u32::from(first) < 8));
    // What is not in the pool's sources is masqueraded.
    assert_eq!(send(&site, DMZ, (WEB_SERVER, 4000), (SERVER, 53)).unwrap()[0].0, OUTSIDE);
}

#[test]
fn query_ids_are_mapped_like_ports() {
    let site = site();
    let query = |host, id| {
        let out = pass(&site, LAN, &datagram(host, SERVER, 1, 64, &echo(8, id, b"ping")))?;
        Ok::<u16, String>(u16::from_be_bytes([out[24], out[25]]))
    };
    assert_eq!(query(HOST, 7), Ok(7));
    assert_eq!(query(HOST, 0), Ok(0), "0 is an id like others");
    let other = query(OTHER_HOST, 7).unwrap();
    assert_ne!(other, 7);
    let reply = datagram(SERVER, OUTSIDE, 1, 64, &echo(0, other, b"ping"));
    let back = pass(&site, WAN, &reply).unwrap();
    assert_eq!(back[16..20], OTHER_HOST.octets());
    assert_eq!(back[24..26], 7_u16.to_be_bytes());
    // Nobody outside may query by it.
    let query = datagram(CLIENT, OUTSIDE, 1, 64, &echo(8, other, b"ping"));
    assert_eq!(pass(&site, WAN, &query), Err("drop.policy".to_owned()));
}

#[test]
fn ports_keep_range_and_parity_and_reserved_ones_are_nobodys() {
    let mut site = site();
    reserve(&mut site, true, 500);
    for port in [500, 501, 4000, 4001, 1023, 1024, 65_535] {
        send(&site, LAN, (OTHER_HOST, port), (SERVER, 53)).unwrap();
        let [source, _] = send(&site, LAN, (HOST, port), (SERVER, 53)).unwrap();
        assert_ne!(source.1, port, "the other host has it, or it is reserved");
        assert_eq!(source.1 & 1, port & 1, "RFC 4787 REQ-4: {port} {source:?}");
        assert_eq!(source.1 < 1024, port < 1024, "RFC 4787 REQ-3: {port} {source:?}");
    }
    let kept = site.nat.mappings().values().any(|mapping| mapping.external_port == 500_u16.to_be());
    assert!(!kept, "reserved");
}

#[test]
fn the_routers_own_flows_share_the_ports() {
    let site = site();
    send(&site, LAN, (HOST, 4000), (SERVER, 53)).unwrap();
    let own = |source: Ipv4Addr, port| {
        let mut frame = ethernet(&datagram(source, SERVER, 17, 64, &udp(port, 53, b"query")));
        let departure = Departure {
            interface: WAN,
            forwarded: false,
            length: frame.0.len() as u32 - 14,
            segments: 1,
        };
        let verdict = site.leave(&frame, &departure);
        assert!(matches!(verdict, Verdict::Kernel(_) | Verdict::Translate(..)), "{verdict:?}");
        assert!(frame.carry_out(&verdict));
        ends(&frame.0[14..])[0]
    };
    let [mine, same] = [own(OUTSIDE, 4000), own(OUTSIDE, 4000)];
    assert!(mine.0 == OUTSIDE && mine.1 != 4000 && mine == same, "{mine:?}");
    assert_eq!(own(SECOND, 4000), (SECOND, 4000), "it keeps the address that it chose");
    // And the other way round: what the router has, no host gets.
    assert_eq!(own(OUTSIDE, 4242), (OUTSIDE, 4242));
    let [source, _] = send(&site, LAN, (HOST, 4242), (SERVER, 53)).unwrap();
    assert_ne!(source.1, 4242);
    // Hosts inside do not get at the router's own end by it.
    assert_eq!(send(&site, LAN, (HOST, 1), (OUTSIDE, 4242)), Err("drop.policy".to_owned()));
    assert_eq!(send(&site, LAN, (HOST, 1), (ROUTER, 9)), Err("drop.policy".to_owned()));
}

#[test]
fn without_a_free_port_a_flow_is_refused_and_leaves_nothing() {
    let mut site = site();
    for index in 0..2048 {
        site.nat.reserved.insert(index, u64::MAX);
    }
    assert_eq!(send(&site, LAN, (HOST, 4000), (SERVER, 53)), Err("Prohibited".to_owned()));
    assert!(site.flows4().is_empty() && site.nat.mappings().is_empty());
    // The numbers are free again.
    site.nat.reserved.clear();
    assert!(send(&site, LAN, (HOST, 4000), (SERVER, 53)).is_ok());
    assert_eq!(site.nat.mappings().keys().copied().collect::<Vec<_>>(), [0]);
}

#[test]
fn a_full_table_of_flows_gives_the_mapping_back() {
    let mut site = site();
    site.config.flows = 2;
    for port in [4000, 4001] {
        send(&site, LAN, (HOST, port), (SERVER, 53)).unwrap();
    }
    assert_eq!(send(&site, LAN, (HOST, 4000), (CLIENT, 53)), Err("Prohibited".to_owned()));
    assert!(site.nat.mappings().values().all(|mapping| mapping.references == 1));
}

#[test]
fn tcp_is_translated_like_udp() {
    let mut site = site();
    forward(&mut site, 6, 8080, to_web(HAIRPIN, WAN_ZONE));
    let syn = datagram(CLIENT, OUTSIDE, 6, 64, &tcp(1000, 8080, 2, b""));
    let there = pass(&site, WAN, &syn).unwrap();
    assert_eq!(ends(&there), [(CLIENT, 1000), (WEB_SERVER, 80)]);
    let syn = datagram(HOST, SERVER, 6, 64, &tcp(1000, 80, 2, b""));
    let out = pass(&site, LAN, &syn).unwrap();
    assert_eq!(ends(&out), [(OUTSIDE, 1000), (SERVER, 80)], "RFC 5382 REQ-1");
    // RFC 5382 REQ-4: an unsolicited SYN to a mapping is not answered by a reset.
    let stray = datagram(CLIENT, OUTSIDE, 6, 64, &tcp(2000, 1000, 2, b""));
    assert_eq!(pass(&site, WAN, &stray), Err("drop.policy".to_owned()));
}

#[test]
fn errors_about_hairpinned_packets_come_back() {
    // RFC 5508 REQ-7 b: the host that was reached by its external end has no such port.
    let site = site();
    send(&site, LAN, (HOST, 4000), (SERVER, 53)).unwrap();
    send(&site, LAN, (OTHER_HOST, 5000), (SERVER, 53)).unwrap();
    let sent = datagram(HOST, OUTSIDE, 17, 64, &udp(4000, 5000, b"hello"));
    let there = pass(&site, LAN, &sent).unwrap();
    assert_eq!(ends(&there), [(OUTSIDE, 4000), (OTHER_HOST, 5000)]);
    let error = datagram(OTHER_HOST, OUTSIDE, 1, 64, &icmp_error(3, 3, &there));
    let back = pass(&site, LAN, &error).unwrap();
    assert_eq!(back[12..16], OUTSIDE.octets(), "the peer that it knows");
    assert_eq!(back[16..20], HOST.octets());
    assert_eq!(ends(&back[28..]), [(HOST, 4000), (OUTSIDE, 5000)], "what it sent");
    let quoted = &back[28..];
    assert_eq!(sum(&quoted[..20]), 0xffff);
    assert_eq!(sum(&back[20..]), 0xffff, "the error's checksum");
}

#[test]
fn flows_of_all_kinds_go_on_when_routes_are_looked_up_again() {
    let mut site = site();
    pool(&mut site, Ipv4Addr::new(198, 51, 100, 64), 4);
    one_to_one(&mut site, SECOND, WEB_SERVER);
    let to_other = Forward { to: from_address(OTHER_HOST), ..to_web(HAIRPIN, WAN_ZONE) };
    forward(&mut site, 17, 8080, to_other);
    // Pool, 1:1, hairpin, forward.
    let flows = [
        (LAN, (HOST, 4000), (SERVER, 53)),
        (DMZ, (WEB_SERVER, 25), (SERVER, 25)),
        (LAN, (HOST, 4000), (OUTSIDE, 8080)),
        (WAN, (CLIENT, 999), (OUTSIDE, 8080)),
    ];
    let before = flows.map(|(interface, from, to)| send(&site, interface, from, to).unwrap());
    let count = site.flows4().len();
    for _ in 0..3 {
        site.config.generation += 1;
        for ((interface, from, to), before) in flows.iter().zip(&before) {
            assert_eq!(send(&site, *interface, *from, *to).as_ref(), Ok(before));
        }
    }
    assert_eq!(site.flows4().len(), count);
    // A masqueraded flow does not follow its route to another interface of the zone.
    let [masqueraded, _] = send(&site, DMZ, (OTHER_SERVER, 25), (SERVER, 25)).unwrap();
    assert_eq!(masqueraded.0, OUTSIDE);
    let other = portcullis_datapath_abi::Interface {
        index: 9,
        nat_address: from_address(Ipv4Addr::new(198, 51, 101, 2)),
        ..site.interfaces[&WAN]
    };
    site.interfaces.insert(9, other);
    site.default_route =
        site.default_route.map(|route| portcullis_datapath::Route { egress: 9, ..route });
    site.config.generation += 1;
    let moved = Err("drop.flow-moved".to_owned());
    assert_eq!(send(&site, DMZ, (OTHER_SERVER, 25), (SERVER, 25)), moved);
    let [masqueraded, _] = send(&site, DMZ, (OTHER_SERVER, 25), (SERVER, 25)).unwrap();
    assert_eq!(masqueraded.0, Ipv4Addr::new(198, 51, 101, 2), "a new flow with the new address");
    // What has an address of the zone goes on.
    assert_eq!(send(&site, LAN, (HOST, 4000), (SERVER, 53)).as_ref(), Ok(&before[0]));
}

const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 81);

#[test]
fn the_mss_of_both_directions_fits_both_links() {
    use portcullis_datapath_abi::nat::{MSS_BY_MTU, mss_flags};
    let mut site = site();
    site.zones.get_mut(&WAN_ZONE).unwrap().flags |= mss_flags(MSS_BY_MTU);
    site.default_route.as_mut().unwrap().mtu = 1492;
    site.mtus.insert(WAN, 1492);
    forward(&mut site, 6, 8080, to_web(HAIRPIN, WAN_ZONE));
    let syn = |source: u16, destination: u16, flags: u8, acknowledged: u32| {
        let mut header = tcp(source, destination, flags, &[]);
        header[8..12].copy_from_slice(&acknowledged.to_be_bytes());
        header[12] = 0x60;
        header.extend([2, 4, 5, 180]);
        header
    };
    let mss = |ip: &[u8]| {
        assert_eq!(sum(&pseudo(ip)), 0xffff, "checksum");
        u16::from_be_bytes([ip[42], ip[43]])
    };
    for (interface, from, to, back) in
        [(LAN, (HOST, 1000), (SERVER, 80), WAN), (WAN, (CLIENT, 1000), (OUTSIDE, 8080), DMZ)]
    {
        let there = datagram(from.0, to.0, 6, 64, &syn(from.1, to.1, 2, 0));
        let out = pass(&site, interface, &there).unwrap();
        assert_eq!(mss(&out), 1452, "SYN of {from:?}");
        let [source, reached] = ends(&out);
        let answer = datagram(reached.0, source.0, 6, 64, &syn(reached.1, source.1, 18, 2));
        assert_eq!(mss(&pass(&site, back, &answer).unwrap()), 1452, "answer to {from:?}");
    }
}

/// A TCP segment behind its pseudo-header.
fn pseudo(ip: &[u8]) -> Vec<u8> {
    let mut bytes = ip[12..20].to_vec();
    bytes.extend([0, 6]);
    bytes.extend((ip.len() as u16 - 20).to_be_bytes());
    bytes.extend(&ip[20..]);
    bytes
}
