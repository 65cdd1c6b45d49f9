//! The config service as a process, with real sockets, files and stand-ins for the services that
//! take parts.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_without_a_stored_document() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(Document::parse(&config.document().await?)?, Document::default());
    let ConfigStatus { generation, source, problem, .. } = config.status().await?;
    assert_eq!((generation, source.as_str(), problem.as_str()), (0, "defaults", ""));
    let part: part::DhcpPart = serde_json::from_str(&config.part("dhcp".into()).await?)?;
    assert_eq!(part, part::DhcpPart::of(&Document::default()));
    match config.part("nobody".into()).await {
        Err(Error::NotFound(text)) => assert!(text.contains("network, firewall"), "{text}"),
        other => bail!("{other:?}"),
    }
    assert_eq!(lab.counts(), [0; 5]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_reaches_only_who_is_concerned() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;

    let report = config.apply(MORE_FLOWS.into()).await?;
    assert_eq!(accepted(&report), [("firewall", true)]);
    assert_eq!(report.generation, 1);
    assert_eq!(lab.counts(), [0, 1, 0, 0, 0]);
    let part: part::FirewallPart = serde_json::from_str(&lab.firewall.parts()[0])?;
    assert_eq!(part.firewall.max_flows, 2048);

    let report = config.apply(OTHER_NETWORK.into()).await?;
    let all = ["network", "firewall", "dhcp", "dns", "web"].map(|service| (service, true));
    assert_eq!(accepted(&report), all, "in this order");
    let part: part::WebPart = serde_json::from_str(&lab.web.parts()[0])?;
    assert_eq!(part.networks, ["10.0.0.0/24".parse()?]);

    let report = config.apply(OTHER_NETWORK.into()).await?;
    assert_eq!(accepted(&report), []);
    assert_eq!(report.generation, 3);
    assert_eq!(config.status().await?.generation, 3);
    assert_eq!(fs::read_to_string(lab.file("config.toml"))?, OTHER_NETWORK, "as written");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_document_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    for (text, path, words) in [
        ("[firewall]\nmax_flows = 1\n[dns]\ndomain = \"\"", "dns.domain", "is not a domain"),
        ("[firewall]\nmax_flow = 1", "firewall.max_flow", "unknown field `max_flow`"),
        ("[firewall", "", "line 1"),
    ] {
        let problems = config.check(text.into()).await?;
        assert_eq!(problems[0].path, path);
        assert!(problems[0].message.contains(words), "{problems:?}");
        let report = config.apply(text.into()).await?;
        assert!(!report.accepted);
        assert_eq!(report.problems, problems);
        assert_eq!(report.generation, 1);
    }
    let long = "#".repeat(Document::MAX_BYTES + 1);
    assert!(config.check(long).await?[0].message.contains("at most 8388608"));
    assert_eq!(config.check(OTHER_NETWORK.into()).await?, []);
    assert_eq!(config.status().await?.generation, 1);
    assert_eq!(fs::read_to_string(lab.file("config.toml"))?, MORE_FLOWS);
    assert_eq!(lab.counts(), [0, 1, 0, 0, 0]);
    Ok(())
}

/// One wrong name in thousands of places: what is said of it goes into the journal, the status and a
/// file, and must be read again at the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_very_many_problems_some_are_told() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    let rule =
        |n| format!("[[firewall.rules]]\nname = \"r{n}\"\nfrom = \"gone\"\naction = \"allow\"\n");
    let wrong: String = (0..12_000).map(rule).collect();
    let problems = config.check(wrong.clone()).await?;
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].message, "11900 more problems are not listed");
    assert_eq!(config.apply(wrong.clone()).await?.problems, problems);
    process.kill()?;

    fs::write(lab.file("config.toml"), &wrong)?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (2, "last-good"));
    assert!(status.problem.len() < 2_000, "{} bytes", status.problem.len());
    assert!(status.problem.ends_with("and 91 more"), "{}", status.problem);
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?, status, "the same at the next start, not counted again");
    Ok(())
}

/// What the limits of the firewall allow can be given to the router, also with all defaults written
/// out, as `pctl firewall import` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rules_and_a_hundred_thousand_prefixes_are_a_document() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    let mut text = String::from("[firewall.protection]\nblocklist = [\n");
    for n in 0..100_000_u32 {
        // Every other /24, so that none touches another.
        let [_, a, b, c] = (n << 1).to_be_bytes();
        text.push_str(&format!("\"{}.{b}.{c}.0/24\",\n", 100 + a));
    }
    text.push_str("]\n");
    for n in 0..10_000_u32 {
        let [_, _, a, b] = n.to_be_bytes();
        text.push_str(&format!(
            "[[firewall.rules]]\nname = \"rule-{n}\"\nfrom = \"lan\"\nto = \"wan\"\n\
             sources = [\"10.0.{a}.{b}\"]\nprotocols = [\"tcp\"]\ndestination_ports = [443]\n\
             action = \"reject\"\n"
        ));
    }
    let report = config.apply(text).await?;
    assert_eq!(accepted(&report), [("firewall", true)]);
    let written_out = config.document().await?;
    assert!(written_out.len() > 4 << 20, "{} bytes", written_out.len());
    assert_eq!(accepted(&config.apply(written_out.clone()).await?), [], "nothing changed");
    let peak = peak_memory(process.id())?;
    assert!(peak < 200 << 20, "{} MiB, and the manifest allows 256", peak >> 20);
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?.source, "stored");
    assert_eq!(config.document().await?, written_out);
    Ok(())
}

