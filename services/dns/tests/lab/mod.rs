//! A router with the real service between a client and a provider, each in a network namespace of
//! its own, and the other services of the router played on the bus.
//!
//! ```text
//!  client 192.168.77.100 ── 192.168.77.1 router 198.51.100.1 ── 198.51.100.53.. provider
//! ```

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use portcullis_bus::{
    config::{ApplyReport, Config1, ConfigApi, ConfigStatus, Problem},
    dhcp::{Dhcp1, DhcpApi, Lease},
    dns::{DnsBusProxy, DnsStatus},
    network::{InterfaceStatus, Network1, NetworkApi, WanLease},
    server::{Callers, Notifier, Server},
};
use portcullis_model::part::DnsPart;
use portcullis_netns::{Namespace, Running};
use tokio::{net::UnixListener, runtime::Runtime};

/// Set for the process that is the service.
pub const SERVICE_VARIABLE: &str = "PORTCULLIS_DNS_TEST_SERVICE";

pub const ROUTER: &str = "192.168.77.1";

/// What the other services answer.
#[derive(Default)]
struct World {
    part: Mutex<String>,
    wan: Mutex<Vec<WanLease>>,
    leases: Mutex<Vec<Lease>>,
    /// How long the other services take to answer.
    slow: Mutex<Duration>,
}

impl World {
    async fn hesitate(&self) {
        let time = *self.slow.lock().unwrap();
        tokio::time::sleep(time).await;
    }
}

struct Fake(Arc<World>);

fn unused<T>() -> portcullis_bus::Result<T> {
    Err(portcullis_bus::Error::Failed("not played in this test".to_owned()))
}

#[async_trait]
impl ConfigApi for Fake {
    async fn document(&self) -> portcullis_bus::Result<String> {
        unused()
    }
    async fn status(&self) -> portcullis_bus::Result<ConfigStatus> {
        unused()
    }
    async fn check(&self, _toml: String) -> portcullis_bus::Result<Vec<Problem>> {
        unused()
    }
    async fn apply(&self, _toml: String) -> portcullis_bus::Result<ApplyReport> {
        unused()
    }
    async fn part(&self, service: String) -> portcullis_bus::Result<String> {
        assert_eq!(service, "dns");
        Ok(self.0.part.lock().unwrap().clone())
    }
}

#[async_trait]
impl NetworkApi for Fake {
    async fn apply(&self, _part: String) -> portcullis_bus::Result<()> {
        unused()
    }
    async fn interfaces(&self) -> portcullis_bus::Result<Vec<InterfaceStatus>> {
        unused()
    }
    async fn wan_leases(&self) -> portcullis_bus::Result<Vec<WanLease>> {
        self.0.hesitate().await;
        Ok(self.0.wan.lock().unwrap().clone())
    }
}

#[async_trait]
impl DhcpApi for Fake {
    async fn apply(&self, _part: String) -> portcullis_bus::Result<()> {
        unused()
    }
    async fn leases(&self) -> portcullis_bus::Result<Vec<Lease>> {
        self.0.hesitate().await;
        Ok(self.0.leases.lock().unwrap().clone())
    }
}

/// The whole of it. Fields drop in this order: processes before the namespaces they live in.
pub struct Lab {
    service: Running,
    provider_processes: Vec<Running>,
    pub client: Namespace,
    pub provider: Namespace,
    pub router: Namespace,
    world: Arc<World>,
    network: Notifier<Network1>,
    dhcp: Notifier<Dhcp1>,
    runtime: Runtime,
    folder: tempfile::TempDir,
}

/// The part that the tests begin with: the default document's, with a reserved host.
pub fn part() -> DnsPart {
    let mut part = DnsPart::of(&portcullis_model::Document::default());
    part.hosts.insert("nas".parse().unwrap(), [192, 168, 77, 10].into());
    part
}

/// A WAN lease that names these servers.
pub fn wan(servers: &[&str]) -> Vec<WanLease> {
    vec![WanLease {
        interface: "wan".to_owned(),
        state: "bound".to_owned(),
        address: Some("198.51.100.1/24".to_owned()),
        dns: servers.iter().map(|&server| server.to_owned()).collect(),
        ..WanLease::default()
    }]
}

/// A lease of a DHCP client.
pub fn lease(hostname: &str, address: &str) -> Lease {
    Lease {
        interface: "lan".to_owned(),
        address: address.to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        hostname: Some(hostname.to_owned()),
        state: "bound".to_owned(),
        ..Lease::default()
    }
}

impl Lab {
    /// Starts the service with this part, WAN lease and no DHCP leases, and waits until it is
    /// ready.
    pub fn start(part: &DnsPart, wan: Vec<WanLease>) -> Result<Self> {
        Self::start_with(part, World { wan: wan.into(), ..World::default() }, false)
    }

    /// The same, beside services that take this long to answer; there is this DHCP lease.
    pub fn start_slowly(wan: Vec<WanLease>, lease: Lease, slow: Duration) -> Result<Self> {
        let world = World {
            wan: wan.into(),
            leases: vec![lease].into(),
            slow: slow.into(),
            ..World::default()
        };
        Self::start_with(&part(), world, false)
    }

