#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dhcproto::v4::UnknownOption;

use super::*;
use crate::client::test_server::{ADDRESS, MAC, SERVER, answer, decode, encode};

const XID: u32 = 0x1234_5678;

fn request(kind: MessageType, hostname: &HostName) -> Request<'_> {
    Request {
        kind,
        xid: XID,
        secs: 7,
        broadcast: false,
        address: None,
        requested: None,
        server: None,
        mac: MAC,
        hostname,
    }
}

fn hostname() -> HostName {
    "gate".parse().unwrap()
}

/// An ACK, changed by `change`, as the client reads it.
fn ack(change: impl FnOnce(&mut Message)) -> Option<Grant> {
    let name = hostname();
    let mut reply =
        answer(&decode(&request(MessageType::Request, &name).encode()), MessageType::Ack);
    change(&mut reply);
    match parse(&encode(&reply), XID, MAC)? {
        Reply::Ack(grant) => Some(grant),
        other => panic!("{other:?}"),
    }
}

fn raw(code: u8, data: &[u8]) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(code.into(), data.to_vec()))
}

#[test]
fn a_discover_on_the_wire() {
    let name = hostname();
    let bytes = request(MessageType::Discover, &name).encode();
    let mut expected = vec![1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78, 0, 7, 0, 0];
    expected.extend([0; 16]);
    expected.extend(MAC.0);
    expected.resize(236, 0);
    expected.extend([99, 130, 83, 99]);
    expected.extend([12, 4, b'g', b'a', b't', b'e']);
    expected.extend([53, 1, 1]);
    expected.extend([55, 10, 1, 121, 3, 6, 15, 26, 42, 51, 58, 59]);
    expected.extend([57, 2, 0x05, 0xc0]);
    expected.extend([61, 7, 1, 0x52, 0x54, 0, 0, 0, 1]);
    expected.push(255);
    expected.resize(300, 0);
    assert_eq!(bytes, expected);
}

#[test]
fn an_ack_gives_address_times_and_parameters() {
    let grant = ack(|reply| {
        let options = reply.opts_mut();
        options.insert(DhcpOption::Renewal(5));
        options.insert(DhcpOption::Rebinding(9));
        options.insert(DhcpOption::DomainNameServer(vec![
            Ipv4Addr::new(9, 9, 9, 9),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::new(127, 0, 0, 1),
        ]));
        options.insert(DhcpOption::NtpServers(vec![SERVER]));
        options.insert(DhcpOption::DomainName("Example.NET.".into()));
        options.insert(DhcpOption::InterfaceMtu(1400));
    });
    let expected = Grant {
        address: Ipv4Net::new(ADDRESS, 24).unwrap(),
        server: SERVER,
        lease_s: 3600,
        renewal_s: 5,
        rebinding_s: 9,
        routes: vec![(Ipv4Net::default(), Some(SERVER))],
        dns: vec![Ipv4Addr::new(9, 9, 9, 9)],
        ntp: vec![SERVER],
        domain: Some("example.net".into()),
        mtu: Some(1400),
    };
    assert_eq!(grant, Some(expected));
}

#[test]
fn classless_routes_override_the_router() {
    let routes =
        |data: &[u8]| ack(|reply| drop(reply.opts_mut().insert(raw(121, data)))).unwrap().routes;
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    // RFC 3442's forms: default, a /24, a /32 host, on the link.
    assert_eq!(
        routes(&[
            0, 10, 9, 0, 2, 24, 192, 168, 5, 10, 9, 0, 3, 32, 10, 1, 2, 3, 10, 9, 0, 4, 16, 172,
            20, 0, 0, 0, 0,
        ]),
        [
            (net("0.0.0.0/0"), Some(Ipv4Addr::new(10, 9, 0, 2))),
            (net("10.1.2.3/32"), Some(Ipv4Addr::new(10, 9, 0, 4))),
            (net("172.20.0.0/16"), None),
            (net("192.168.5.0/24"), Some(Ipv4Addr::new(10, 9, 0, 3))),
        ]
    );
    // No default among them: there is none, whatever option 3 says.
    assert_eq!(
        routes(&[8, 10, 10, 9, 0, 2]),
        [(net("10.0.0.0/8"), Some(Ipv4Addr::new(10, 9, 0, 2)))]
    );
    // Bits beyond the prefix, ways to loopback and multicast, a gateway that is ourselves.
    assert_eq!(
        routes(&[
            9, 10, 0xff, 10, 9, 0, 2, 8, 127, 10, 9, 0, 2, 4, 224, 10, 9, 0, 2, 24, 1, 2, 3, 10, 9,
            0, 100,
        ]),
        [(net("10.128.0.0/9"), Some(Ipv4Addr::new(10, 9, 0, 2)))]
    );
    // Malformed: option 3 is all there is.
    assert_eq!(routes(&[33, 1, 2, 3, 4, 5]), [(net("0.0.0.0/0"), Some(SERVER))]);
}

