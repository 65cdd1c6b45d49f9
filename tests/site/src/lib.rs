//! A site for tests of what a router does with packets, in network namespaces of its own: two hosts
//! inside, the router, the provider's router, and a server. Needs root, iproute2 and procps.
//!
//! ```text
//! host  ─┐                                   198.51.100.0/24          203.0.113.0/24
//!        ├─ lan (bridge) router (datapath) eth0 ─── access provider core ─── eth0 server
//! other ─┘  192.168.77.0/24                 2001:db8:1::/64            2001:db8:2::/64
//!           2001:db8:77::/64
//! ```
//!
//! [`Topology`] is that alone. With the feature `datapath`, `Site` has our programs on the router; the
//! firewall service is not in it, but what it does with a configuration is: `Site::reconcile`.

pub mod addresses;
#[cfg(feature = "datapath")]
mod pins;
#[cfg(feature = "datapath")]
mod site;
pub mod sockets;
mod topology;

use std::time::Duration;

pub use addresses::*;
#[cfg(feature = "datapath")]
pub use pins::Pins;
#[cfg(feature = "datapath")]
pub use site::{Plan, Site};
pub use topology::{Topology, wait_listening, wait_until};

/// For what must come, on a machine that may be busy.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// For what must not come.
pub const MOMENT: Duration = Duration::from_millis(500);
