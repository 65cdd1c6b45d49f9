//! Ways that are kept for the next first packet (`open/path.rs`), and first packets that leave without
//! starting over.

use std::net::Ipv4Addr;

use portcullis_datapath::{
    Hook, Stage, Verdict, create4, ingress, open4, rule, simulation::Simulation,
};
use portcullis_datapath_abi::policy::XDP_TRANSMIT;

use crate::{
    frames::{HOST, LAN, SERVER, WAN, arrival, datagram, ethernet, tcp, udp},
    site::*,
};

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

fn open(site: &Simulation, port: u16, server: Ipv4Addr) -> Result<[(Ipv4Addr, u16); 2], String> {
    send(site, LAN, (HOST, port), (server, 53))
}

#[test]
fn a_way_is_looked_up_once_in_a_generation() {
    let mut site = site();
    open(&site, 4000, SERVER).unwrap();
    // What the routing table says now is not asked, until something has changed.
    site.default_route = None;
    open(&site, 4001, SERVER).expect("the same way");
    assert_eq!(open(&site, 4002, ELSEWHERE), Err("NoRoute".to_owned()), "another destination");
    assert_eq!(
        send(&site, LAN, (OTHER_HOST, 4000), (SERVER, 53)),
        Err("NoRoute".to_owned()),
        "another source"
    );
    let by_tcp = datagram(HOST, SERVER, 6, 64, &tcp(4003, 53, 2, b""));
    assert_eq!(
        crate::frames::pass(&site, LAN, &by_tcp),
        Err("NoRoute".to_owned()),
        "another protocol: a rule of policy routing may be about it"
    );
    site.config.generation += 1;
    assert_eq!(open(&site, 4004, SERVER), Err("NoRoute".to_owned()), "another generation");
}

#[test]
fn a_way_by_another_type_of_service_is_another() {
    let mut site = site();
    open(&site, 4000, SERVER).unwrap();
    site.default_route = None;
    let mut packet = datagram(HOST, SERVER, 17, 64, &udp(4001, 53, b""));
    packet[1] = 0x10;
    let frame = ethernet(&packet);
    let verdict = site.arrive(&frame, &arrival(LAN, &frame));
    assert!(matches!(verdict, Verdict::Answer(_)), "{verdict:?}");
}

#[test]
fn what_is_not_resolved_is_looked_up_again() {
    let mut site = site();
    site.default_route.as_mut().unwrap().resolved = false;
    let first = datagram(HOST, SERVER, 17, 64, &udp(4000, 53, b""));
    let frame = ethernet(&first);
    assert!(
        matches!(site.arrive(&frame, &arrival(LAN, &frame)), Verdict::Forward(_, _, hop) if !hop.cached)
    );
    site.default_route = None;
    assert_eq!(open(&site, 4001, SERVER), Err("NoRoute".to_owned()));
}

#[test]
fn an_address_that_becomes_the_routers_or_a_hosts_inside_is_found_with_the_next_generation() {
    let mut site = site();
    open(&site, 4000, SERVER).unwrap();
    external(&mut site, SERVER, 0);
    site.addresses.insert(portcullis_datapath_abi::from_address(SERVER));
    site.config.generation += 1;
    assert_eq!(
        open(&site, 4001, SERVER),
        Err("router.service".to_owned()),
        "for the router itself"
    );
}

#[test]
fn translated_destinations_have_no_way_that_is_kept() {
    let mut site = site();
    let web = portcullis_datapath_abi::nat::Forward {
        to: portcullis_datapath_abi::from_address(WEB_SERVER),
        first_port: 8080,
        to_port: 80,
        zone: crate::frames::WAN_ZONE,
        flags: 0,
        reserved: 0,
    };
    forward(&mut site, 17, 8080, web);
    let outside = crate::frames::OUTSIDE;
    for port in [5000, 5001] {
        let [_, inside] = send(&site, WAN, (SERVER, port), (outside, 8080)).unwrap();
        assert_eq!(inside, (WEB_SERVER, 80));
    }
    assert_eq!(
        send(&site, WAN, (SERVER, 5002), (outside, 8081)),
        Err("drop.policy".to_owned()),
        "the port beside it is the router's"
    );
}