    /// The same, with the sockets made beforehand and handed over, as init does it.
    pub fn start_with_sockets(part: &DnsPart, wan: Vec<WanLease>) -> Result<Self> {
        Self::start_with(part, World { wan: wan.into(), ..World::default() }, true)
    }

    fn start_with(part: &DnsPart, world: World, hand_over: bool) -> Result<Self> {
        let (client, provider, router) =
            (Namespace::new("dnsc")?, Namespace::new("dnsp")?, Namespace::new("dnsr")?);
        router.join("lan", &client, "eth0")?;
        router.join("wan", &provider, "eth0")?;
        router.address("lan", "192.168.77.1/24")?;
        router.address("wan", "198.51.100.1/24")?;
        client.address("eth0", "192.168.77.100/24")?;
        client.run("ip route add default via 192.168.77.1")?;
        for last in ["53", "54", "55"] {
            provider.address("eth0", &format!("198.51.100.{last}/24"))?;
        }

        let folder = tempfile::tempdir()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let world = Arc::new(world);
        *world.part.lock().unwrap() = serde_json::to_string(part)?;
        let bus = folder.path().join("bus");
        fs::create_dir(&bus)?;
        let (network, dhcp) = {
            let _entered = runtime.enter();
            play(&bus, "config", Config1(Arc::new(Fake(world.clone()))))?;
            (
                play(&bus, "network", Network1(Arc::new(Fake(world.clone()))))?,
                play(&bus, "dhcp", Dhcp1(Arc::new(Fake(world.clone()))))?,
            )
        };
        let service = start_service(&router, folder.path(), hand_over)?;
        let lab = Self {
            service,
            provider_processes: Vec::new(),
            client,
            provider,
            router,
            world,
            network,
            dhcp,
            runtime,
            folder,
        };
        Ok(lab)
    }

    /// dnsmasq as upstream at this address of the provider, with these options; returns its log.
    pub fn dnsmasq(&mut self, address: &str, options: &[&str]) -> Result<PathBuf> {
        let log = self.folder.path().join(format!("dnsmasq-{address}.log"));
        let mut command = self.provider.command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"])
            .args(["--user=root", "--pid-file=", "--bind-interfaces", "--log-queries"])
            .args([format!("--listen-address={address}"), "--except-interface=lo".to_owned()])
            .arg(format!("--log-facility={}", log.display()))
            .args(["--local-ttl=300", "--edns-packet-max=4096"])
            .args(options);
        self.provider_processes.push(Running::start(command)?);
        self.wait_for_upstream(address)?;
        Ok(log)
    }

    /// unbound as upstream at this address, with these lines in its `server` clause.
    pub fn unbound(&mut self, address: &str, lines: &str) -> Result<()> {
        let file = self.folder.path().join(format!("unbound-{address}.conf"));
        let text = format!(
            "server:\n interface: {address}\n access-control: 0.0.0.0/0 allow\n \
             username: \"\"\n chroot: \"\"\n directory: \"/\"\n pidfile: \"\"\n \
             use-syslog: no\n do-daemonize: no\n module-config: \"iterator\"\n \
             num-threads: 1\n edns-buffer-size: 1232\n{lines}"
        );
        fs::write(&file, text)?;
        let mut command = self.provider.command("unbound");
        command.args(["-d", "-p", "-c"]).arg(&file);
        self.provider_processes.push(Running::start(command)?);
        self.wait_for_upstream(address)
    }

    fn wait_for_upstream(&mut self, address: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(process) = self.provider_processes.last_mut() {
                process.check()?;
            }
            let line = format!("dig @{address} +time=1 +tries=1 ready.invalid");
            if self.provider.run(&line).is_ok() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "no answer from the upstream at {address}");
        }
    }

    /// Ends the upstream that was started as the `index`th.
    pub fn stop_upstream(&mut self, index: usize) {
        drop(self.provider_processes.remove(index));
    }

    /// dig at the client, at the router unless `arguments` name another server.
    pub fn dig(&self, arguments: &str) -> Result<Answer> {
        let server = if arguments.contains('@') { "" } else { "@192.168.77.1" };
        let begin = Instant::now();
        let text =
            self.client.run(&format!("dig {server} +tries=1 +time=6 +nocookie {arguments}"))?;
        Ok(Answer { text, took: begin.elapsed() })
    }

    /// Changes the WAN lease, and waits until the service uses `count` upstreams.
    pub fn change_wan(&self, leases: Vec<WanLease>, count: usize) -> Result<()> {
        *self.world.wan.lock().unwrap() = leases;
        self.network.changed();
        self.wait_for(|status| status.upstreams.len() == count)
    }

    /// Changes the leases of the DHCP server.
    pub fn change_leases(&self, leases: Vec<Lease>) {
        *self.world.leases.lock().unwrap() = leases;
        self.dhcp.changed();
    }

    /// Waits until the status of the service is as wanted.
    pub fn wait_for(&self, wanted: impl Fn(&DnsStatus) -> bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "not as wanted after 30 s: {status:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The service's status, over the bus.
    pub fn status(&self) -> Result<DnsStatus> {
        self.runtime.block_on(async { Ok(self.proxy().await?.status().await?) })
    }

    /// Applies a new part, over the bus.
    pub fn apply(&self, part: &DnsPart) -> Result<()> {
        let json = serde_json::to_string(part)?;
        self.runtime.block_on(async { Ok(self.proxy().await?.apply(json).await?) })
    }

    async fn proxy(&self) -> Result<DnsBusProxy<'static>> {
        let stream = UnixStream::connect(self.folder.path().join("bus/dns.sock"))?;
        let connection = zbus::connection::Builder::unix_stream(stream).p2p().build().await?;
        Ok(DnsBusProxy::new(&connection).await?)
    }

    /// Private resident memory of the service, KiB.
    pub fn private_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.service.id()))?;
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).context("RssAnon")?;
        let kib = line.split_whitespace().nth(1).context("RssAnon")?;
        Ok(kib.parse()?)
    }
}

