//! What keeps a mapping, and what of a packet is not translated (RFC 7857 sections 7 and 10).

use std::net::Ipv4Addr;

use portcullis_datapath::{nat::NatTables, simulation::Simulation};
use portcullis_datapath_abi::{
    flow::ENDPOINT_INDEPENDENT_FILTER,
    from_address,
    guard::{BLOCKED, BLOCKLIST, Guard},
};

use crate::{
    frames::{HOST, LAN, OUTSIDE, SERVER, WAN, datagram, pass, udp},
    site::*,
};

const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

/// What ages: users and idle time of the mapping, and the flows with their last packet.
fn age(site: &Simulation) -> (Vec<(u32, u32)>, Vec<u32>) {
    let mappings = site.nat.mappings();
    let mappings = mappings.values().map(|mapping| (mapping.references, mapping.idle_since));
    (mappings.collect(), site.flows.live().values().map(|flow| flow.last_seen).collect())
}

/// RFC 7857 section 7: with an open filter, what comes from outside and is refused, refreshes nothing,
/// so nobody can keep a mapping alive by knocking at it. What is let in makes a flow, which does.
#[test]
fn what_is_refused_does_not_refresh_an_open_mapping() {
    let mut site = site();
    send(&site, LAN, (HOST, 4000), (SERVER, 53)).unwrap();
    let mapping = site.mapping(0).unwrap();
    // SAFETY: the mapping lives as long as the tables and nobody else uses it now.
    unsafe { (*mapping.as_ptr()).flags = ENDPOINT_INDEPENDENT_FILTER };
    site.guard.settings = Some(Guard { flags: BLOCKLIST, ..Guard::default() });
    let [a, b, c, _] = portcullis_datapath::mapped(0);
    site.guard.prefixes.insert([a, b, c, from_address(STRANGER)], BLOCKED);
    let before = age(&site);
    site.now.set(site.now.get() + 100);
    let knock = send(&site, WAN, (STRANGER, 9), (OUTSIDE, 4000));
    assert_eq!(knock, Err("drop.blocklist".to_owned()));
    // A packet whose life ends here is not let in either.
    let last = datagram(Ipv4Addr::new(203, 0, 113, 78), OUTSIDE, 17, 1, &udp(9, 4000, b"x"));
    assert_eq!(pass(&site, WAN, &last), Err("TimeExceeded".to_owned()));
    assert_eq!(age(&site), before);
    // Nor does a stranger where the filter is closed.
    // SAFETY: as above.
    unsafe { (*mapping.as_ptr()).flags = 0 };
    let knock = send(&site, WAN, (Ipv4Addr::new(203, 0, 113, 78), 9), (OUTSIDE, 4000));
    assert_eq!(knock, Err("drop.policy".to_owned()));
    assert_eq!(age(&site), before);
    // Who was written to does, and so does the host.
    send(&site, WAN, (SERVER, 53), (OUTSIDE, 4000)).unwrap();
    assert_ne!(age(&site), before);
}

/// RFC 7857 section 10, RFC 6864 section 5.3.1: not met. The identification is what its sender wrote,
/// of fragments too, so two hosts may send to the same server with the same one.
#[test]
fn the_identification_is_passed_on() {
    let site = site();
    for (host, port) in [(HOST, 4000), (OTHER_HOST, 4001)] {
        for word in [0x0000_u16, 0x2000, 0x4000] {
            let mut ip = datagram(host, SERVER, 17, 64, &udp(port, 53, b"12345678"));
            let change = u16::from_be_bytes([ip[6], ip[7]]);
            ip[6..8].copy_from_slice(&word.to_be_bytes());
            let checksum = u16::from_be_bytes([ip[10], ip[11]]);
            // RFC 1624 equation 3.
            let sum = u32::from(!checksum) + u32::from(!change) + u32::from(word);
            let sum = (sum & 0xffff) + (sum >> 16);
            ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
            if word == 0x2000 {
                // Fragments have no transport checksum that could be held against them.
                let frame = crate::frames::ethernet(&ip);
                let mut out = frame.clone();
                let verdict = site.arrive(&frame, &crate::frames::arrival(LAN, &frame));
                assert!(out.carry_out(&verdict), "{verdict:?}");
                assert_eq!(out.0[18..20], [0x12, 0x34]);
                continue;
            }
            assert_eq!(pass(&site, LAN, &ip).unwrap()[4..6], [0x12, 0x34]);
        }
    }
}