/// The most memory that a process had, in bytes.
fn peak_memory(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Who only asks for its part has no documents checked: a long one takes memory and time.
#[tokio::test]
async fn documents_are_for_the_console() -> Result<()> {
    let everybody = Config1(Arc::new(FakeConfig::default())).restricted().0;
    for outcome in [
        everybody.check(MORE_FLOWS.into()).await.map(drop),
        everybody.apply(MORE_FLOWS.into()).await.map(drop),
    ] {
        assert!(matches!(outcome, Err(Error::Denied(_))), "{outcome:?}");
    }
    assert_eq!(everybody.status().await?.generation, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_reported_and_tried_again() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    lab.dhcp.refuse(Some("no room"));
    fs::remove_file(lab.router.socket("dns"))?;
    let report = config.apply(OTHER_NETWORK.into()).await?;
    let expected =
        [("network", true), ("firewall", true), ("dhcp", false), ("dns", false), ("web", true)];
    assert_eq!(accepted(&report), expected, "the others go on");
    assert!(report.services[2].message.contains("no room"), "{report:?}");
    assert!(report.services[3].message.contains("dns.sock"), "{report:?}");
    let last_good = fs::read_to_string(lab.file("last-good.toml"))?;
    assert_eq!(last_good, MORE_FLOWS, "a document that somebody refused is not known to be good");

    // The service itself starts anew, and knows still whom to ask again.
    process.kill()?;
    let (process, config) = lab.start().await?;
    let more = OTHER_NETWORK.to_owned() + MORE_FLOWS;
    let report = config.apply(more).await?;
    assert_eq!(accepted(&report), [("firewall", true), ("dhcp", false), ("dns", false)]);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, MORE_FLOWS);
    let report = config.apply(OTHER_NETWORK.into()).await?;
    assert_eq!(accepted(&report), [("firewall", true), ("dhcp", false), ("dns", false)]);

    // The same document again: only those who do not run with it are asked.
    lab.dhcp.refuse(None);
    let _dns = lab.router.serve("dns", Dns1(lab.dns.clone()))?;
    let report = config.apply(OTHER_NETWORK.into()).await?;
    assert_eq!(accepted(&report), [("dhcp", true), ("dns", true)]);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, OTHER_NETWORK);
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?.source, "stored");
    assert_eq!(config.status().await?.generation, 5);
    let unfinished = fs::read_to_string(lab.file("state.json"))?.contains("unfinished");
    assert!(!unfinished, "nobody is left to be asked again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_document_gives_way_to_the_last_good_one() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    process.kill()?;

    fs::write(lab.file("config.toml"), b"[firewall]\nmax_fl\xff")?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (2, "last-good"));
    for words in ["config.toml cannot be used", "not UTF-8"] {
        assert!(status.problem.contains(words), "{status:?}");
    }
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;

    // The same at the next start: still said, not counted again.
    let (process, config) = lab.start().await?;
    assert_eq!(config.status().await?, status);

    // A new document ends it; the damaged one is kept.
    config.apply(OTHER_NETWORK.into()).await?;
    let status = config.status().await?;
    assert_eq!((status.source.as_str(), status.problem.as_str()), ("stored", ""));
    assert_eq!(fs::read(lab.file("config.damaged-1.toml"))?, b"[firewall]\nmax_fl\xff");
    config.apply(OTHER_NETWORK.into()).await?;
    assert!(!lab.file("config.damaged-2.toml").exists(), "the one before could be used");
    process.kill()?;

    // One that is readable but not valid any more, and a last good one that is damaged, too.
    fs::write(lab.file("config.toml"), "[firewall]\nmax_flows = 3")?;
    fs::write(lab.file("last-good.toml"), "[")?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!(status.source, "defaults");
    assert!(status.problem.contains("firewall.max_flows: 3 is not allowed"), "{status:?}");
    assert!(status.problem.contains("last-good.toml cannot be used"), "{status:?}");
    assert_eq!(Document::parse(&config.document().await?)?, Document::default());
    process.kill()?;

    // Damaged files are kept, but not without end.
    for round in 0..8 {
        fs::write(lab.file("config.toml"), format!("damaged {round}"))?;
        let (process, config) = lab.start().await?;
        config.apply(OTHER_NETWORK.into()).await?;
        process.kill()?;
    }
    let mut aside: Vec<String> = fs::read_dir(lab.file(""))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| name.as_ref().is_ok_and(|n| n.contains("damaged")))
        .collect::<Result<_>>()?;
    aside.sort();
    assert_eq!(aside.len(), 5, "{aside:?}");
    let newest = fs::read_to_string(lab.file("config.damaged-9.toml"))?;
    assert_eq!(newest, "damaged 7");
    Ok(())
}

