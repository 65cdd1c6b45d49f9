//! Protection against DNS rebinding: a name of the outside that resolves to an address of the LAN
//! lets a web page in a browser here talk to devices here, past the same-origin rule.
//!
//! Refused are the private networks behind this router, whether they may ask it for names or not,
//! and the unspecified address, which hosts take for themselves. Public addresses pass, since that is
//! where the names of one's own servers point, and other private ones: they belong to networks behind
//! a tunnel or to the provider, and 127.0.0.0/8 is how mail blocklists answer (RFC 5782).

use std::net::IpAddr;

use hickory_proto::rr::{
    RData, Record,
    rdata::svcb::{SVCB, SvcParamValue},
};
use ipnet::IpNet;
use portcullis_model::part::DnsPart;

/// The networks that no name of the outside may point into.
pub fn guarded(part: &DnsPart) -> Vec<IpNet> {
    let served = part.networks.values().flatten().copied().map(IpNet::V4);
    served.chain(part.inside.iter().copied()).filter(|network| is_private(network.addr())).collect()
}

/// RFC 1918, 6598, 3927 and 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// The first address in `answers` that no name of the outside may have.
pub fn find(answers: &[Record], networks: &[IpNet]) -> Option<IpAddr> {
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

fn is_ours(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    address.is_unspecified() || networks.iter().any(|network| network.contains(&address))
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
    use crate::zone::tests::part;

    fn found(data: RData) -> bool {
        let record = Record::from_rdata(Name::root(), 60, data);
        let networks = ["192.168.77.1/24", "fd00:77::1/64"].map(|network| network.parse().unwrap());
        find(&[record], &networks).is_some()
    }

    fn v4(text: &str) -> bool {
        found(RData::A(A(text.parse().unwrap())))
    }

    #[test]
    fn addresses_of_the_lan_are_refused_and_others_pass() {
        assert!(v4("192.168.77.1") && v4("192.168.77.200") && v4("0.0.0.0"));
        assert!(!v4("192.168.1.1") && !v4("10.1.2.3") && !v4("127.0.0.2") && !v4("9.9.9.9"));
        let v6 = |text: &str| found(RData::AAAA(AAAA(text.parse().unwrap())));
        assert!(v6("::ffff:192.168.77.5") && v6("::") && v6("fd00:77::5"));
        assert!(!v6("2001:db8::1") && !v6("fd00:78::5"));
    }

    #[test]
    fn what_is_guarded_is_behind_the_router_and_private() {
        let part = DnsPart {
            inside: ["192.168.77.1/24", "10.9.0.1/24", "100.64.7.1/24", "203.0.113.1/28"]
                .into_iter()
                .chain(["fd00:77::1/64", "2001:db8:77::1/64"])
                .map(|network| network.parse().unwrap())
                .collect(),
            ..part()
        };
        let is_guarded = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            guarded(&part).iter().any(|network| network.contains(&address))
        };
        for inside in ["192.168.77.9", "192.168.78.9", "10.9.0.9", "100.64.7.9", "fd00:77::9"] {
            assert!(is_guarded(inside), "{inside}");
        }
        // The names of servers that have public addresses must be of use here, too.
        for public in ["203.0.113.9", "2001:db8:77::9"] {
            assert!(!is_guarded(public), "{public}");
        }
    }

    #[test]
    fn hints_are_addresses_too() {
        let hint = IpHint(vec![A("192.168.77.9".parse().unwrap())]);
        let parameters = vec![(SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint))];
        assert!(found(RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters)))));
    }
}
