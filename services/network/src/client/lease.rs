//! What a server grants, and how long it holds.

use std::{net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A point in time: since an epoch of the caller's that lies before any lease; never goes back.
pub type Time = Duration;

/// Lease time that means "for ever" (RFC 2131 section 3.3).
const INFINITE_S: u32 = u32::MAX;

/// Shortest lease that is accepted, seconds: a shorter one is a server gone wild, and would have
/// us ask without pause.
pub const SHORTEST_LEASE_S: u32 = 10;

/// The contents of a DHCPACK (or DHCPOFFER), checked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Grant {
    /// Address and prefix (option 1).
    pub address: Ipv4Net,
    /// The server (option 54).
    pub server: Ipv4Addr,
    /// Lease time (option 51), seconds.
    pub lease_s: u32,
    /// T1 (option 58), seconds: when to renew. Less than `rebinding_s`.
    pub renewal_s: u32,
    /// T2 (option 59), seconds: when to ask any server. Less than `lease_s`.
    pub rebinding_s: u32,
    /// Destinations and gateways from option 121 (RFC 3442), else from option 3; no gateway: on
    /// the link.
    pub routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
    /// DNS servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// Domain (option 15).
    pub domain: Option<String>,
    /// MTU (option 26), bytes, from 576.
    pub mtu: Option<u16>,
}

impl Grant {
    /// T1 and T2 as given if they make sense, else the defaults of RFC 2131 section 4.4.5.
    pub fn timers(lease_s: u32, renewal: Option<u32>, rebinding: Option<u32>) -> (u32, u32) {
        let rebinding =
            rebinding.filter(|t2| (2..lease_s).contains(t2)).unwrap_or(lease_s - lease_s / 8);
        let renewal = renewal
            .filter(|t1| (1..rebinding).contains(t1))
            .unwrap_or((lease_s / 2).min(rebinding / 2 + rebinding / 4));
        (renewal, rebinding)
    }

    /// Gateway of the default route.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let default = self.routes.iter().find(|(destination, _)| destination.prefix_len() == 0);
        default.and_then(|(_, gateway)| *gateway)
    }
}

/// A grant in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What was granted.
    pub grant: Grant,
    /// When the request that it answers was sent: the server counts from later on, so we never
    /// hold it for too long (RFC 2131 section 4.4.1).
    pub obtained: Time,
}

impl Lease {
    /// When the address must no longer be used.
    pub fn expires(&self) -> Option<Time> {
        self.after(self.grant.lease_s)
    }

    /// T1.
    pub fn renews(&self) -> Option<Time> {
        self.after(self.grant.renewal_s)
    }

    /// T2.
    pub fn rebinds(&self) -> Option<Time> {
        self.after(self.grant.rebinding_s)
    }

    /// Whether it has run out.
    pub fn expired(&self, now: Time) -> bool {
        self.expires().is_some_and(|end| end <= now)
    }

    fn after(&self, seconds: u32) -> Option<Time> {
        (self.grant.lease_s != INFINITE_S)
            .then(|| self.obtained + Duration::from_secs(seconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timers_are_ordered(lease in SHORTEST_LEASE_S.., t1: Option<u32>, t2: Option<u32>) {
            let (renewal, rebinding) = Grant::timers(lease, t1, t2);
            prop_assert!(0 < renewal && renewal < rebinding && rebinding < lease);
        }
    }

    #[test]
    fn timers_default_to_a_half_and_seven_eighths() {
        assert_eq!(Grant::timers(3600, None, None), (1800, 3150));
        assert_eq!(Grant::timers(3600, Some(5), Some(3599)), (5, 3599));
        assert_eq!(Grant::timers(3600, Some(3600), Some(9999)), (1800, 3150));
    }
}