/// The router tries a release that cannot read the document, and goes back to the one that can: a
/// slot on trial must not take away what the other one needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_of_another_release_is_in_force_again_with_that_release() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    process.kill()?;
    let newer = format!("{MORE_FLOWS}field_of_a_newer_release = true\n");
    for file in ["config.toml", "last-good.toml"] {
        fs::write(lab.file(file), &newer)?;
    }
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (2, "defaults"));
    assert!(status.problem.contains("field_of_a_newer_release"), "{status:?}");
    process.kill()?;
    for file in ["config.toml", "last-good.toml"] {
        assert_eq!(fs::read_to_string(lab.file(file))?, newer, "{file} is as it was");
    }

    // What the other release would read in the same place.
    fs::write(lab.file("config.toml"), MORE_FLOWS)?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (3, "stored"));
    assert_eq!(status.problem, "");
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?, status, "nothing new");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_stored_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    // Cannot be renamed over, as on a disk that is full at the wrong moment.
    fs::remove_file(lab.file("last-good.toml"))?;
    fs::create_dir(lab.file("last-good.toml"))?;
    assert!(config.apply(OTHER_NETWORK.into()).await?.accepted);
    let left: Vec<_> = fs::read_dir(lab.file(""))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| name.as_ref().is_ok_and(|name| name.ends_with(".new")))
        .collect::<Result<_>>()?;
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_stays_while_nothing_takes_its_place() -> Result<()> {
    let lab = Lab::new()?;
    fs::create_dir_all(lab.file(""))?;
    fs::write(lab.file("config.toml"), "of a newer release")?;
    // No document can be written, as on a full disk.
    fs::create_dir(lab.file(".config.toml.new"))?;
    let (_process, config) = lab.start().await?;
    let refused = config.apply(MORE_FLOWS.into()).await.unwrap_err().to_string();
    assert!(refused.contains("config.toml"), "{refused}");
    assert_eq!(fs::read(lab.file("config.toml"))?, b"of a newer release");
    assert!(!lab.file("config.damaged-1.toml").exists());

    fs::remove_dir(lab.file(".config.toml.new"))?;
    assert!(config.apply(MORE_FLOWS.into()).await?.accepted);
    assert_eq!(fs::read(lab.file("config.damaged-1.toml"))?, b"of a newer release");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_boot_takes_the_volume() -> Result<()> {
    let lab = Lab::new()?;
    let volume = lab.router.run_dir().join("volume");
    fs::create_dir_all(&volume)?;

    fs::write(volume.join("config.toml"), "[firewall]\nmax_flows = 3")?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (0, "defaults"));
    assert!(status.problem.contains("volume PORTCULLIS"), "{status:?}");
    assert!(status.problem.contains("firewall.max_flows: 3"), "{status:?}");
    process.kill()?;

    fs::write(volume.join("config.toml"), MORE_FLOWS)?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (1, "volume"));
    assert_eq!(status.problem, "");
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;

    // From then on there is a configuration, and the volume is not looked at.
    fs::write(volume.join("config.toml"), OTHER_NETWORK)?;
    let (process, config) = lab.start().await?;
    assert_eq!(config.status().await?.source, "stored");
    assert_eq!(config.status().await?.generation, 1);
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;

    // Not even if the stored one is damaged: the last good one is nearer to what was meant.
    fs::write(lab.file("config.toml"), "")?;
    fs::remove_file(lab.file("config.toml"))?;
    let (_process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!(status.source, "last-good");
    assert_eq!(status.problem, "config.toml was missing");
    assert!(config.document().await?.contains("max_flows = 2048"));
    Ok(())
}

