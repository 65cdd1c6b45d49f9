//! Which kernel device an interface of the configuration is now, as the network service tells.

use std::collections::BTreeMap;

use portcullis_bus::network::NetworkBusProxy;
use portcullis_model::{MacAddress, Name};
use tokio::sync::watch;

/// A device that carries an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Device {
    /// Kernel interface index.
    pub(super) index: u32,
    pub(super) mac: MacAddress,
}

/// The devices by interface, kept up to date as long as the receiver lives; none until the network
/// service has told of them once.
pub(super) fn follow() -> watch::Receiver<Option<BTreeMap<Name, Device>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        portcullis_bus::follow::<NetworkBusProxy<'_>, _, _>("network", |connection| {
            let sender = sender.clone();
            async move {
                let network = NetworkBusProxy::new(&connection).await?;
                let devices: BTreeMap<_, _> =
                    network.interfaces().await?.into_iter().filter_map(device).collect();
                sender.send_if_modified(|known| {
                    let different = known.as_ref() != Some(&devices);
                    if different {
                        *known = Some(devices);
                    }
                    different
                });
                Ok(())
            }
        })
        .await
    });
    receiver
}

fn device(status: portcullis_bus::network::InterfaceStatus) -> Option<(Name, Device)> {
    // Index 0: its port is missing.
    let mac = status.mac.parse().ok().filter(|_| status.index != 0)?;
    Some((status.name.parse().ok()?, Device { index: status.index, mac }))
}
