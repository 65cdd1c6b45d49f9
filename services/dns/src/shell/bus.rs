//! The bus: our interface, and what we follow of others.

use std::{convert::Infallible, sync::Arc};

use async_trait::async_trait;
use portcullis_bus::{
    Error, Result,
    dhcp::DhcpBusProxy,
    dns::{Dns1, DnsApi, DnsStatus},
    network::NetworkBusProxy,
    server::Notifier,
};
use portcullis_runtime::parse_part;

use super::Shared;

/// `org.portcullis.Dns1`.
pub(super) struct Api(pub Arc<Shared>);

#[async_trait]
impl DnsApi for Api {
    async fn apply(&self, part: String) -> Result<()> {
        let part = parse_part("dns", &part).map_err(|e| Error::InvalidArgument(e.to_string()))?;
        let changed = self
            .0
            .forwarder()
            .apply(part)
            .map_err(|error| Error::InvalidArgument(error.to_string()))?;
        self.0.set_of_upstreams_changed(changed);
        tracing::info!("configuration applied");
        Ok(())
    }

    async fn status(&self) -> Result<DnsStatus> {
        Ok(self.0.forwarder().status())
    }
}

/// Emits `Changed` whenever the set of upstreams did change.
pub(super) async fn tell_peers(shared: Arc<Shared>, notifier: Notifier<Dns1>) -> Infallible {
    loop {
        shared.peers_to_tell.notified().await;
        notifier.changed();
    }
}

/// Upstreams come from the WAN leases where none is configured.
pub(super) async fn follow_network(shared: Arc<Shared>) -> Infallible {
    portcullis_bus::follow::<NetworkBusProxy<'static>, _, _>("network", move |connection| {
        let shared = shared.clone();
        async move {
            let leases = NetworkBusProxy::new(&connection).await?.wan_leases().await?;
            let changed = shared.forwarder().set_wan_leases(leases);
            if changed {
                let servers: Vec<_> =
                    shared.forwarder().upstreams.addresses().map(|a| a.to_string()).collect();
                tracing::info!(servers = servers.join(" "), "upstreams changed");
            }
            shared.set_of_upstreams_changed(changed);
            shared.heard.send_modify(|heard| heard.network = true);
            Ok(())
        }
    })
    .await
}

/// Names come from the leases of the DHCP server.
pub(super) async fn follow_dhcp(shared: Arc<Shared>) -> Infallible {
    portcullis_bus::follow::<DhcpBusProxy<'static>, _, _>("dhcp", move |connection| {
        let shared = shared.clone();
        async move {
            let leases = DhcpBusProxy::new(&connection).await?.leases().await?;
            let taken = shared.forwarder().set_leases(leases);
            shared.heard.send_modify(|heard| heard.dhcp = true);
            taken.map_err(|error| Error::Failed(error.to_string()))
        }
    })
    .await
}