/// Who takes the volume away must know that the router needs it still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_could_not_be_stored_is_told_of() -> Result<()> {
    let lab = Lab::new()?;
    let volume = lab.router.run_dir().join("volume");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("config.toml"), MORE_FLOWS)?;
    fs::create_dir_all(lab.file(""))?;
    // No document can be written, as on a full disk.
    fs::create_dir(lab.file(".config.toml.new"))?;
    let (_process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!(status.source, "volume");
    assert!(config.document().await?.contains("max_flows = 2048"));
    assert!(status.problem.starts_with("in force, but not stored"), "{status:?}");
    assert!(status.problem.contains("config.toml"), "{status:?}");

    fs::remove_dir(lab.file(".config.toml.new"))?;
    config.apply(MORE_FLOWS.into()).await?;
    assert_eq!(config.status().await?.problem, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_are_one_after_the_other() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    lab.firewall.hesitate(Duration::from_millis(20));
    let applies = (0..12_u32).map(|number| {
        let config = config.clone();
        tokio::spawn(async move {
            config.apply(format!("[firewall]\nmax_flows = {}", 2000 + number)).await
        })
    });
    let mut generations = Vec::new();
    for apply in applies.collect::<Vec<_>>() {
        let report = apply.await??;
        assert_eq!(accepted(&report), [("firewall", true)]);
        generations.push(report.generation);
    }
    generations.sort_unstable();
    assert_eq!(generations, (1..=12).collect::<Vec<_>>());
    let in_force = config.part("firewall".into()).await?;
    assert_eq!(lab.firewall.parts().last(), Some(&in_force), "the last one counts everywhere");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_outlives_its_caller_and_signals() -> Result<()> {
    use futures_util::StreamExt;
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    let mut changes = config.receive_changed().await?;
    lab.firewall.hesitate(Duration::from_secs(2));
    let connection = connect_at(&lab.router.socket("config"), LIMIT).await?;
    let caller = ConfigBusProxy::new(&connection).await?;
    let halfway = async {
        while config.status().await?.generation == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = caller.apply(MORE_FLOWS.into()) => bail!("the firewall hesitates longer: {outcome:?}"),
        outcome = halfway => outcome?,
    }
    connection.close().await?;
    tokio::time::timeout(LIMIT, changes.next()).await?.context("no signal")?;
    assert_eq!(lab.counts(), [0, 1, 0, 0, 0]);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, MORE_FLOWS);
    Ok(())
}

/// The document is in force, and half of the services know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_that_was_cut_off_is_finished() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    lab.dhcp.hesitate(LIMIT);
    let caller = config.clone();
    let apply = tokio::spawn(async move { caller.apply(OTHER_NETWORK.into()).await });
    let end = tokio::time::Instant::now() + LIMIT;
    while lab.network.received.parts().is_empty() {
        anyhow::ensure!(tokio::time::Instant::now() < end, "nobody got a part");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.kill()?;
    assert!(apply.await?.is_err());
    assert_eq!(lab.counts()[3..], [0; 2], "cut off at the DHCP server");
    lab.dhcp.hesitate(Duration::ZERO);

    let (_process, config) = lab.start().await?;
    while !lab.file("last-good.toml").exists() {
        anyhow::ensure!(tokio::time::Instant::now() < end, "{:?}", lab.counts());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(lab.counts()[3..], [1; 2]);
    assert_eq!(config.status().await?.generation, 1);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, OTHER_NETWORK);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_is_not_applied() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    fs::remove_dir_all(lab.file(""))?;
    match config.apply(MORE_FLOWS.into()).await {
        Err(Error::Failed(text)) => {
            assert!(text.contains("not stored and not applied"), "{text}");
            assert!(text.contains("No such file"), "{text}");
        }
        other => bail!("{other:?}"),
    }
    assert_eq!(config.status().await?.generation, 0);
    assert_eq!(lab.counts(), [0; 5]);
    Ok(())
}

/// The service dies at random instants while documents come in. Whatever was acknowledged is
/// there after the restart, or something newer; it is never damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_during_write_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut acknowledged = 0_u32;
    let mut submitted = 0_u32;
    for round in 0..30_u64 {
        let (process, config) = lab.start().await?;
        let status = config.status().await?;
        assert_eq!(status.problem, "", "round {round}");
        let document = Document::parse(&config.document().await?)?;
        if acknowledged > 0 {
            let flows = document.firewall.max_flows;
            assert!(
                (2000 + acknowledged..=2000 + submitted).contains(&flows),
                "round {round}: {flows}, acknowledged {acknowledged}, submitted {submitted}"
            );
            assert_eq!(status.source, "stored");
        }
        let end = Duration::from_millis(3 + round * 37 % 190);
        let killer = tokio::task::spawn_blocking(move || {
            std::thread::sleep(end);
            process.kill()
        });
        loop {
            submitted += 1;
            // A long document needs more than one write.
            let padding = "# padding\n".repeat(2_000);
            let text = format!("{padding}[firewall]\nmax_flows = {}", 2000 + submitted);
            match tokio::time::timeout(LIMIT, config.apply(text)).await? {
                Ok(report) => {
                    assert!(report.accepted);
                    acknowledged = submitted;
                }
                Err(_) => break,
            }
        }
        killer.await??;
    }
    assert!(acknowledged > 10, "hardly an apply was fast enough: the test proves nothing");
    Ok(())
}
