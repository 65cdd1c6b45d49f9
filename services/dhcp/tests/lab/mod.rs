//! A router namespace in which the real service runs, with bus peers played by the test, and
//! clients on its bridge.
#![allow(dead_code, reason = "every test file uses its own share of the lab")]

use std::{
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_bus::{
    config::{ApplyReport, Config1, ConfigApi, ConfigStatus, Problem},
    dhcp::{DhcpBusProxy, Lease},
    network::{InterfaceStatus, Network1, NetworkApi, WanLease},
    server::{Callers, Server, Signals},
};
use portcullis_model::part::DhcpPart;
use portcullis_netns::{Namespace, Running};
use tokio::{net::UnixListener, sync::watch};

/// Set in the child process that is the service.
pub const CHILD: &str = "PORTCULLIS_DHCP_TEST_SERVICE";

/// The router, with bridge `lan` 192.168.77.1/24.
pub struct Lab {
    service: Option<Running>,
    pub router: Namespace,
    peers: Option<tokio::sync::oneshot::Sender<()>>,
    /// Whether the network service says nothing.
    silence: watch::Sender<bool>,
    pub folder: tempfile::TempDir,
    part: Arc<Mutex<DhcpPart>>,
}

/// The part of a document with the default LAN and what the test adds.
pub fn part(extra: serde_json::Value) -> Result<DhcpPart> {
    let mut server = serde_json::json!({
        "pool": { "start": "192.168.77.100", "end": "192.168.77.249" },
    });
    if let (Some(server), Some(extra)) = (server.as_object_mut(), extra.as_object()) {
        server.extend(extra.clone());
    }
    Ok(serde_json::from_value(serde_json::json!({
        "domain": "lan",
        "servers": { "lan": { "network": "192.168.77.1/24", "server": server } },
    }))?)
}

impl Lab {
    pub fn new(part: DhcpPart) -> Result<Self> {
        Self::beside(part, false)
    }

    /// The same, beside a network service that says nothing until [`Self::end_silence`].
    pub fn in_silence(part: DhcpPart) -> Result<Self> {
        Self::beside(part, true)
    }

    pub fn end_silence(&self) {
        self.silence.send_replace(false);
    }

    fn beside(part: DhcpPart, silent: bool) -> Result<Self> {
        let router = Namespace::new("dr")?;
        // With an address of its own a bridge does not take one of its ports'.
        router.run("ip link add lan address 02:00:00:00:01:00 type bridge")?;
        router.run("ip link set lan up")?;
        router.address("lan", "192.168.77.1/24")?;
        let index = router.run("cat /sys/class/net/lan/ifindex")?.trim().parse()?;
        let mac = router.run("cat /sys/class/net/lan/address")?.trim().to_owned();
        let lan = InterfaceStatus {
            name: "lan".to_owned(),
            device: "lan".to_owned(),
            index,
            mac,
            ..InterfaceStatus::default()
        };
        let folder = tempfile::tempdir()?;
        let part = Arc::new(Mutex::new(part));
        let sockets = folder.path().join("run/bus");
        std::fs::create_dir_all(&sockets)?;
        let silence = watch::Sender::new(silent);
        let played = Peers { part: part.clone(), lan, silence: silence.subscribe() };
        let peers = Some(serve_peers(&sockets, played)?);
        let mut lab = Self { service: None, router, peers, silence, folder, part };
        lab.start()?;
        Ok(lab)
    }

    /// Starts the service and waits until it answers on the bus.
    pub fn start(&mut self) -> Result<()> {
        let program = std::env::current_exe()?;
        let mut command = self.router.command(program.to_str().context("path of the test")?);
        command
            .args(["--exact", "service_process", "--nocapture"])
            .env(CHILD, "1")
            .env("PORTCULLIS_RUN_DIR", self.folder.path().join("run"))
            .env("PORTCULLIS_DATA_DIR", self.folder.path().join("data"))
            .env("PORTCULLIS_LOG", "info,portcullis_dhcp=debug");
        // Shown by the test harness when a test fails, and never a pipe that could fill up.
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        self.service = Some(Running::start_logged(command, log)?);
        let end = Instant::now() + Duration::from_secs(20);
        while self.leases().is_err() {
            ensure!(Instant::now() < end, "the service does not start: {}", self.log()?);
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("service.log")
    }

    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.log_path())?)
    }

    pub fn service(&self) -> &Running {
        self.service.as_ref().expect("the service runs")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.service = None;
    }

    /// Orderly stop.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut service) = self.service.take() {
            service.signal(rustix::process::Signal::TERM)?;
            let status = service.wait(Duration::from_secs(20))?;
            ensure!(status.success(), "the service ended with {status}: {}", self.log()?);
        }
        Ok(())
    }

    fn bus<T>(
        &self,
        call: impl AsyncFnOnce(DhcpBusProxy<'_>) -> portcullis_bus::Result<T>,
    ) -> Result<T> {
        let path = self.folder.path().join("run/bus/dhcp.sock");
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let stream = std::os::unix::net::UnixStream::connect(&path)?;
            let connection = zbus::connection::Builder::unix_stream(stream)
                .p2p()
                .method_timeout(Duration::from_secs(10))
                .build()
                .await?;
            Ok(call(DhcpBusProxy::new(&connection).await?).await?)
        })
    }

    pub fn leases(&self) -> Result<Vec<Lease>> {
        self.bus(async |dhcp| dhcp.leases().await)
    }

    pub fn lease(&self, address: &str) -> Result<Lease> {
        let leases = self.leases()?;
        leases
            .iter()
            .find(|lease| lease.address == address)
            .cloned()
            .with_context(|| format!("no lease of {address} in {leases:?}"))
    }

    pub fn apply(&self, part: DhcpPart) -> Result<()> {
        let json = serde_json::to_string(&part)?;
        *self.part.lock().expect("part") = part;
        self.apply_text(&json)
    }

    pub fn apply_text(&self, json: &str) -> Result<()> {
        let json = json.to_owned();
        self.bus(async move |dhcp| dhcp.apply(json).await)
    }

    /// A host with `eth0` on the bridge.
    pub fn client(&self, number: u8) -> Result<Client> {
        let host = Namespace::new("dc")?;
        self.router.join(&format!("port{number}"), &host, "eth0")?;
        self.router.run(&format!("ip link set port{number} master lan"))?;
        host.run(&format!("ip link set eth0 address 02:00:00:00:00:{number:02x}"))?;
        Ok(Client {
            host,
            folder: tempfile::tempdir()?,
            mac: format!("02:00:00:00:00:{number:02x}"),
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.service = None;
        self.peers = None;
        if std::thread::panicking() {
            println!("--- log of the service\n{}", self.log().unwrap_or_default());
        }
    }
}

/// What the service asks of its peers.
struct Peers {
    part: Arc<Mutex<DhcpPart>>,
    lan: InterfaceStatus,
    silence: watch::Receiver<bool>,
}

fn other<T>() -> portcullis_bus::Result<T> {
    Err(portcullis_bus::Error::NotFound("not played by this test".to_owned()))
}

#[async_trait::async_trait]
impl ConfigApi for Peers {
    async fn document(&self) -> portcullis_bus::Result<String> {
        other()
    }
    async fn status(&self) -> portcullis_bus::Result<ConfigStatus> {
        other()
    }
    async fn check(&self, _: String) -> portcullis_bus::Result<Vec<Problem>> {
        other()
    }
    async fn apply(&self, _: String) -> portcullis_bus::Result<ApplyReport> {
        other()
    }
    async fn part(&self, service: String) -> portcullis_bus::Result<String> {
        assert_eq!(service, "dhcp");
        Ok(serde_json::to_string(&*self.part.lock().expect("part")).expect("JSON"))
    }
}

#[async_trait::async_trait]
impl NetworkApi for Peers {
    async fn apply(&self, _: String) -> portcullis_bus::Result<()> {
        other()
    }
    async fn interfaces(&self) -> portcullis_bus::Result<Vec<InterfaceStatus>> {
        // The lab ends with the test.
        let _ = self.silence.clone().wait_for(|silent| !silent).await;
        Ok(vec![self.lan.clone()])
    }
    async fn wan_leases(&self) -> portcullis_bus::Result<Vec<WanLease>> {
        other()
    }
}

/// Serves Config1 and Network1 until the returned sender is dropped.
fn serve_peers(sockets: &Path, peers: Peers) -> Result<tokio::sync::oneshot::Sender<()>> {
    let peers = Arc::new(peers);
    let (config, network) = (sockets.join("config.sock"), sockets.join("network.sock"));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let serving =
                [serve(Config1(peers.clone()), &config)?, serve(Network1(peers), &network)?];
            ready.send(())?;
            let _ = stopped.await;
            drop(serving);
            anyhow::Ok(())
        })
    });
    is_ready.recv().context("bus peers")?;
    Ok(stop)
}

