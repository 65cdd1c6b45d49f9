//! Protection against DNS rebinding: a name of the outside that resolves to an address of the LAN
//! lets a web page in a browser here talk to devices here, past the same-origin rule.
//!
//! Refused are exactly the networks of this router, and the unspecified address, which hosts take
//! for themselves. Other private addresses pass: they belong to networks behind a tunnel or to the
//! provider, and 127.0.0.0/8 is how mail blocklists answer (RFC 5782).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{
    RData, Record,
    rdata::svcb::{SVCB, SvcParamValue},
};
use ipnet::Ipv4Net;

/// The first address in `answers` that no name of the outside may have.
pub fn find(answers: &[Record], networks: &[Ipv4Net]) -> Option<IpAddr> {
    answers.iter().flat_map(addresses).find(|address| is_ours(*address, networks))
}

fn addresses(record: &Record) -> Vec<IpAddr> {
    match &record.data {
        RData::A(address) => vec![address.0.into()],
        RData::AAAA(address) => vec![address.0.into()],
        RData::HTTPS(service) => hints(&service.0),
        RData::SVCB(service) => hints(service),
        _ => Vec::new(),
    }
}

/// Address hints (RFC 9460 section 7.3), which clients use as they use A and AAAA.
fn hints(service: &SVCB) -> Vec<IpAddr> {
    let parameters = service.svc_params.iter();
    parameters
        .flat_map(|(_, value)| match value {
            SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|a| IpAddr::V4(a.0)).collect(),
            SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|a| IpAddr::V6(a.0)).collect(),
            _ => Vec::new(),
        })
        .collect()
}

fn is_ours(address: IpAddr, networks: &[Ipv4Net]) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4 == Ipv4Addr::UNSPECIFIED || networks.iter().any(|network| network.contains(&v4))
        }
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some_and(|v4| is_ours(v4.into(), networks)),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{
        Name,
        rdata::{
            A, AAAA, HTTPS,
            svcb::{IpHint, SvcParamKey},
        },
    };

    use super::*;

    fn found(data: RData) -> bool {
        let record = Record::from_rdata(Name::root(), 60, data);
        find(&[record], &["192.168.77.1/24".parse().unwrap()]).is_some()
    }

    fn v4(text: &str) -> bool {
        found(RData::A(A(text.parse().unwrap())))
    }

    #[test]
    fn addresses_of_the_lan_are_refused_and_others_pass() {
        assert!(v4("192.168.77.1") && v4("192.168.77.200") && v4("0.0.0.0"));
        assert!(!v4("192.168.1.1") && !v4("10.1.2.3") && !v4("127.0.0.2") && !v4("9.9.9.9"));
        let v6 = |text: &str| found(RData::AAAA(AAAA(text.parse().unwrap())));
        assert!(v6("::ffff:192.168.77.5") && v6("::") && !v6("2001:db8::1"));
    }

    #[test]
    fn hints_are_addresses_too() {
        let hint = IpHint(vec![A("192.168.77.9".parse().unwrap())]);
        let parameters = vec![(SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint))];
        assert!(found(RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters)))));
    }
}
