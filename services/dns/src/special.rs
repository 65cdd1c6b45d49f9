//! Names that are never asked for outside: special-use domain names and private reverse zones.

use std::net::Ipv4Addr;

use hickory_proto::rr::{Name, RecordType};
use ipnet::Ipv4Net;

/// What a special name is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Special {
    /// `localhost` and below: the loopback addresses (RFC 6761 section 6.3).
    Localhost(Name),
    /// In a zone that is served here empty: the apex is given.
    Empty(Name),
    /// In a private reverse zone, with what the name says of an address.
    Reverse(ReverseName),
}

/// A name below `in-addr.arpa` that lies in a zone of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReverseName {
    /// Apex of the zone.
    pub apex: Name,
    /// The network that the name stands for: a /32 for the name of an address, a shorter prefix
    /// for the names above.
    pub network: Ipv4Net,
    /// Whether labels stand below that network's name, so that no address can have this name.
    pub below: bool,
}

/// Zones that are answered as if empty. Queries for them at the public servers are noise at best,
/// and tell the world what goes on inside at worst.
const EMPTY: &[&str] = &[
    "invalid",       // RFC 6761 section 6.4
    "test",          // RFC 6761 section 6.2
    "onion",         // RFC 7686
    "local",         // RFC 6762 section 22.1: for multicast only
    "alt",           // RFC 9476
    "home.arpa",     // RFC 8375
    "resolver.arpa", // RFC 9462 section 8: the upstream must not speak for us
    // RFC 6303 sections 4.4 to 4.7: unspecified, loopback, locally assigned, link-local,
    // documentation.
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
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

/// Finds out whether `name` is special. `networks` are the router's own: their reverse zones live
/// here too, be they private or not.
pub fn special(name: &Name, query_type: RecordType, networks: &[Ipv4Net]) -> Option<Special> {
    let labels: Vec<String> =
        name.iter().rev().map(|label| String::from_utf8_lossy(label).to_lowercase()).collect();
    if labels.first().is_some_and(|top| top == "localhost") {
        return Some(Special::Localhost(ancestor(name, 1)));
    }
    if let Some(zone) = EMPTY.iter().find(|zone| is_below(&labels, zone)) {
        let apex = ancestor(name, zone.split('.').count());
        // RFC 8375 section 4: that home.arpa is an insecure delegation must be seen by clients
        // that validate.
        let proof = *zone == "home.arpa" && query_type == RecordType::DS && apex == *name;
        return (!proof).then_some(Special::Empty(apex));
    }
    reverse(name, &labels, networks).map(Special::Reverse)
}

fn reverse(name: &Name, labels: &[String], networks: &[Ipv4Net]) -> Option<ReverseName> {
    let [arpa, in_addr, rest @ ..] = labels else { return None };
    if arpa != "arpa" || in_addr != "in-addr" {
        return None;
    }
    let given: Vec<u8> = rest.iter().map_while(|label| octet(label)).take(4).collect();
    let length = u8::try_from(given.len() * 8).ok()?;
    let mut octets = [0; 4];
    octets.iter_mut().zip(&given).for_each(|(to, from)| *to = *from);
    let network = Ipv4Net::new(octets.into(), length).ok()?;
    let private = PRIVATE.iter().filter_map(|&(base, length)| Ipv4Net::new(base, length).ok());
    // Zones are cut at whole octets: the first that `network` lies in.
    let cut = private
        .chain(networks.iter().map(Ipv4Net::trunc))
        .filter(|zone| zone.contains(&network))
        .map(|zone| usize::from(zone.prefix_len().div_ceil(8)))
        .filter(|octets| *octets <= given.len())
        .min()?;
    Some(ReverseName { apex: ancestor(name, 2 + cut), network, below: rest.len() > given.len() })
}

/// A decimal octet as RFC 1035 section 3.5 writes it, without leading zeros.
fn octet(label: &str) -> Option<u8> {
    let value: u8 = label.parse().ok()?;
    (value.to_string() == label).then_some(value)
}

/// Whether the name with these labels (top first) is `zone` or below it.
fn is_below(labels: &[String], zone: &str) -> bool {
    let mut labels = labels.iter();
    zone.rsplit('.').all(|wanted| labels.next().is_some_and(|label| label == wanted))
}

/// The ancestor of `name` with `count` labels.
fn ancestor(name: &Name, count: usize) -> Name {
    let skip = name.iter().len().saturating_sub(count);
    Name::from_labels(name.iter().skip(skip)).unwrap_or_else(|_| Name::root())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn of(text: &str) -> Option<Special> {
        special(&name(text), RecordType::A, &["203.0.112.0/22".parse().unwrap()])
    }

    fn empty(apex: &str) -> Option<Special> {
        Some(Special::Empty(name(apex)))
    }

    fn apex_of_reverse(text: &str) -> Option<String> {
        match of(text) {
            Some(Special::Reverse(reverse)) => Some(reverse.apex.to_ascii()),
            _ => None,
        }
    }

    #[test]
    fn special_use_names() {
        assert_eq!(of("LocalHost."), Some(Special::Localhost(name("localhost."))));
        assert_eq!(of("a.b.localhost."), Some(Special::Localhost(name("localhost."))));
        assert_eq!(of("Printer.LOCAL."), empty("local."));
        assert_eq!(of("x.onion."), empty("onion."));
        assert_eq!(of("nas.home.arpa."), empty("home.arpa."));
        assert_eq!(of("_dns.resolver.arpa."), empty("resolver.arpa."));
        assert_eq!(of("1.0.0.d.f.ip6.arpa."), empty("d.f.ip6.arpa."));
    }

    #[test]
    fn ordinary_names_are_not_special() {
        for text in [
            ".",
            "com.",
            "example.com.",
            "mylocalhost.",
            "test.example.",
            "arpa.",
            "in-addr.arpa.",
            "ip6.arpa.",
            "ipv4only.arpa.",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn home_arpa_is_seen_as_insecure_by_validators() {
        assert_eq!(special(&name("home.arpa."), RecordType::DS, &[]), None);
        assert!(special(&name("a.home.arpa."), RecordType::DS, &[]).is_some());
    }

    #[test]
    fn private_reverse_zones_are_cut_where_rfc_6303_cuts_them() {
        let apex = |text| apex_of_reverse(text);
        assert_eq!(apex("1.77.168.192.in-addr.arpa."), Some("168.192.in-addr.arpa.".into()));
        assert_eq!(apex("9.9.9.10.in-addr.arpa."), Some("10.in-addr.arpa.".into()));
        assert_eq!(apex("10.in-addr.arpa."), Some("10.in-addr.arpa.".into()));
        assert_eq!(apex("1.0.20.172.in-addr.arpa."), Some("20.172.in-addr.arpa.".into()));
        assert_eq!(apex("1.0.32.172.in-addr.arpa."), None);
        assert_eq!(apex("172.in-addr.arpa."), None);
        assert_eq!(apex("1.1.64.100.in-addr.arpa."), Some("64.100.in-addr.arpa.".into()));
        assert_eq!(apex("8.8.8.8.in-addr.arpa."), None);
        assert_eq!(apex("010.in-addr.arpa."), None);
        // A network of ours that is not private.
        assert_eq!(apex("5.115.0.203.in-addr.arpa."), Some("115.0.203.in-addr.arpa.".into()));
    }

    #[test]
    fn names_around_an_address() {
        let Some(Special::Reverse(host)) = of("1.77.168.192.in-addr.arpa.") else { panic!() };
        assert_eq!(host.network, "192.168.77.1/32".parse().unwrap());
        assert!(!host.below);
        let Some(Special::Reverse(service)) = of("b._dns-sd._udp.0.77.168.192.in-addr.arpa.")
        else {
            panic!()
        };
        assert!(service.below);
    }
}
