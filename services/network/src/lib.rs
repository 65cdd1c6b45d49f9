//! The network service: links, bridges, addresses, routes and kernel parameters as configured,
//! and the DHCP client of the WAN.
//!
//! ```text
//! config's part --.
//! NICs (netlink) --+-> wanted::target -> kernel::plan -> kernel::netlink (apply)
//! DHCP leases ----'         ^                                   |
//!                           '---- kernel's change messages -----'
//! ```
//!
//! [`ports`], [`wanted`], [`kernel::plan`], [`status`] and [`client::machine`] are pure;
//! [`service`] is the loop around them.

pub mod api;
pub mod check;
pub mod client;
pub mod kernel;
pub mod ports;
pub mod service;
pub mod status;
pub mod wanted;

use std::{process::ExitCode, sync::Arc};

use portcullis_bus::network::Network1;
use portcullis_model::part::NetworkPart;

/// Development switch: software devices (veth) count as physical ports for `first` and `others`.
const ALL_PORTS_VARIABLE: &str = "PORTCULLIS_NETWORK_ALL_PORTS";

/// Runs the service.
pub fn main() -> ExitCode {
    portcullis_runtime::run("network", |mut service| async move {
        let (api, requests) = api::Api::new();
        let notifier = service.serve_bus(Network1(Arc::new(api)))?;
        let part: NetworkPart = portcullis_runtime::fetch_part("network").await?;
        check::check(&part)?;
        let folder = portcullis_runtime::state_dir("network")?;
        let all_ports = std::env::var_os(ALL_PORTS_VARIABLE).is_some_and(|value| value == "1");
        let mut network = service::Network::open(part, folder, all_ports)?;
        network.reconcile().await;
        // The WAN's lease may take long or never come; the LAN does not wait for it.
        service.ready("interfaces are up");
        tokio::select! {
            error = network.run(requests, notifier) => Err(error.into()),
            () = service.shutdown() => Ok(()),
        }
    })
}
