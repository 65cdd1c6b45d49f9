//! `org.portcullis.Dhcp1`: the DHCP server.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::interface::bus_interface;

/// A lease given to a client.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct Lease {
    /// Interface (configuration name) that it was given on.
    pub interface: String,
    /// Leased address.
    pub address: String,
    /// Hardware address of the client, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Name that the client goes by in the local domain (a valid DNS label), if any.
    pub hostname: Option<String>,
    /// `bound`, `expired`, `released`, `declined`.
    pub state: String,
    /// End of the lease (seconds since the epoch).
    pub expires_unix_s: u64,
    /// Whether a reservation fixes this address.
    pub reserved: bool,
}

bus_interface! {
    /// Leases. `Changed`: a lease was given, renamed, released or expired.
    interface Dhcp1("org.portcullis.Dhcp1"), trait DhcpApi, proxy DhcpBus, control [apply] {
        /// Takes a new part (JSON of `portcullis_model::part::DhcpPart`); leases stay.
        fn apply(part: String);
        /// All leases, by address.
        fn leases() -> Vec<Lease>;
    }
}
