//! What is around the service when it runs as a process of its own: its pins, what the network service
//! reports of the router, and the test's own end of its bus.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use portcullis_bus::{firewall::FirewallBusProxy, network::InterfaceStatus};
use portcullis_netns::Namespace;

/// How long anything may take: the kernel verifies dozens of programs first, and the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before something is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// The pins, which go away with the test.
pub struct Pins(pub PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the network service reports: `lan`, and `wan` on eth0 with this address.
pub fn interfaces(router: &Namespace, wan: &str) -> Result<Vec<InterfaceStatus>> {
    [("lan", "lan", "192.168.77.1"), ("wan", "eth0", wan)]
        .into_iter()
        .map(|(name, device, address)| {
            let index = router.run(&format!("cat /sys/class/net/{device}/ifindex"))?;
            let mac = router.run(&format!("cat /sys/class/net/{device}/address"))?;
            Ok(InterfaceStatus {
                name: name.to_owned(),
                device: device.to_owned(),
                index: index.trim().parse()?,
                mac: mac.trim().to_owned(),
                zone: name.to_owned(),
                mtu: 1500,
                addresses: vec![format!("{address}/24")],
                ..InterfaceStatus::default()
            })
        })
        .collect()
}

/// Calls the service by its socket, as soon as it is there.
pub async fn connect(socket: &Path) -> Result<FirewallBusProxy<'static>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                let connection =
                    zbus::connection::Builder::unix_stream(stream).p2p().build().await?;
                return Ok(FirewallBusProxy::new(&connection).await?);
            }
            Err(error) if Instant::now() > end => bail!("{}: {error}", socket.display()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Waits until the condition holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match condition().await {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() > end => bail!("not within {PATIENCE:?}: {what}"),
            Err(error) if Instant::now() > end => return Err(error.context(what.to_owned())),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Waits until all programs are loaded.
pub async fn loaded(firewall: &FirewallBusProxy<'_>) -> Result<()> {
    until("all programs", async || {
        let status = firewall.datapath().await?;
        Ok(status.programs_wanted > 0 && status.programs == status.programs_wanted)
    })
    .await
}
