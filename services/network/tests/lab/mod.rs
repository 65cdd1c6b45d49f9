//! A router between a provider and two LAN clients, each in a network namespace of its own. The
//! router runs the real service; the configuration service is played by the test.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use portcullis_bus::{
    config::{ApplyReport, Config1, ConfigApi, ConfigStatus, Problem},
    network::{InterfaceStatus, NetworkBusProxy, WanLease},
    server::{Callers, Server},
};
use portcullis_model::{Document, part::NetworkPart};
use portcullis_netns::{Namespace, Running};
use tempfile::TempDir;
use tokio::runtime::Runtime;

mod firewall;
pub mod monitor;
pub use firewall::Firewall;

/// For what happens soon, on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(60);

/// `wan0` of the router is joined with `eth0` of the provider, 10.9.0.1/24; `lan0` and `lan1` with
/// `eth0` of each client.
pub struct Lab {
    pub router: Namespace,
    pub provider: Namespace,
    pub clients: [Namespace; 2],
    pub folder: TempDir,
    part: Arc<Mutex<NetworkPart>>,
    /// Links come up without a firewall.
    unguarded: bool,
}

/// The service; killed when dropped.
pub struct Service {
    child: Child,
}

/// Plays the configuration service: hands out the part.
struct FakeConfig(Arc<Mutex<NetworkPart>>);

#[async_trait]
impl ConfigApi for FakeConfig {
    async fn document(&self) -> portcullis_bus::Result<String> {
        Err(portcullis_bus::Error::Failed("not played".into()))
    }
    async fn status(&self) -> portcullis_bus::Result<ConfigStatus> {
        Err(portcullis_bus::Error::Failed("not played".into()))
    }
    async fn check(&self, _toml: String) -> portcullis_bus::Result<Vec<Problem>> {
        Err(portcullis_bus::Error::Failed("not played".into()))
    }
    async fn apply(&self, _toml: String) -> portcullis_bus::Result<ApplyReport> {
        Err(portcullis_bus::Error::Failed("not played".into()))
    }
    async fn part(&self, service: String) -> portcullis_bus::Result<String> {
        if service != "network" {
            return Err(portcullis_bus::Error::NotFound(service));
        }
        Ok(serde_json::to_string(&*self.0.lock().unwrap()).unwrap())
    }
}

/// WAN by DHCP on `wan0`, LAN bridge of `lan0` and `lan1` with 192.168.77.1/24.
pub const ROUTER: &str = r#"
    [interfaces.wan]
    zone = "wan"
    ports = ["wan0"]
    ipv4 = { method = "dhcp" }

    [interfaces.lan]
    kind = "bridge"
    zone = "lan"
    ports = ["lan0", "lan1"]
    ipv4 = { method = "static", addresses = ["192.168.77.1/24"] }
"#;

