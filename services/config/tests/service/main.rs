//! The config service as a process, with real sockets, files and stand-ins for the services that
//! take parts.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod apply;
mod storage;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use portcullis_bus::{
    Error,
    config::{ApplyReport, Config1, ConfigBusProxy, ConfigStatus},
    connect_at,
    dhcp::Dhcp1,
    dns::Dns1,
    firewall::Firewall1,
    network::Network1,
    server::Restrict,
    web::Web1,
};
use portcullis_model::{Document, part};
use portcullis_peers::{FakeConfig, FakeNetwork, Process, Receiver, Router, Running, example};

const LIMIT: Duration = Duration::from_secs(60);

type AllRunning =
    (Running<Network1>, Running<Firewall1>, Running<Dhcp1>, Running<Dns1>, Running<Web1>);

/// The service under test with everybody who takes a part.
struct Lab {
    router: Router,
    network: Arc<FakeNetwork>,
    firewall: Arc<Receiver>,
    dhcp: Arc<Receiver>,
    dns: Arc<Receiver>,
    web: Arc<Receiver>,
    _running: AllRunning,
}

impl Lab {
    fn new() -> Result<Self> {
        let router = Router::new()?;
        let network = Arc::new(FakeNetwork::default());
        let receiver = || Arc::new(Receiver::default());
        let (firewall, dhcp, dns, web) = (receiver(), receiver(), receiver(), receiver());
        let running = (
            router.serve("network", Network1(network.clone()))?,
            router.serve("firewall", Firewall1(firewall.clone()))?,
            router.serve("dhcp", Dhcp1(dhcp.clone()))?,
            router.serve("dns", Dns1(dns.clone()))?,
            router.serve("web", Web1(web.clone()))?,
        );
        Ok(Self { router, network, firewall, dhcp, dns, web, _running: running })
    }

    async fn start(&self) -> Result<(Process, ConfigBusProxy<'static>)> {
        start(&self.router).await
    }

    /// How many parts each service got, in the order of the rollout.
    fn counts(&self) -> [usize; 5] {
        [&self.network.received, &self.firewall, &self.dhcp, &self.dns, &self.web]
            .map(|receiver| receiver.parts().len())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.router.data_dir().join("config").join(name)
    }
}

/// Starts the service and waits until it answers.
async fn start(router: &Router) -> Result<(Process, ConfigBusProxy<'static>)> {
    let _ = fs::remove_file(router.socket("config"));
    let process = Process::start(&mut router.command(&example("config-service")?))?;
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match connect_at(&router.socket("config"), LIMIT).await {
            Ok(connection) => {
                let proxy = ConfigBusProxy::new(&connection).await?;
                return Ok((process, proxy));
            }
            Err(error) if tokio::time::Instant::now() > end => bail!("no service: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn accepted(report: &ApplyReport) -> Vec<(&str, bool)> {
    assert!(report.accepted, "{report:?}");
    report.services.iter().map(|s| (s.service.as_str(), s.applied)).collect()
}

const MORE_FLOWS: &str = "[firewall]\nmax_flows = 2048 # a comment\n";
const OTHER_NETWORK: &str = r#"
[interfaces.wan]
zone = "wan"
ports = ["first"]
ipv4 = { method = "dhcp" }
[interfaces.lan]
kind = "bridge"
zone = "lan"
ports = ["others"]
ipv4 = { method = "static", addresses = ["10.0.0.1/24"] }
[dhcp.lan]
pool = { start = "10.0.0.100", end = "10.0.0.200" }
"#;
