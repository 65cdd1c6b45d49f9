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

use portcullis_bus::{firewall::FirewallBusProxy, network::Network1};
use portcullis_model::part::NetworkPart;
use tokio::sync::watch;

use wanted::Guard;

/// Development switch: software devices (veth) count as physical ports for `first` and `others`.
const ALL_PORTS_VARIABLE: &str = "PORTCULLIS_NETWORK_ALL_PORTS";

/// Development switch: links are brought up without waiting for a firewall.
const UNGUARDED_VARIABLE: &str = "PORTCULLIS_NETWORK_UNGUARDED";

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

/// Keeps up with which devices are behind the firewall. What it said last holds while it is away, as
/// its filters do.
fn follow_firewall() -> watch::Receiver<Guard> {
    if is_set(UNGUARDED_VARIABLE) {
        return watch::Sender::new(Guard::Off).subscribe();
    }
    let (sender, receiver) = watch::channel(Guard::Unknown);
    tokio::spawn(portcullis_bus::follow::<FirewallBusProxy<'_>, _, _>("firewall", move |peer| {
        let sender = sender.clone();
        async move {
            let indices = FirewallBusProxy::new(&peer).await?.guarded().await?;
            let guard = Guard::Behind(indices.into_iter().collect());
            sender.send_if_modified(|now| std::mem::replace(now, guard.clone()) != guard);
            Ok(())
        }
    }));
    receiver
}

/// Runs the service.
pub fn main() -> ExitCode {
    portcullis_runtime::run("network", |mut service| async move {
        let (api, requests) = api::Api::new();
        let notifier = service.serve_bus(Network1(Arc::new(api)))?;
        let part: NetworkPart = portcullis_runtime::fetch_part("network").await?;
        check::check(&part)?;
        let folder = portcullis_runtime::state_dir("network")?;
        let guard = follow_firewall();
        let mut network = service::Network::open(part, folder, is_set(ALL_PORTS_VARIABLE), guard)?;
        network.reconcile().await;
        // Links come up when the firewall is on them, which waits for this service; and the WAN's
        // lease may take long or never come.
        service.ready("interfaces are configured");
        tokio::select! {
            error = network.run(requests, notifier) => Err(error.into()),
            () = service.shutdown() => Ok(()),
        }
    })
}
