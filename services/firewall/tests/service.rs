//! The whole service as init runs it: a process of its own as user 103 with three capabilities,
//! between a config and a network service that this test plays. Needs root, util-linux (nsenter,
//! setpriv), ping, iproute2, iperf3.
#![allow(clippy::print_stdout, reason = "a test harness of its own")]

mod around;

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_bus::{
    config::{ApplyReport, Config1, ConfigApi, ConfigStatus, Problem},
    firewall::FirewallBusProxy,
    network::{InterfaceStatus, Network1, NetworkApi, WanLease},
    server::{Callers, Notifier, Server},
};
use portcullis_model::{Document, part::FirewallPart};
use portcullis_netns::{Namespace, execute};
use tokio::{net::UnixListener, sync::watch};

use around::{Pins, connect, interfaces, loaded, until};

const ROLE: &str = "PORTCULLIS_TEST_ROLE";
const USER: u32 = 103;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if std::env::var_os(ROLE).is_some() {
        return portcullis_firewall::main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("service_as_init_runs_it: test");
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(story()));
    match outcome {
        Ok(()) => {
            println!("test service_as_init_runs_it ... ok ({:.1?})", started.elapsed());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("test service_as_init_runs_it ... FAILED\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

struct FakeConfig {
    part: Mutex<FirewallPart>,
    /// It has started.
    answers: watch::Sender<bool>,
}

#[async_trait::async_trait]
impl ConfigApi for FakeConfig {
    async fn document(&self) -> portcullis_bus::Result<String> {
        Ok(String::new())
    }
    async fn status(&self) -> portcullis_bus::Result<ConfigStatus> {
        Err(portcullis_bus::Error::Failed("not played".to_owned()))
    }
    async fn check(&self, _: String) -> portcullis_bus::Result<Vec<Problem>> {
        Ok(Vec::new())
    }
    async fn apply(&self, _: String) -> portcullis_bus::Result<ApplyReport> {
        Err(portcullis_bus::Error::Failed("not played".to_owned()))
    }
    async fn part(&self, service: String) -> portcullis_bus::Result<String> {
        assert_eq!(service, "firewall");
        let started = self.answers.subscribe().wait_for(|answers| *answers).await.is_ok();
        assert!(started, "the sender is in `self`");
        let part = self.part.lock().map_err(|_| portcullis_bus::Error::Failed(String::new()))?;
        serde_json::to_string(&*part).map_err(|e| portcullis_bus::Error::Failed(e.to_string()))
    }
}

struct FakeNetwork(Mutex<Vec<InterfaceStatus>>);

#[async_trait::async_trait]
impl NetworkApi for FakeNetwork {
    async fn apply(&self, _: String) -> portcullis_bus::Result<()> {
        Ok(())
    }
    async fn interfaces(&self) -> portcullis_bus::Result<Vec<InterfaceStatus>> {
        let interfaces = self.0.lock().map_err(|_| portcullis_bus::Error::Failed(String::new()))?;
        Ok(interfaces.clone())
    }
    async fn wan_leases(&self) -> portcullis_bus::Result<Vec<WanLease>> {
        Ok(Vec::new())
    }
}

/// Whether a program or map is pinned in one of the folders.
fn is_pinned(folder: &Path, name: &str) -> bool {
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
    folder.join(name).exists()
        || inside.filter(|entry| entry.path().is_dir()).any(|entry| is_pinned(&entry.path(), name))
}

/// The service's process.
struct Process(Child);

impl Process {
    fn start(router: &Namespace, run: &Path, pins: &Path) -> Result<Self> {
        let program = std::env::current_exe()?;
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", router.name()))
            .args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}")])
            .args(["--clear-groups", "--no-new-privs"])
            .arg("--inh-caps=-all,+bpf,+net_admin,+perfmon")
            .arg("--ambient-caps=-all,+bpf,+net_admin,+perfmon")
            .arg("--bounding-set=-all,+bpf,+net_admin,+perfmon")
            .arg(program)
            .env(ROLE, "service")
            .env("PORTCULLIS_RUN_DIR", run)
            .env("PORTCULLIS_BPF_DIR", pins)
            .stdin(Stdio::null())
            .spawn()
            .context("nsenter")?;
        Ok(Self(child))
    }

    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn story() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bus = folder.path().join("bus");
    std::fs::create_dir(&bus)?;
    for path in [folder.path(), &bus] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        execute(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
    }
    let pins = Pins(PathBuf::from(format!("/sys/fs/bpf/pc-service-{}", std::process::id())));
    std::fs::create_dir(&pins.0)?;
    chown(&pins.0, Some(USER), Some(USER))?;

    let router = Namespace::new("fwsvc")?;
    let host = Namespace::new("fwhost")?;
    let server = Namespace::new("fwsrv")?;
    router.join("lan", &host, "eth0")?;
    router.join("eth0", &server, "eth0")?;
    router.address("lan", "192.168.77.1/24")?;
    router.address("eth0", "198.51.100.2/24")?;
    host.address("eth0", "192.168.77.100/24")?;
    host.run("ip route add default via 192.168.77.1")?;
    server.address("eth0", "198.51.100.10/24")?;
    router.run("sysctl -qw net.ipv4.ip_forward=0")?;

    let part = FirewallPart::of(&Document::parse("")?);
    let config =
        Arc::new(FakeConfig { part: Mutex::new(part.clone()), answers: watch::Sender::new(false) });
    let network = Arc::new(FakeNetwork(Mutex::new(interfaces(&router, "198.51.100.2")?)));
    serve(&bus, "config", Config1(config.clone()))?;
    let network_changed = serve(&bus, "network", Network1(network.clone()))?;

    println!("  starts with the capabilities of its manifest and opens forwarding when it filters");
    let service = Process::start(&router, folder.path(), &pins.0)?;
    // Programs are loaded before the configuration is known, and attached when it is.
    until("the first programs", async || Ok(is_pinned(&pins.0, "tcx_egress"))).await?;
    ensure!(std::fs::read_dir(pins.0.join("links"))?.count() == 0, "attached without a policy");
    config.answers.send_replace(true);
    let firewall = connect(&bus.join("firewall.sock")).await?;
    until("four attachments", async || Ok(firewall.attachments().await?.len() == 4)).await?;
    until(
        "forwarding",
        async || Ok(router.run("cat /proc/sys/net/ipv4/ip_forward")?.trim() == "1"),
    )
    .await?;
    loaded(&firewall).await?;
    host.run("ping -c 1 -W 2 198.51.100.10")?;
    let page = firewall.flows(10).await?;
    ensure!(page.total == 1 && page.capacity == u64::from(part.firewall.max_flows), "{page:?}");

    println!(
        "  killed: packets and flows go on, and it takes them over again, with the same programs"
    );
    let programs = program_ids(&firewall).await?;
    service.kill()?;
    host.run("ping -c 1 -W 2 198.51.100.10")?;
    let service = Process::start(&router, folder.path(), &pins.0)?;
    let firewall = connect(&bus.join("firewall.sock")).await?;
    until("four attachments", async || Ok(firewall.attachments().await?.len() == 4)).await?;
    let status = firewall.datapath().await?;
    ensure!(status.programs == status.programs_wanted, "loaded again: {status:?}");
    ensure!(program_ids(&firewall).await? == programs, "others are attached now");
    ensure!(firewall.flows(10).await?.total == 2, "the flows of both pings");
    let forwarded = firewall.counters().await?;
    let forwarded = forwarded.iter().find(|counter| counter.name == "forwarded");
    ensure!(forwarded.is_some_and(|counter| counter.packets == 4), "{forwarded:?}");

    println!("  a download goes on through a kill, a start and a table of another size");
    let mut iperf = server.start("iperf3 -s -1")?;
    listening(&server).await?;
    let download = std::thread::spawn({
        let mut client = host.command("iperf3");
        client.args(["-c", "198.51.100.10", "-R", "-t", "8", "-i", "1", "--json"]);
        move || client.output()
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    service.kill()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let service = Process::start(&router, folder.path(), &pins.0)?;
    let firewall = connect(&bus.join("firewall.sock")).await?;
    until("four attachments", async || Ok(firewall.attachments().await?.len() == 4)).await?;
    let mut larger = part.clone();
    larger.firewall.max_flows = 131_072;
    let applied = std::sync::atomic::AtomicBool::new(false);
    let apply = async {
        let outcome = firewall.apply(serde_json::to_string(&larger)?).await;
        applied.store(true, std::sync::atomic::Ordering::SeqCst);
        anyhow::Ok(outcome?)
    };
    let ask = async {
        let mut answers = 0;
        while !applied.load(std::sync::atomic::Ordering::SeqCst) {
            let capacity = firewall.datapath().await?.flow_capacity;
            answers += u32::from(capacity == u64::from(part.firewall.max_flows));
        }
        anyhow::Ok(answers)
    };
    let ((), answers) = tokio::try_join!(apply, ask)?;
    ensure!(answers > 2, "it did nothing else while programs were loaded: {answers} answers");
    ensure!(firewall.datapath().await?.flow_capacity == 131_072);
    let output = tokio::task::spawn_blocking(move || download.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the client panicked"))??;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.success(), "{report}");
    let seconds = report.pointer("/intervals").and_then(|i| i.as_array()).context("intervals")?;
    let bytes = |second: &serde_json::Value| second.pointer("/sum/bytes").and_then(|b| b.as_u64());
    let still = seconds.iter().filter(|second| bytes(second) < Some(100_000)).count();
    ensure!(seconds.len() >= 8 && still == 0, "{report}");
    iperf.wait(PATIENCE)?;
    let page = firewall.flows(100).await?;
    ensure!(
        page.flows.iter().any(|flow| flow.bytes_in > 1_000_000),
        "its flow was moved: {page:?}"
    );

    println!("  another WAN address: flows of the old one are gone at once");
    router.run("ip address del 198.51.100.2/24 dev eth0")?;
    router.run("ip address add 198.51.100.3/24 dev eth0")?;
    *network.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))? =
        interfaces(&router, "198.51.100.3")?;
    network_changed.changed();
    until("an empty flow table", async || Ok(firewall.flows(10).await?.total == 0)).await?;
    host.run("ping -c 1 -W 2 198.51.100.10")?;
    let page = firewall.flows(10).await?;
    ensure!(page.flows.iter().all(|flow| flow.translated_source.starts_with("198.51.100.3:")));

    println!("  a new part: the policy changes, established flows stay, another table size too");
    let mut closed = part.clone();
    closed.firewall.policies.clear();
    // Its name sorts first: ids must not follow the alphabet when tables are made anew.
    closed.firewall.zones.insert("aaa".to_owned().try_into()?, portcullis_model::Zone::default());
    closed.firewall.max_flows = 8192;
    firewall.apply(serde_json::to_string(&closed)?).await?;
    let page = firewall.flows(10).await?;
    ensure!(page.capacity == 8192 && page.total == 1, "{page:?}");
    ensure!(
        page.flows.iter().all(|flow| flow.from_zone == "lan" && flow.to_zone == "wan"),
        "{page:?}"
    );
    ensure!(host.run("ping -c 1 -W 1 198.51.100.10").is_err(), "no policy allows it any more");
    ensure!(firewall.apply("{}".to_owned()).await.is_err(), "nonsense is refused");

    println!("  a device that comes late is attached without a further report");
    let mut all = interfaces(&router, "198.51.100.3")?;
    all.push(InterfaceStatus {
        name: "late".to_owned(),
        device: "late0".to_owned(),
        index: 99,
        ..InterfaceStatus::default()
    });
    *network.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = all;
    network_changed.changed();
    until("the new interface's problem", async || {
        let problems = firewall.datapath().await?.problems;
        Ok(problems.iter().any(|problem| problem.contains("late belongs to no zone")))
    })
    .await?;
    router.run("ip link add late0 index 99 type veth peer name late1")?;
    until("six attachments", async || Ok(firewall.attachments().await?.len() == 6)).await?;

    println!("  the policy is asked again about flows that it let in before");
    ensure!(firewall.reevaluate().await? == 1);
    ensure!(firewall.flows(10).await?.total == 0);

    println!("  rules that need larger tables get them, and flows stay");
    firewall.apply(serde_json::to_string(&part)?).await?;
    host.run("ping -c 1 -W 2 198.51.100.10")?;
    let pings = std::thread::spawn({
        let mut ping = host.command("ping");
        ping.args(["-q", "-i", "0.01", "-c", "400", "-W", "2", "198.51.100.10"]);
        move || ping.output()
    });
    let mut many = part.clone();
    many.firewall.rules = rules(4_000)?;
    firewall.apply(serde_json::to_string(&many)?).await?;
    let status = firewall.datapath().await?;
    // The late interface is one.
    ensure!(status.rules == 4_000 && status.problems.len() == 1, "{status:?}");
    let output = tokio::task::spawn_blocking(move || pings.join())
        .await?
        .map_err(|_| anyhow::anyhow!("ping panicked"))??;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.contains(" 0% packet loss"), "{output}");
    ensure!(firewall.purge("192.168.77.0/24".to_owned()).await? >= 1);
    ensure!(firewall.purge("nobody".to_owned()).await.is_err());
    drop(service);
    Ok(())
}

/// Rules that fit nothing that this test sends.
fn rules(count: u32) -> Result<Vec<portcullis_model::firewall::Rule>> {
    let rule = |number: u32| {
        let address = std::net::Ipv4Addr::from(0xcb00_7100 + number % 256);
        let rule = serde_json::json!({
            "name": format!("rule-{number}"),
            "from": "lan",
            "to": "wan",
            "destinations": [address.to_string()],
            "protocols": ["tcp"],
            "destination_ports": [10_000 + number],
            "action": "deny",
        });
        Ok(serde_json::from_value(rule)?)
    };
    (0..count).map(rule).collect()
}

async fn program_ids(firewall: &FirewallBusProxy<'_>) -> Result<Vec<u32>> {
    Ok(firewall.attachments().await?.iter().map(|attachment| attachment.program_id).collect())
}

async fn listening(namespace: &Namespace) -> Result<()> {
    until("iperf3", async || {
        Ok(namespace.run("cat /proc/net/tcp /proc/net/tcp6")?.contains(":1451 "))
    })
    .await
}

fn serve<I>(bus: &Path, name: &str, object: I) -> Result<Notifier<I>>
where
    I: zbus::object_server::Interface + portcullis_bus::server::Signals + Clone,
{
    let path = bus.join(format!("{name}.sock"));
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    let server = Server::new(object, Callers::SocketModeDecides);
    let notifier = server.notifier();
    tokio::spawn(server.run(listener));
    Ok(notifier)
}