#[test]
fn one_malformed_option_spoils_only_itself() {
    for (code, data) in [
        (15, &b"\xff\xfe"[..]),
        (15, b"two words"),
        (15, b"-..-"),
        (26, &[1]),
        (26, &[0, 68]),
        (6, &[1, 2, 3]),
        (42, &[1]),
        (58, &[0, 0]),
        (119, &[63]),
        (81, &[]),
        (151, &[]),
        (80, &[1]),
    ] {
        let grant = ack(|reply| drop(reply.opts_mut().insert(raw(code, data))));
        let grant = grant.unwrap_or_else(|| panic!("option {code} {data:?}"));
        assert_eq!((grant.domain, grant.mtu, grant.ntp), (None, None, Vec::new()), "option {code}");
        assert_eq!(grant.address.addr(), ADDRESS);
    }
}

#[test]
fn an_address_that_no_host_can_have_is_refused() {
    for address in
        ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.9.0.0", "10.9.0.255"]
    {
        let address: Ipv4Addr = address.parse().unwrap();
        let grant = ack(|reply| {
            reply.set_yiaddr(address);
        });
        assert_eq!(grant, None, "{address}");
    }
    assert_eq!(ack(|r| drop(r.opts_mut().insert(raw(1, &[255, 0, 255, 0])))), None, "mask");
    assert_eq!(ack(|r| drop(r.opts_mut().insert(raw(1, &[255, 255])))), None, "mask too short");
    assert_eq!(ack(|r| drop(r.opts_mut().insert(DhcpOption::AddressLeaseTime(9)))), None);
    assert_eq!(ack(|r| drop(r.opts_mut().remove(OptionCode::AddressLeaseTime))), None);
    assert_eq!(ack(|r| drop(r.opts_mut().remove(OptionCode::ServerIdentifier))), None);
}

#[test]
fn a_missing_mask_is_that_of_the_class() {
    let grant = ack(|reply| drop(reply.opts_mut().remove(OptionCode::SubnetMask)));
    assert_eq!(grant.unwrap().address.prefix_len(), 8);
}

#[test]
fn a_host_route_lease_is_taken() {
    let mask = Ipv4Addr::BROADCAST;
    let grant = ack(|reply| drop(reply.opts_mut().insert(DhcpOption::SubnetMask(mask))));
    assert_eq!(grant.unwrap().address.to_string(), "10.9.0.100/32");
}

#[test]
fn only_answers_to_us_are_read() {
    let name = hostname();
    let reply = answer(&decode(&request(MessageType::Request, &name).encode()), MessageType::Ack);
    let good = encode(&reply);
    assert!(parse(&good, XID, MAC).is_some());
    assert_eq!(parse(&good, XID + 1, MAC), None);
    assert_eq!(parse(&good, XID, MacAddress([9; 6])), None);
    // op, htype, hlen (also beyond the field), magic.
    for (at, value) in [(0, 1), (1, 6), (2, 0), (2, 16), (2, 17), (2, 255), (236, 0)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(parse(&bad, XID, MAC), None, "byte {at} = {value}");
    }
    for length in 0..good.len() {
        // Cut anywhere: never a panic, and no lease without its options.
        let _ = parse(&good[..length], XID, MAC);
    }
}

#[test]
fn options_in_file_and_sname_are_read() {
    let name = hostname();
    let reply = answer(&decode(&request(MessageType::Request, &name).encode()), MessageType::Ack);
    let mut bytes = encode(&reply);
    bytes[44..44 + 5].copy_from_slice(&[26, 2, 0x05, 0x78, 255]);
    bytes[108..108 + 4].copy_from_slice(&[15, 1, b'x', 255]);
    let end = bytes.iter().rposition(|&byte| byte == 255).unwrap();
    bytes.truncate(end);
    bytes.extend([52, 1, 3, 255]);
    let Some(Reply::Ack(grant)) = parse(&bytes, XID, MAC) else { panic!() };
    assert_eq!((grant.mtu, grant.domain.as_deref()), (Some(1400), Some("x")));
}

#[test]
fn a_long_option_in_pieces_is_joined() {
    let name = hostname();
    let reply = answer(&decode(&request(MessageType::Request, &name).encode()), MessageType::Ack);
    let mut bytes = encode(&reply);
    let end = bytes.iter().rposition(|&byte| byte == 255).unwrap();
    bytes.truncate(end);
    // Split inside a gateway, with another option between (RFC 3396).
    bytes.extend([121, 3, 0, 10, 9, 26, 2, 0x05, 0x78, 121, 2, 0, 7, 255]);
    let Some(Reply::Ack(grant)) = parse(&bytes, XID, MAC) else { panic!() };
    assert_eq!(grant.routes, [(Ipv4Net::default(), Some(Ipv4Addr::new(10, 9, 0, 7)))]);
    assert_eq!(grant.mtu, Some(1400));
}

#[test]
fn a_refusal_carries_its_words_without_control_characters() {
    let name = hostname();
    let mut reply =
        answer(&decode(&request(MessageType::Request, &name).encode()), MessageType::Nak);
    reply.opts_mut().insert(DhcpOption::Message("wrong\n\x1b[31mnetwork".into()));
    assert_eq!(
        parse(&encode(&reply), XID, MAC),
        Some(Reply::Nak { server: SERVER, text: "wrong[31mnetwork".into() })
    );
}