/// Goes on from stage to stage up to the creation of the flow.
fn created<'a>(site: &'a Simulation, packet: &[u8], hook: Hook) -> Verdict<'a> {
    let frame = ethernet(packet);
    let mut arrival = arrival(LAN, &frame);
    arrival.hook = hook;
    let first = ingress(site, &frame, &arrival);
    assert!(matches!(first, Verdict::Next(Stage::Open4 | Stage::Flow4)), "{first:?}");
    assert!(matches!(open4(site, &frame, &arrival), Verdict::Next(Stage::Rule)));
    assert!(matches!(rule(site, hook), Verdict::Next(Stage::Create4)));
    create4(site, hook)
}

#[test]
fn the_first_datagram_leaves_as_the_second_does_and_is_counted_once() {
    let site = site();
    let packet = datagram(HOST, SERVER, 17, 64, &udp(4000, 53, b"payload"));
    let first = created(&site, &packet, Hook::Tcx);
    assert!(matches!(first, Verdict::Forward(..)), "{first:?}");
    let mut out = ethernet(&packet);
    assert!(out.carry_out(&first));
    let again = ethernet(&packet);
    let second = ingress(&site, &again, &arrival(LAN, &again));
    let mut out_again = again.clone();
    assert!(out_again.carry_out(&second));
    assert_eq!(out, out_again);
    let Verdict::Forward(_, edit, _) = second else { panic!("{second:?}") };
    // SAFETY: the record lives as long as the tables.
    let record = unsafe { *edit.flow.record() };
    assert_eq!(record.packets, [2, 0]);
    assert_eq!(record.bytes, [2 * packet.len() as u64, 0]);
}

#[test]
fn what_is_not_a_whole_datagram_or_cannot_be_sent_here_starts_over() {
    let mut site = site();
    let first_fragment = {
        let mut packet = datagram(HOST, SERVER, 17, 64, &udp(4000, 53, &[0; 32]));
        packet[6] = 0x20;
        packet
    };
    let frame = ethernet(&first_fragment);
    assert!(matches!(open4(&site, &frame, &arrival(LAN, &frame)), Verdict::Next(Stage::Rule)));
    assert!(matches!(rule(&site, Hook::Tcx), Verdict::Next(Stage::Create4)));
    assert!(matches!(create4(&site, Hook::Tcx), Verdict::Next(Stage::Entry)), "a fragment");
    let syn = datagram(HOST, SERVER, 6, 64, &tcp(4001, 53, 2, b""));
    assert!(matches!(created(&site, &syn, Hook::Tcx), Verdict::Next(Stage::Flow4)), "a SYN");
    let from_xdp = datagram(HOST, SERVER, 17, 64, &udp(4002, 53, b""));
    site.interfaces.get_mut(&LAN).unwrap().mac = [0; 6];
    for (flags, leaves) in [(0, false), (XDP_TRANSMIT, true)] {
        site.interfaces.get_mut(&WAN).unwrap().flags = flags;
        site.config.generation += 1;
        let mut packet = from_xdp.clone();
        packet[21] = flags;
        let mut frame = ethernet(&packet);
        frame.0[..6].fill(0);
        let mut arrival = arrival(LAN, &frame);
        arrival.hook = Hook::Xdp;
        assert!(matches!(open4(&site, &frame, &arrival), Verdict::Next(Stage::Rule)));
        assert!(matches!(rule(&site, Hook::Tcx), Verdict::Next(Stage::Create4)));
        assert_eq!(matches!(create4(&site, Hook::Tcx), Verdict::Forward(..)), leaves, "{flags}");
    }
}