pub fn part(toml: &str) -> NetworkPart {
    NetworkPart::of(&Document::parse(toml).unwrap())
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl Lab {
    pub fn new(toml: &str) -> Result<Self> {
        let router = Namespace::new("router")?;
        let provider = Namespace::new("isp")?;
        let clients = [Namespace::new("lan")?, Namespace::new("lan")?];
        router.join("wan0", &provider, "eth0")?;
        provider.address("eth0", "10.9.0.1/24")?;
        for (client, port) in clients.iter().zip(["lan0", "lan1"]) {
            router.join(port, client, "eth0")?;
        }
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("bus"))?;
        let part = Arc::new(Mutex::new(part(toml)));
        let config =
            Server::new(Config1(Arc::new(FakeConfig(part.clone()))), Callers::SocketModeDecides);
        let listener =
            std::os::unix::net::UnixListener::bind(folder.path().join("bus/config.sock"))?;
        listener.set_nonblocking(true)?;
        // Ends with the test process.
        std::thread::spawn(move || {
            runtime().unwrap().block_on(async {
                match config.run(tokio::net::UnixListener::from_std(listener).unwrap()).await {}
            })
        });
        Ok(Self { router, provider, clients, folder, part, unguarded: true })
    }

    /// The same, but the links of the router are down until the firewall is on them, which is played
    /// by what comes back.
    pub fn guarded(toml: &str) -> Result<(Self, Firewall)> {
        let lab = Self { unguarded: false, ..Self::new(toml)? };
        for device in ["wan0", "lan0", "lan1"] {
            lab.router.run(&format!("ip link set {device} down"))?;
        }
        let firewall = Firewall::play(&lab.path("bus/firewall.sock"))?;
        Ok((lab, firewall))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the service and waits until it answers on the bus.
    pub fn start(&self) -> Result<Service> {
        self.start_by(self.router.command(env!("CARGO_BIN_EXE_portcullis-network")))
    }

    /// Starts the service as user and with the capabilities of `init/services/network.toml`.
    pub fn start_confined(&self) -> Result<Service> {
        // Where that user can reach it, and owns what init would have made for it.
        let program = self.path("portcullis-network");
        fs::copy(env!("CARGO_BIN_EXE_portcullis-network"), &program)?;
        fs::create_dir(self.path("data"))?;
        for path in ["", "bus", "bus/config.sock", "data"] {
            std::os::unix::fs::chown(self.path(path), Some(102), Some(102))?;
        }
        let capabilities = "-all,+net_admin,+net_raw,+net_bind_service";
        let mut command = self.router.command("setpriv");
        command
            .args(["--reuid=102", "--regid=102", "--clear-groups", "--no-new-privs"])
            .arg(format!("--inh-caps={capabilities}"))
            .arg(format!("--ambient-caps={capabilities}"))
            .arg(format!("--bounding-set={capabilities}"))
            .arg(program);
        self.start_by(command)
    }

    fn start_by(&self, mut command: Command) -> Result<Service> {
        let log = File::options().create(true).append(true).open(self.path("service.log"))?;
        let child = command
            .env("PORTCULLIS_RUN_DIR", self.folder.path())
            .env("PORTCULLIS_DATA_DIR", self.path("data"))
            .env("PORTCULLIS_LOG", "debug,zbus=warn")
            .envs(self.unguarded.then_some(("PORTCULLIS_NETWORK_UNGUARDED", "1")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("network service")?;
        let service = Service { child };
        // The socket of an earlier run may still be there: asked until somebody answers.
        self.until("the service answers", Duration::from_secs(60), || {
            Ok(self.interfaces().is_ok_and(|interfaces| !interfaces.is_empty()))
        })?;
        Ok(service)
    }

    fn call<T>(
        &self,
        ask: impl AsyncFnOnce(NetworkBusProxy<'_>) -> portcullis_bus::Result<T>,
    ) -> Result<T> {
        let stream = UnixStream::connect(self.path("bus/network.sock"))?;
        Ok(runtime()?.block_on(async {
            let connection = zbus::connection::Builder::unix_stream(stream)
                .p2p()
                .method_timeout(Duration::from_secs(20))
                .build()
                .await
                .map_err(portcullis_bus::Error::from)?;
            let proxy =
                NetworkBusProxy::new(&connection).await.map_err(portcullis_bus::Error::from)?;
            ask(proxy).await
        })?)
    }

    pub fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        self.call(async |network| network.interfaces().await)
    }

    /// An interface, without the link-local IPv6 address that it makes by itself.
    pub fn interface(&self, name: &str) -> Result<InterfaceStatus> {
        let mut found =
            self.interfaces()?.into_iter().find(|i| i.name == name).context("no such interface")?;
        found.addresses.retain(|address| !address.starts_with("fe80:"));
        Ok(found)
    }

    pub fn lease(&self) -> Result<WanLease> {
        self.call(async |network| network.wan_leases().await)?
            .into_iter()
            .next()
            .context("no lease")
    }

    /// Applies a document's part, as the configuration service does.
    pub fn apply(&self, toml: &str) -> Result<()> {
        let part = part(toml);
        *self.part.lock().unwrap() = part.clone();
        self.apply_json(serde_json::to_string(&part)?)
    }

    pub fn apply_json(&self, json: String) -> Result<()> {
        self.call(async |network| network.apply(json).await)
    }

    /// Number of `Changed` signals from now on, counted until the service or the test ends.
    pub fn signals(&self) -> Result<Arc<AtomicUsize>> {
        use futures_util::StreamExt;
        let stream = UnixStream::connect(self.path("bus/network.sock"))?;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let (subscribed, is_subscribed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            runtime()?.block_on(async {
                let connection =
                    zbus::connection::Builder::unix_stream(stream).p2p().build().await?;
                let network = NetworkBusProxy::new(&connection).await?;
                let mut signals = network.receive_changed().await?;
                subscribed.send(())?;
                while signals.next().await.is_some() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                anyhow::Ok(())
            })
        });
        is_subscribed.recv().context("no signals")?;
        Ok(count)
    }

    /// Waits for `condition`; fails with the service's log.
    pub fn until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let outcome = condition();
            match outcome {
                Ok(true) => return Ok(()),
                _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
                Ok(false) => bail!("not within {limit:?}: {what}\n{}", self.log()),
                Err(error) => return Err(error.context(format!("{what}\n{}", self.log()))),
            }
        }
    }

    pub fn until_state(&self, state: &str, limit: Duration) -> Result<()> {
        self.until(&format!("state {state}"), limit, || Ok(self.lease()?.state == state))
    }

    /// The service's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("service.log")).unwrap_or_default()
    }

    /// Starts the provider's DHCP server with further options; its log is `dnsmasq.log`.
    pub fn dnsmasq(&self, options: &[&str]) -> Result<Running> {
        let mut command = self.provider.command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-dhcp"])
            .args(["--user=root", "--pid-file=", "--dhcp-authoritative", "--interface=eth0"])
            // Else it pings an address for three seconds before it offers it.
            .arg("--no-ping")
            .arg(format!("--dhcp-leasefile={}", self.path("dnsmasq.leases").display()))
            .arg(format!("--log-facility={}", self.path("dnsmasq.log").display()))
            .args(options);
        if !options.iter().any(|option| option.starts_with("--dhcp-range")) {
            command.arg("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,120");
        }
        let mut server = Running::start(command)?;
        std::thread::sleep(Duration::from_millis(300));
        server.check().context("is dnsmasq installed?")?;
        Ok(server)
    }

    pub fn dnsmasq_log(&self) -> String {
        fs::read_to_string(self.path("dnsmasq.log")).unwrap_or_default()
    }

    /// Messages of these kinds in dnsmasq's log, in order.
    pub fn dhcp_messages(&self) -> Vec<String> {
        let kinds = ["DISCOVER", "OFFER", "REQUEST", "ACK", "NAK", "DECLINE", "RELEASE"];
        self.dnsmasq_log()
            .lines()
            .filter_map(|line| kinds.iter().find(|kind| line.contains(&format!(" DHCP{kind}("))))
            .map(|kind| (*kind).to_owned())
            .collect()
    }
}

impl Service {
    /// A line of its `/proc/PID/status`.
    pub fn status(&self, field: &str) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        Ok(line.with_context(|| format!("no {field}"))?.trim().to_owned())
    }

    /// Ends it as init does.
    pub fn stop(mut self) -> Result<()> {
        let id = i32::try_from(self.child.id())?;
        let id = rustix::process::Pid::from_raw(id).context("process id")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the service ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the service does not stop")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
