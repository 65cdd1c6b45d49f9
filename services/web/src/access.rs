//! Who may connect: until login exists, the networks behind the router and nobody else. The
//! firewall says so, too; this is the second lock.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::Ipv4Net;

/// The networks that may connect; shared with whoever changes them.
#[derive(Clone, Debug, Default)]
pub struct Access {
    networks: Arc<RwLock<Vec<Ipv4Net>>>,
}

impl Access {
    /// Only these networks from now on.
    pub fn allow(&self, networks: Vec<Ipv4Net>) {
        *self.networks.write().unwrap_or_else(PoisonError::into_inner) = networks;
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
