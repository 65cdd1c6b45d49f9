//! `org.portcullis.Web1`: the HTTPS service.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::interface::bus_interface;

/// The certificate in use.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, Type)]
pub struct CertificateStatus {
    /// SHA-256 of the certificate (DER), lower-case hexadecimal.
    pub sha256: String,
    /// End of validity (seconds since the epoch).
    pub not_after_unix_s: u64,
    /// Names and addresses that it is valid for.
    pub names: Vec<String>,
}

bus_interface! {
    /// The HTTPS service. `Changed`: the certificate changed.
    interface Web1("org.portcullis.Web1"), trait WebApi, proxy WebBus, control [apply] {
        /// Takes a new part (JSON of `portcullis_model::part::WebPart`).
        fn apply(part: String);
        /// The certificate in use.
        fn certificate() -> CertificateStatus;
    }
}