fn play<I>(bus: &Path, service: &str, object: I) -> Result<Notifier<I>>
where
    I: zbus::object_server::Interface + portcullis_bus::server::Signals + Clone,
{
    let listener = UnixListener::bind(bus.join(format!("{service}.sock")))?;
    let server = Server::new(object, Callers::SocketModeDecides);
    let notifier = server.notifier();
    tokio::spawn(server.run(listener));
    Ok(notifier)
}

/// This test program once more, as the service, inside the router.
fn start_service(router: &Namespace, run_dir: &Path, hand_over: bool) -> Result<Running> {
    let notify = run_dir.join("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&notify)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let program = std::env::current_exe()?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", router.name()]);
    let sockets = router.enter(|| {
        let udp = hand_over.then(|| UdpSocket::bind("0.0.0.0:53")).transpose()?;
        let tcp = hand_over.then(|| TcpListener::bind("0.0.0.0:53")).transpose()?;
        Ok((udp, tcp))
    })?;
    if let (Some(udp), Some(tcp)) = &sockets {
        rustix::io::fcntl_setfd(udp, rustix::io::FdFlags::empty())?;
        rustix::io::fcntl_setfd(tcp, rustix::io::FdFlags::empty())?;
        let (udp, tcp) = (udp.as_raw_fd(), tcp.as_raw_fd());
        let script = format!(
            "exec 3<&{udp} 4<&{tcp} {udp}<&- {tcp}<&-; export LISTEN_PID=$$ LISTEN_FDS=2 \
             LISTEN_FDNAMES=dns-udp:dns-tcp; exec \"$0\" \"$@\""
        );
        command.args(["bash", "-c", &script]);
    }
    command
        .arg(program)
        .args(["--exact", "service_process", "--ignored", "--nocapture"])
        .env(SERVICE_VARIABLE, "1")
        .env("PORTCULLIS_RUN_DIR", run_dir)
        .env("NOTIFY_SOCKET", &notify)
        .env_remove("LISTEN_FDS");
    let mut service = Running::start(command)?;
    drop(sockets);
    let mut buffer = [0; 256];
    let Ok(length) = socket.recv(&mut buffer) else {
        service.check()?;
        bail!("the service did not get ready");
    };
    let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
    ensure!(said.contains("READY=1"), "the service said {said}");
    Ok(service)
}

/// Queries that a dnsmasq got, as `type name`, names in lower case.
pub fn queries(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap();
    let query = |line: &str| {
        let (_, rest) = line.split_once(" query[")?;
        let (query_type, rest) = rest.split_once("] ")?;
        let name = rest.split(' ').next()?.to_lowercase();
        (name != "ready.invalid").then(|| format!("{query_type} {name}"))
    };
    text.lines().filter_map(query).collect()
}

/// What dig printed.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub took: Duration,
}

impl Answer {
    /// Response code.
    pub fn code(&self) -> &str {
        self.after("status: ")
    }

    /// Flags: `qr aa rd ra`.
    pub fn flags(&self) -> &str {
        self.text
            .split_once(";; flags: ")
            .and_then(|(_, rest)| rest.split(';').next())
            .unwrap_or_default()
    }

    /// Word behind a mark.
    pub fn after(&self, mark: &str) -> &str {
        self.text
            .split_once(mark)
            .and_then(|(_, rest)| {
                rest.split([',', ' ', '\t', '\n', ';']).find(|word| !word.is_empty())
            })
            .unwrap_or_default()
    }

    /// Records as fields: owner, TTL, class, type, data (of the answer section).
    pub fn records(&self) -> Vec<Vec<String>> {
        let Some((_, rest)) = self.text.split_once(";; ANSWER SECTION:\n") else {
            return Vec::new();
        };
        rest.lines()
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect()
    }

    /// Data of the records of the answer section.
    pub fn data(&self) -> Vec<String> {
        self.records().iter().map(|fields| fields[4..].join(" ")).collect()
    }

    /// TTL of the first record.
    pub fn ttl(&self) -> u32 {
        self.records()[0][1].parse().unwrap()
    }
}