fn serve<I>(object: I, path: &Path) -> Result<tokio::task::JoinHandle<std::convert::Infallible>>
where
    I: zbus::object_server::Interface + Signals + Clone,
{
    let listener = UnixListener::bind(path)?;
    Ok(tokio::spawn(Server::new(object, Callers::SocketModeDecides).run(listener)))
}

/// A host on the LAN.
pub struct Client {
    pub host: Namespace,
    pub folder: tempfile::TempDir,
    pub mac: String,
}

impl Client {
    /// A script for udhcpc or dhclient, which sets the address and leaves all that it was told in
    /// the file `told`, one event after another.
    pub fn script(&self) -> Result<PathBuf> {
        let path = self.folder.path().join("script");
        let told = self.told_path();
        let text = format!(
            "#!/bin/sh\n\
             event=${{1:-$reason}}\n\
             address=${{ip:-$new_ip_address}}\n\
             case $event in\n\
             bound|renew|BOUND|RENEW|REBIND|REBOOT)\n\
               ip address flush dev eth0\n\
               ip address add $address/24 dev eth0 ;;\n\
             deconfig|PREINIT) ip address flush dev eth0 ;;\n\
             esac\n\
             {{ echo event=$event; env; }} >> {told}.new\n\
             cp {told}.new {told}\n",
            told = told.display()
        );
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn told_path(&self) -> PathBuf {
        self.folder.path().join("told")
    }

    /// All that the script was told so far.
    pub fn told(&self) -> String {
        std::fs::read_to_string(self.told_path()).unwrap_or_default()
    }

    /// The value of a variable in the last event that had it.
    pub fn value(&self, name: &str) -> Option<String> {
        let told = self.told();
        let prefix = format!("{name}=");
        told.lines().rev().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }

    /// Waits until the script was told of `event` for the `count`th time.
    pub fn wait_for(&self, event: &str, count: usize) -> Result<()> {
        let line = format!("event={event}");
        let end = Instant::now() + Duration::from_secs(20);
        while self.told().lines().filter(|l| *l == line).count() < count {
            ensure!(Instant::now() < end, "no {event} number {count}; told: {}", self.told());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// udhcpc in the foreground with its address kept until it is told otherwise.
    pub fn udhcpc(&self, extra: &str) -> Result<Running> {
        let script = self.script()?;
        let mut command = self.host.command("udhcpc");
        command.args(["-i", "eth0", "-f", "-t", "8", "-T", "1", "-A", "1", "-s"]);
        command.arg(script).args(extra.split_whitespace()).stderr(Stdio::null());
        Running::start(command)
    }

    /// Runs udhcpc until it has a lease and returns the address.
    pub fn lease(&self, extra: &str) -> Result<Ipv4Addr> {
        let _ = std::fs::remove_file(self.told_path());
        let mut client = self.udhcpc(&format!("-q -n {extra}"))?;
        let status = client.wait(Duration::from_secs(30))?;
        ensure!(status.success(), "udhcpc got no lease: {}", self.told());
        Ok(self.value("ip").context("no address")?.parse()?)
    }
}
