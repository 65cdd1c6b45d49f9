//! What the service tells while real packets pass: a capture that tcpdump reads, log records, flow
//! records that nfcapd and an independent decoder read, drops by zone pair. The service is a process
//! of its own. Needs root, util-linux (nsenter), iproute2,
//! ping, tcpdump, nfdump.
#![allow(clippy::print_stdout, reason = "a test harness of its own")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod around;

use std::{
    io::Read,
    net::{Ipv4Addr, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use netflow_parser::{NetflowPacket, NetflowParser, variable_versions::ipfix::FlowSetBody};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use portcullis_bus::{
    config::Config1,
    firewall::{CaptureRequest, FirewallBusProxy},
    network::Network1,
};
use portcullis_model::{
    Document,
    firewall::{Datapath, Hook},
    part::FirewallPart,
};
use portcullis_netns::{Namespace, execute};
use portcullis_peers::{FakeConfig, FakeNetwork, Router};

use around::{Pins, connect, interfaces, loaded, until};

const ROLE: &str = "PORTCULLIS_TEST_ROLE";
const PATIENCE: Duration = Duration::from_secs(45);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// Rules with `log`, and two collectors on the server: one is this test, one is nfcapd.
const DOCUMENT: &str = r#"
[firewall.zones.lan]
services = ["dns", "ping"]
[firewall.zones.wan]
masquerade = true
# The server's addresses are those of documentation.
bogons = false

[[firewall.rules]]
name = "names"
from = "lan"
to = "wan"
protocols = ["udp"]
destination_ports = ["5353"]
action = "allow"
log = true

[[firewall.rules]]
name = "no-mail"
from = "lan"
to = "wan"
protocols = ["udp"]
destination_ports = ["25"]
action = "deny"
log = true

[firewall.flow_export]
collectors = ["198.51.100.10:4739", "198.51.100.10:2055"]
domain = 7
"#;

fn main() -> ExitCode {
    if std::env::var_os(ROLE).is_some() {
        return portcullis_firewall::main();
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("telemetry_of_the_service: test");
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(story())) {
        Ok(()) => {
            println!("test telemetry_of_the_service ... ok ({:.1?})", started.elapsed());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("test telemetry_of_the_service ... FAILED\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn end(mut self) -> Result<()> {
        execute(Command::new("kill").arg(self.0.id().to_string()))?;
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

struct Lab {
    host: Namespace,
    server: Namespace,
    folder: tempfile::TempDir,
    /// What the service wrote to the journal.
    journal: PathBuf,
}

impl Lab {
    /// UDP datagrams from a port of the host to a port of the server, each of `length` bytes.
    fn send(&self, from: u16, to: u16, count: u32, length: usize) -> Result<()> {
        self.host.enter(|| {
            // The datapath counts by processor what it does not tell, until it tells the next there.
            let this = Pid::from_raw(0);
            let allowed = sched_getaffinity(this)?;
            let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
            let mut one = CpuSet::new();
            one.set(first.context("no processor")?)?;
            sched_setaffinity(this, &one)?;
            let socket = UdpSocket::bind(("192.168.77.100", from))?;
            for _ in 0..count {
                socket.send_to(&vec![0x55; length], (SERVER, to))?;
            }
            Ok(())
        })
    }

    /// Journal records with this message and rule.
    fn records(&self, message: &str, rule: &str) -> Result<Vec<serde_json::Value>> {
        let text = std::fs::read_to_string(&self.journal)?;
        let records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(records
            .filter(|record: &serde_json::Value| {
                record["message"] == message && record["rule"] == rule
            })
            .collect())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn story() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        execute(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
    }
    let pins = Pins(PathBuf::from(format!("/sys/fs/bpf/pc-telemetry-{}", std::process::id())));
    let router = Namespace::new("tlrtr")?;
    let host = Namespace::new("tlhost")?;
    let server = Namespace::new("tlsrv")?;
    router.join("lan", &host, "eth0")?;
    router.join("eth0", &server, "eth0")?;
    router.address("lan", "192.168.77.1/24")?;
    router.address("eth0", "198.51.100.2/24")?;
    host.address("eth0", "192.168.77.100/24")?;
    host.run("ip route add default via 192.168.77.1")?;
    server.address("eth0", "198.51.100.10/24")?;

    let folder = tempfile::tempdir()?;
    let bus = Router::new()?;
    let config = Arc::new(FakeConfig::default());
    let part = FirewallPart::of(&Document::parse(DOCUMENT)?);
    config.parts.lock().unwrap().push(("firewall".to_owned(), serde_json::to_string(&part)?));
    let network = Arc::new(FakeNetwork::default());
    *network.interfaces.lock().unwrap() = interfaces(&router, "198.51.100.2")?;
    let _running =
        (bus.serve("config", Config1(config))?, bus.serve("network", Network1(network))?);
    let collector = server.enter(|| Ok(UdpSocket::bind((SERVER, 4739))?))?;
    collector.set_read_timeout(Some(Duration::from_millis(500)))?;
    let flows = folder.path().join("flows");
    std::fs::create_dir(&flows)?;
    let nfcapd = Process(
        server
            .command("nfcapd")
            .args(["-p", "2055", "-t", "2", "-l"])
            .arg(&flows)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nfcapd of nfdump")?,
    );
    let journal = folder.path().join("journal");
    let service = Process(
        // Not `ip netns exec`, which hides the BPF file system behind a new /sys.
        bus.command(Path::new("nsenter"))
            .arg(format!("--net=/run/netns/{}", router.name()))
            .arg(std::env::current_exe()?)
            .env(ROLE, "service")
            .env("PORTCULLIS_BPF_DIR", &pins.0)
            .env("JOURNAL_STREAM", "1:1")
            .stderr(std::fs::File::create(&journal)?)
            .spawn()?,
    );
    let lab = Lab { host, server, folder, journal };
    let firewall = match connect(&bus.socket("firewall")).await {
        Ok(firewall) => firewall,
        Err(error) => {
            let said = std::fs::read_to_string(&lab.journal)?;
            return Err(error.context(format!("its journal says: {said:.2000}")));
        }
    };
    until("four attachments", async || Ok(firewall.attachments().await?.len() == 4)).await?;
    // The programs come one after the other, behind the service; those of captures last.
    loaded(&firewall).await?;
    until("a ping", async || Ok(lab.host.run("ping -c 1 -W 1 198.51.100.10").is_ok())).await?;

    log_of_rules(&lab).await?;
    drops(&lab, &firewall).await?;
    captures(&lab, &firewall).await?;
    captures_of_xdp(&lab, &firewall, &part).await?;
    export(&lab, &firewall, &collector, nfcapd, &flows).await?;
    end_with_the_datapath(&firewall, part).await?;
    drop(service);
    Ok(())
}

async fn log_of_rules(lab: &Lab) -> Result<()> {
    println!("  rules with `log` leave a record with all that is known");
    lab.send(40_001, 5353, 1, 10)?;
    lab.send(40_002, 25, 1, 10)?;
    until("two records", async || {
        Ok(lab.records("rule", "names")?.len() == 1 && lab.records("rule", "no-mail")?.len() == 1)
    })
    .await?;
    let record = &lab.records("rule", "no-mail")?[0];
    for (field, value) in [
        ("action", "deny"),
        ("from", "lan"),
        ("to", "wan"),
        ("protocol", "udp"),
        ("source", "192.168.77.100:40002"),
        ("destination", "198.51.100.10:25"),
    ] {
        ensure!(record[field] == value, "{field}: {record}");
    }
    ensure!(lab.records("rule", "names")?[0]["action"] == "allow");

    println!("  a flood of hits is no flood of records, and the rest is counted");
    for port in 0..500_u16 {
        lab.send(41_000 + port, 25, 1, 10)?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    lab.send(40_003, 25, 1, 10)?;
    let told = |records: &[serde_json::Value]| {
        let untold: u64 = records.iter().filter_map(|record| record["untold"].as_u64()).sum();
        (records.len() as u64, untold)
    };
    until("502 hits, most of them not told", async || {
        let (records, untold) = told(&lab.records("rule", "no-mail")?);
        ensure!(records < 300, "{records} records");
        Ok(records + untold == 502)
    })
    .await
}

async fn drops(lab: &Lab, firewall: &FirewallBusProxy<'static>) -> Result<()> {
    println!("  drops are counted by reason between zones");
    let drops = firewall.drops().await?;
    let policy = drops
        .iter()
        .find(|drop| {
            drop.reason == "drop.policy" && drop.from_zone == "lan" && drop.to_zone == "wan"
        })
        .with_context(|| format!("{drops:?}"))?;
    ensure!(policy.packets == 502 && policy.bytes == 502 * 38, "{policy:?}");
    // From outside nobody gets in.
    lab.server.enter(|| {
        let socket = UdpSocket::bind((SERVER, 5000))?;
        socket.send_to(b"hello", ("198.51.100.2", 9))?;
        Ok(())
    })?;
    until("a drop from the WAN", async || {
        Ok(firewall.drops().await?.iter().any(|drop| {
            drop.reason == "drop.policy" && drop.from_zone == "wan" && drop.to_zone == "router"
        }))
    })
    .await
}

async fn captures(lab: &Lab, firewall: &FirewallBusProxy<'static>) -> Result<()> {
    println!("  a capture is a file that tcpdump reads, of the packets that were asked for");
    let request = CaptureRequest {
        host: "192.168.77.100".to_owned(),
        port: 6000,
        count: 3,
        seconds: 20,
        ..CaptureRequest::default()
    };
    let capture = firewall.capture(request).await?;
    ensure!(firewall.capture(CaptureRequest::default()).await.is_err(), "one capture at a time");
    lab.send(42_000, 6001, 5, 100)?;
    lab.send(42_000, 6000, 5, 100)?;
    let file = lab.file("packets.pcapng");
    std::fs::write(&file, read_all(capture.into()).await?)?;
    let text = tcpdump(&file)?;
    ensure!(text.lines().count() == 3, "{text}");
    ensure!(
        text.lines()
            .all(|line| line
                .contains("IP 192.168.77.100.42000 > 198.51.100.10.6000: UDP, length 100")),
        "{text}"
    );

    let begun = Command::new("tcpdump").args(["-tt", "-n", "-r"]).arg(&file).output()?;
    let seconds = String::from_utf8(begun.stdout)?;
    let seconds: f64 = seconds.split_whitespace().next().context("a time")?.parse()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    ensure!((now - 120.0..=now).contains(&seconds), "{seconds} is not a moment ago, {now}");

    println!("  time is up while nobody reads: the file is whole all the same");
    let request = CaptureRequest { port: 6000, seconds: 1, ..CaptureRequest::default() };
    let capture = begin(firewall, request).await?;
    for port in 0..4 {
        lab.send(44_000 + port, 6000, 200, 1400)?;
    }
    // Longer than the limit; what the socket takes is a fraction of what there is.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes = read_all(capture.into()).await?;
    ensure!(bytes.len() > 400_000, "{} bytes are no jam", bytes.len());
    let file = lab.file("slow.pcapng");
    std::fs::write(&file, bytes)?;
    let text = tcpdump(&file)?;
    ensure!(text.lines().all(|line| line.contains("length 1400")), "{text:.2000}");

    println!("  dropped packets carry their reason; bytes and time are limited");
    let request = CaptureRequest {
        dropped_only: true,
        reason: "drop.policy".to_owned(),
        zone: "lan".to_owned(),
        seconds: 2,
        snap: 60,
        ..CaptureRequest::default()
    };
    // The one before may be about to end.
    let begun = Instant::now();
    let capture = loop {
        match firewall.capture(request.clone()).await {
            Ok(capture) => break capture,
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    lab.send(42_001, 25, 2, 200)?;
    lab.send(42_001, 6000, 2, 200)?;
    let bytes = read_all(capture.into()).await?;
    let file = lab.file("drops.pcapng");
    std::fs::write(&file, &bytes)?;
    let text = tcpdump(&file)?;
    ensure!(text.lines().count() == 2 && text.contains("42001 > 198.51.100.10.25"), "{text}");
    let text = String::from_utf8_lossy(&bytes);
    ensure!(text.contains("drop.policy, lan > wan"), "the comment");
    ensure!(text.contains("lan") && bytes.len() < 1000, "{} bytes", bytes.len());

    println!("  dropped packets that the router answers are shown, and answered all the same");
    let request = CaptureRequest {
        dropped_only: true,
        reason: "drop.ttl".to_owned(),
        seconds: 2,
        ..CaptureRequest::default()
    };
    let capture = begin(firewall, request).await?;
    let answers = lab.host.told("ping -c 2 -i 0.2 -W 2 -t 1 198.51.100.10")?;
    ensure!(answers.matches("Time to live exceeded").count() == 2, "{answers}");
    let bytes = read_all(capture.into()).await?;
    let file = lab.file("answered.pcapng");
    std::fs::write(&file, &bytes)?;
    let text = tcpdump(&file)?;
    ensure!(
        text.matches("192.168.77.100 > 198.51.100.10: ICMP echo request").count() == 2,
        "{text}"
    );
    let comments = String::from_utf8_lossy(&bytes);
    ensure!(comments.contains("drop.ttl, lan > wan"), "the comment");

    println!("  who closes the file ends the capture");
    let capture = begin(firewall, CaptureRequest::default()).await?;
    drop(capture);
    let capture = begin(firewall, CaptureRequest { seconds: 1, ..Default::default() }).await?;
    lab.host.run("ping -c 2 -i 0.2 -W 5 198.51.100.10")?;
    let file = lab.file("all.pcapng");
    std::fs::write(&file, read_all(capture.into()).await?)?;
    let text = tcpdump(&file)?;
    // As they come in, and as they go out translated.
    for seen in [
        "IP 192.168.77.100 > 198.51.100.10: ICMP echo request",
        "IP 198.51.100.2 > 198.51.100.10: ICMP echo request",
        "IP 198.51.100.10 > 198.51.100.2: ICMP echo reply",
        "IP 198.51.100.10 > 192.168.77.100: ICMP echo reply",
    ] {
        ensure!(text.contains(seen), "{seen} in\n{text}");
    }
    lab.host.run("ping -c 1 -W 5 198.51.100.10").map(drop)
}

async fn captures_of_xdp(
    lab: &Lab,
    firewall: &FirewallBusProxy<'static>,
    part: &FirewallPart,
) -> Result<()> {
    println!("  where XDP takes the packets, its program goes on to the one whose place it takes");
    let mut with_xdp = part.clone();
    with_xdp.firewall.hooks.insert("lan".to_owned().try_into()?, Hook::Xdp);
    firewall.apply(serde_json::to_string(&with_xdp)?).await?;
    let program = async || -> Result<Option<u32>> {
        let attachments = firewall.attachments().await?;
        Ok(attachments.iter().find(|at| at.hook == "xdp").map(|at| at.program_id))
    };
    // Its programs are loaded behind the service.
    until("XDP on the LAN", async || Ok(program().await?.is_some())).await?;
    until("all of its programs", async || {
        let status = firewall.datapath().await?;
        Ok(status.programs == status.programs_wanted)
    })
    .await?;
    let before = program().await?.context("XDP on the LAN")?;
    let request = CaptureRequest { count: 2, protocol: "icmp".to_owned(), ..Default::default() };
    let capture = begin(firewall, CaptureRequest { seconds: 2, ..request }).await?;
    ensure!(program().await?.is_some_and(|now| now != before), "another program");
    lab.host.run("ping -c 1 -W 5 198.51.100.10")?;
    let file = lab.file("xdp.pcapng");
    std::fs::write(&file, read_all(capture.into()).await?)?;
    let text = tcpdump(&file)?;
    ensure!(text.contains("IP 192.168.77.100 > 198.51.100.10: ICMP echo request"), "{text}");
    until("the program from before", async || Ok(program().await? == Some(before))).await?;
    lab.host.run("ping -c 1 -W 5 198.51.100.10")?;
    firewall.apply(serde_json::to_string(part)?).await?;
    ensure!(program().await?.is_none(), "XDP is gone");
    Ok(())
}

async fn end_with_the_datapath(
    firewall: &FirewallBusProxy<'static>,
    mut part: FirewallPart,
) -> Result<()> {
    println!("  a capture ends when nothing copies packets any more");
    let capture = begin(firewall, CaptureRequest::default()).await?;
    part.firewall.datapath = Datapath::Nftables;
    firewall.apply(serde_json::to_string(&part)?).await?;
    read_all(capture.into()).await.map(drop)
}

/// Begins a capture as soon as the one before has ended.
async fn begin(
    firewall: &FirewallBusProxy<'static>,
    request: CaptureRequest,
) -> Result<zbus::OwnedFd> {
    let begun = Instant::now();
    loop {
        match firewall.capture(request.clone()).await {
            Ok(capture) => return Ok(capture),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn export(
    lab: &Lab,
    firewall: &FirewallBusProxy<'static>,
    collector: &UdpSocket,
    nfcapd: Process,
    flows: &Path,
) -> Result<()> {
    println!("  ended flows reach the collectors with both directions and their translation");
    let answering = lab.server.enter(|| Ok(UdpSocket::bind((SERVER, 7000))?))?;
    answering.set_read_timeout(Some(Duration::from_secs(5)))?;
    lab.send(43_000, 7000, 3, 100)?;
    let mut bytes = [0; 200];
    let (_, from) = answering.recv_from(&mut bytes)?;
    answering.send_to(&[1; 50], from)?;
    ensure!(from.ip() == Ipv4Addr::new(198, 51, 100, 2), "{from}");
    until("the answer", async || {
        let page = firewall.flows(100).await?;
        Ok(page.flows.iter().any(|flow| flow.source.ends_with(":43000") && flow.packets_in == 1))
    })
    .await?;
    ensure!(firewall.purge("192.168.77.0/24".to_owned()).await? >= 1);
    let mut parser = NetflowParser::default();
    let end = Instant::now() + PATIENCE;
    let record = 'found: loop {
        ensure!(Instant::now() < end, "no record of the flow");
        let mut message = [0; 2000];
        let Ok(length) = collector.recv(&mut message) else { continue };
        let parsed = parser.parse_bytes(&message[..length]);
        ensure!(parsed.error.is_none(), "{:?}", parsed.error);
        for packet in parsed.packets {
            let NetflowPacket::IPFix(packet) = packet else { bail!("{packet:?}") };
            ensure!(packet.header.observation_domain_id == 7);
            for set in packet.flowsets {
                let FlowSetBody::Data(data) = set.body else { continue };
                for record in data.fields {
                    let text = format!("{record:?}");
                    if text.contains("43000") {
                        break 'found text;
                    }
                }
            }
        }
    };
    for element in
        ["Ip4Addr(192.168.77.100)", "Ip4Addr(198.51.100.2)", "Ip4Addr(198.51.100.10)", "ForcedEnd"]
    {
        ensure!(record.contains(element), "{element} in {record}");
    }
    until("a log record of an end", async || Ok(!lab.records("flow ended", "names")?.is_empty()))
        .await?;
    // nfcapd writes a file every two seconds, and the last one when it ends.
    tokio::time::sleep(Duration::from_secs(3)).await;
    nfcapd.end()?;
    let read = Command::new("nfdump")
        .args(["-q", "-o", "fmt:%pr %sa %sp %da %dp %nsa %pkt %opkt %byt %obyt", "-R"])
        .arg(flows)
        .output()
        .context("nfdump")?;
    let text = String::from_utf8(read.stdout)?;
    let line = text.lines().find(|line| line.contains("43000")).with_context(|| text.clone())?;
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(
        words
            == [
                "UDP",
                "192.168.77.100",
                "43000",
                "198.51.100.10",
                "7000",
                "198.51.100.2",
                "3",
                "1",
                "384",
                "78"
            ],
        "{line}"
    );
    Ok(())
}

fn tcpdump(file: &Path) -> Result<String> {
    let output =
        Command::new("tcpdump").args(["-n", "-r"]).arg(file).output().context("tcpdump")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

async fn read_all(file: OwnedFd) -> Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::from(file);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).context("the capture has not ended")?;
        Ok(bytes)
    })
    .await?
}
