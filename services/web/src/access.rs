//! Who may connect: until login exists, the networks behind the router and nobody else. The
//! firewall says so, too; this is the second lock.
//!
//! And what the router may be called: a page in the internet whose name suddenly leads to an address
//! in here (DNS rebinding) is read by the browser as that page's own. The certificate is not for such
//! a name; this is the second lock here.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use axum::http::uri::Authority;
use ipnet::Ipv4Net;

/// The networks that may connect, and the router's names; shared with whoever changes them.
#[derive(Clone, Debug, Default)]
pub struct Access {
    networks: Arc<RwLock<Vec<Ipv4Net>>>,
    names: Arc<RwLock<Vec<String>>>,
}

impl Access {
    /// Only these networks from now on.
    pub fn allow(&self, networks: Vec<Ipv4Net>) {
        *self.networks.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    /// Only these names from now on, beside addresses and `localhost`.
    pub fn name(&self, names: Vec<String>) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The router's names.
    pub fn names(&self) -> Vec<String> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a request may be meant for `authority`, as in a Host field (RFC 9110 section 7.2). An
    /// address may be any, as who forwards a port here has another one than the router.
    pub fn is_called(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.parse::<IpAddr>().is_ok() {
            return true;
        }
        // The root's dot may be written.
        let host = host.strip_suffix('.').unwrap_or(host);
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        host.eq_ignore_ascii_case("localhost")
            || names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Whether `peer` may connect. The router itself (loopback) always may.
    pub fn allows(&self, peer: IpAddr) -> bool {
        match peer.to_canonical() {
            peer if peer.is_loopback() => true,
            IpAddr::V4(peer) => {
                let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
                networks.iter().any(|network| network.contains(&peer))
            }
            IpAddr::V6(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_by_its_names_and_by_address() {
        let access = Access::default();
        access.name(vec!["portcullis.lan".to_owned(), "portcullis".to_owned()]);
        for authority in [
            "portcullis.lan",
            "Portcullis.LAN:443",
            "portcullis.lan.",
            "portcullis",
            "192.168.77.1",
            "127.0.0.1:8443",
            "[::1]:8443",
            "localhost:8443",
        ] {
            assert!(access.is_called(authority), "{authority}");
        }
        for authority in [
            "rebound.example",
            "portcullis.lan.example",
            "192.168.77.1.example",
            "example:443",
            "",
            "portcullis.lan, rebound.example",
        ] {
            assert!(!access.is_called(authority), "{authority}");
        }
        access.name(vec!["gate.lan".to_owned()]);
        assert!(!access.is_called("portcullis.lan"), "a new part replaces the old names");
    }

    #[test]
    fn only_the_networks_and_the_router_itself() {
        let access = Access::default();
        let allows = |text: &str| access.allows(text.parse().unwrap());
        assert!(!allows("192.168.77.5"));
        access.allow(vec!["192.168.77.0/24".parse().unwrap()]);
        assert!(allows("192.168.77.5"));
        assert!(allows("::ffff:192.168.77.5"), "an IPv4 peer of an IPv6 socket");
        assert!(allows("127.0.0.1"));
        assert!(allows("::1"));
        assert!(!allows("192.168.78.5"));
        assert!(!allows("203.0.113.9"));
        assert!(!allows("fe80::1"));
        access.allow(vec!["10.0.0.0/8".parse().unwrap()]);
        assert!(!allows("192.168.77.5"), "a new part replaces the old networks");
    }
}
