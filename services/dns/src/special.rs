//! Zones that are never asked for outside: special-use domain names and private reverse zones.

use std::net::Ipv4Addr;

use hickory_proto::rr::{Name, RecordType};
use ipnet::Ipv4Net;

/// Zones that are answered as if there were nothing in them. Queries for them at the public servers are noise at best,
/// and tell the world what goes on inside at worst.
const EMPTY: &[&str] = &[
    "localhost",     // RFC 6761 section 6.3; the zone has the loopback addresses
    "invalid",       // RFC 6761 section 6.4
    "test",          // RFC 6761 section 6.2
    "onion",         // RFC 7686
    "local",         // RFC 6762 section 22.1: for multicast only
    "alt",           // RFC 9476
    "home.arpa",     // RFC 8375
    "resolver.arpa", // RFC 9462 section 8: the upstream must not speak for us
    // RFC 6303 sections 4.4 to 4.7: unspecified and loopback (with all of ::/32, in which nothing is
    // delegated: lookups in zones of 34 labels are slow), locally assigned, link-local,
    // documentation.
    "0.0.0.0.0.0.0.0.ip6.arpa",
    "d.f.ip6.arpa",
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    "8.b.d.0.1.0.0.2.ip6.arpa",
];

/// Networks whose reverse zones are answered here: RFC 6303 sections 4.1 to 4.3, RFC 7793.
const PRIVATE: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::BROADCAST, 32),
];

/// Apexes of these zones, and of the reverse zones of `networks`, the router's own, be they private
/// or not.
pub fn zones(networks: &[Ipv4Net]) -> impl Iterator<Item = Name> {
    let private = PRIVATE.iter().filter_map(|&(base, length)| Ipv4Net::new(base, length).ok());
    let reversed = private.chain(networks.iter().map(Ipv4Net::trunc)).collect();
    let reversed = Ipv4Net::aggregate(&reversed).into_iter().flat_map(|network| {
        // Reverse zones are cut at whole octets.
        let octets = network.prefix_len().div_ceil(8);
        let parts = network.subnets(octets * 8).into_iter().flatten();
        parts.map(move |part| Name::from(part.network()).trim_to(2 + usize::from(octets)))
    });
    EMPTY.iter().filter_map(|zone| Name::from_ascii(format!("{zone}.")).ok()).chain(reversed)
}

/// Whether the answer stands in the public parent of a special zone: that `home.arpa` is an
/// insecure delegation must be seen by clients that validate (RFC 8375 section 4).
pub fn is_public(name: &Name, query_type: RecordType) -> bool {
    query_type == RecordType::DS && name.to_ascii().eq_ignore_ascii_case("home.arpa.")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::zone::{LocalZones, Route, tests::part};

    /// Apex of the zone that `name` is answered from, if it is answered here.
    fn apex(text: &str) -> Option<String> {
        apex_for(text, RecordType::TXT)
    }

    fn apex_for(text: &str, query_type: RecordType) -> Option<String> {
        let mut part = part();
        part.networks.insert("dmz".parse().unwrap(), vec!["203.0.112.1/22".parse().unwrap()]);
        let zones = LocalZones::build(&part, &[], 1).unwrap();
        let client = IpAddr::from(Ipv4Addr::LOCALHOST);
        match zones.route(&Name::from_ascii(text).unwrap(), query_type, client) {
            Route::Local(reply) => Some(reply.authorities[0].name.to_ascii()),
            Route::Forward => None,
        }
    }

    #[test]
    fn special_use_names() {
        for (text, zone) in [
            ("LocalHost.", "localhost."),
            ("a.b.localhost.", "localhost."),
            ("Printer.LOCAL.", "local."),
            ("x.onion.", "onion."),
            ("nas.home.arpa.", "home.arpa."),
            ("_dns.resolver.arpa.", "resolver.arpa."),
            ("1.0.0.d.f.ip6.arpa.", "d.f.ip6.arpa."),
            (
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.",
                "0.0.0.0.0.0.0.0.ip6.arpa.",
            ),
        ] {
            assert_eq!(apex(text).as_deref(), Some(zone), "{text}");
        }
    }

    #[test]
    fn ordinary_names_are_not_special() {
        for text in [
            "example.com.",
            "mylocalhost.example.",
            "test.example.",
            "in-addr.arpa.",
            "ip6.arpa.",
            "ipv4only.arpa.",
        ] {
            assert_eq!(apex(text), None, "{text}");
        }
        // Of one label: nothing of ours is the answer, but they are not forwarded either.
        for text in ["com.", "mylocalhost.", "arpa."] {
            assert_eq!(apex(text).as_deref(), Some("."), "{text}");
            assert_eq!(apex_for(text, RecordType::NS), None, "{text}");
        }
        assert_eq!(apex("."), None);
    }

    #[test]
    fn home_arpa_is_seen_as_insecure_by_validators() {
        assert_eq!(apex_for("Home.Arpa.", RecordType::DS), None);
        assert_eq!(apex_for("a.home.arpa.", RecordType::DS).as_deref(), Some("home.arpa."));
    }

    #[test]
    fn private_reverse_zones_are_cut_where_rfc_6303_cuts_them() {
        for (text, zone) in [
            ("9.77.168.192.in-addr.arpa.", "168.192.in-addr.arpa."),
            ("9.9.9.10.in-addr.arpa.", "10.in-addr.arpa."),
            ("10.in-addr.arpa.", "10.in-addr.arpa."),
            ("1.0.20.172.in-addr.arpa.", "20.172.in-addr.arpa."),
            ("1.1.64.100.in-addr.arpa.", "64.100.in-addr.arpa."),
            ("1.1.127.100.in-addr.arpa.", "127.100.in-addr.arpa."),
            ("255.255.255.255.in-addr.arpa.", "255.255.255.255.in-addr.arpa."),
            // A network of ours that is not private.
            ("5.115.0.203.in-addr.arpa.", "115.0.203.in-addr.arpa."),
        ] {
            assert_eq!(apex(text).as_deref(), Some(zone), "{text}");
        }
        for text in [
            "1.0.32.172.in-addr.arpa.",
            "1.1.128.100.in-addr.arpa.",
            "172.in-addr.arpa.",
            "8.8.8.8.in-addr.arpa.",
            "010.in-addr.arpa.",
            "5.116.0.203.in-addr.arpa.",
        ] {
            assert_eq!(apex(text), None, "{text}");
        }
    }
}
