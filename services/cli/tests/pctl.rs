//! `pctl` as a process against stand-ins for the services: what it prints and how it ends.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod common;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use common::Pctl;
use portcullis_bus::{
    config::{Config1, Problem, ServiceOutcome},
    dhcp::Dhcp1,
    firewall::Firewall1,
    init::{Init1, JournalRecord},
    network::Network1,
};
use portcullis_peers::{
    Control, FakeConfig, FakeInit, FakeNetwork, Process, Receiver, Router, Running, example,
};

/// For what happens soon, on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(60);

type AllRunning =
    (Running<Init1>, Running<Config1>, Running<Network1>, Running<Dhcp1>, Running<Firewall1>);

struct Lab {
    pctl: Pctl,
    init: Arc<FakeInit>,
    config: Arc<FakeConfig>,
    running: AllRunning,
}

impl Lab {
    fn new() -> Result<Self> {
        let router = Router::new()?;
        let init = Arc::new(FakeInit::default());
        let config = Arc::new(FakeConfig::default());
        let receiver = Arc::new(Receiver::default());
        let running = (
            router.serve("init", Init1(init.clone()))?,
            router.serve("config", Config1(config.clone()))?,
            router.serve("network", Network1(Arc::new(FakeNetwork::default())))?,
            router.serve("dhcp", Dhcp1(receiver.clone()))?,
            router.serve("firewall", Firewall1(receiver))?,
        );
        Ok(Self { pctl: Pctl { router }, init, config, running })
    }
}

impl std::ops::Deref for Lab {
    type Target = Pctl;

    fn deref(&self) -> &Pctl {
        &self.pctl
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(
        lab.text(&["status"]).await?,
        "\
Version       0.1.0, kernel 6.12.48-amd64
Up            3 h 12 min
Health        ok
Memory        85.0 MiB of 486.0 MiB in use
Data          921.0 MiB of 950.0 MiB free
Boot          firmware 3.7 s, kernel 2.2 s, stage-one 0.6 s, services 1.1 s
Configuration generation 4, stored
Internet      203.0.113.57/24 by wan, gateway 203.0.113.1, DNS 203.0.113.53 203.0.113.54 (bound)

SLOT  VERSION  RUNNING  CONFIRMED  PRIORITY  TRIES
a     0.1.0    yes      yes              15      0
b     empty    no       no                0      3

INTERFACE  DEVICE  ZONE  LINK  ADDRESSES         RECEIVED       SENT  PORTS
lan        lan     lan   up    192.168.77.1/24  812.0 MiB    9.1 GiB  eth1 eth2 (no link)
wan        eth0    wan   up    203.0.113.57/24    9.1 GiB  815.0 MiB  eth0
"
    );
    let json = lab.json(&["status"]).await?;
    assert_eq!(json["system"]["version"], "0.1.0");
    assert_eq!(json["wan"][0]["address"], "203.0.113.57/24");
    assert_eq!(json["errors"], serde_json::json!({}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_without_a_service_names_it() -> Result<()> {
    let lab = Lab::new()?;
    std::fs::remove_file(lab.router.socket("network"))?;
    let output = lab.run(&["status"]).await?;
    assert_eq!(output.status.code(), Some(3));
    let (out, error) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert!(out.contains("Health        ok") && out.contains("Internet      unknown"), "{out}");
    assert!(
        error.starts_with("pctl: service `network` does not answer: cannot connect"),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists() -> Result<()> {
    let lab = Lab::new()?;
    let services = lab.text(&["services"]).await?;
    assert_eq!(services.lines().count(), 8, "{services}");
    assert!(
        services.contains(
            "dhcp      ready  2026-11-22 06:48:00         0  7.0 MiB    0.9  yes        3 leases\n"
        ),
        "{services}"
    );
    assert_eq!(
        lab.text(&["leases"]).await?,
        "\
ADDRESS         MAC                NAME    INTERFACE  STATE    EXPIRES (UTC)        RESERVED
192.168.77.10   52:54:00:aa:00:0a  nas     lan        bound    2026-11-22 21:06:40  yes
192.168.77.100  52:54:00:aa:00:64  laptop  lan        bound    2026-11-22 21:06:40  no
192.168.77.101  52:54:00:aa:00:65  -       lan        bound    2026-11-22 21:06:40  no
192.168.77.102  52:54:00:aa:00:66  phone   lan        expired  2026-11-22 21:06:40  no
"
    );
    assert_eq!(
        lab.text(&["flows", "-n", "1"]).await?,
        "\
PROTOCOL  SOURCE                DESTINATION       SEEN AS             ZONES      STATE              OUT       IN  IDLE
tcp       192.168.77.100:50112  198.51.100.7:443  203.0.113.57:50112  lan > wan  established  117.2 KiB  5.1 MiB  3 s of 2 h 4 min
1 of 214 flows, room for 65536
"
    );
    assert_eq!(
        lab.text(&["counters"]).await?,
        "\
COUNTER       PACKETS    BYTES  WHAT IT COUNTS
forwarded    12700311  9.5 GiB  passed from one interface to another
drop.policy      5120  3.9 MiB  refused because no policy allows it
"
    );
    assert_eq!(lab.json(&["leases"]).await?[1]["hostname"], "laptop");
    assert_eq!(lab.json(&["flows"]).await?["total"], 214);
    assert_eq!(lab.json(&["counters"]).await?[0]["name"], "forwarded");
    assert_eq!(lab.json(&["services"]).await?[2]["name"], "dhcp");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_filters_and_does_not_obey_escape_sequences() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(
        lab.text(&["log"]).await?,
        "\
2026-11-22 10:00:00.250 info  init: service ready name=dhcp seconds=0.4
2026-11-22 10:00:00.500 info  dhcp: lease given address=192.168.77.100
2026-11-22 10:00:00.750 warn  dhcp: name \\u{1b}[31mrefused
2026-11-22 10:00:01.000 error dns: no upstream answers tried=2
"
    );
    let warnings = lab.text(&["log", "--service", "dhcp", "--level", "warn"]).await?;
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert_eq!(lab.text(&["log", "-n", "2"]).await?.lines().count(), 2);
    let lines = lab.text(&["log", "--json"]).await?;
    let records: Vec<serde_json::Value> =
        lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(records[3]["message"], "no upstream answers");
    Ok(())
}

/// Also those of the second set (U+009B begins a sequence as ESC [ does), inside of lists, and what
/// turns the direction of writing around; and in JSON, which a terminal shows as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_from_outside_controls_the_terminal() -> Result<()> {
    let lab = Lab::new()?;
    let hostile = "a\u{202e}b\u{9b}31mc\u{2028}d\u{7f}";
    lab.init.journal.lock().unwrap().push(JournalRecord {
        cursor: 5,
        unix_ms: 1000,
        service: "dhcp".into(),
        level: "info".into(),
        message: hostile.into(),
        fields: serde_json::json!({ "list": [hostile], hostile: 1 }).to_string(),
    });
    let escaped = "a\\u{202e}b\\u{9b}31mc\\u{2028}d\\u{7f}";
    let text = lab.text(&["log", "-n", "1"]).await?;
    let controls = |text: &str| {
        text.chars().any(|c| c != '\n' && c.is_control() || matches!(c, '\u{2028}'..='\u{202e}'))
    };
    assert!(!controls(&text), "{text:?}");
    assert!(text.contains(&format!("dhcp: {escaped} {escaped}=1 list=[\"{escaped}\"]")), "{text}");
    let json = lab.text(&["log", "-n", "1", "--json"]).await?;
    assert!(!controls(&json), "{json:?}");
    let record: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(record["message"], hostile, "the same to a program");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_follows() -> Result<()> {
    let lab = Lab::new()?;
    let mut command = lab.router.command(&example("pctl")?);
    command.args(["log", "-f", "-n", "1"]);
    let process = Arc::new(Process::start(&mut command)?);
    let wait_for = async |text: String| {
        let process = process.clone();
        tokio::task::spawn_blocking(move || process.wait_for(&text, LIMIT)).await?
    };
    wait_for("no upstream answers".to_owned()).await?;
    for cursor in 5..8 {
        lab.init.journal.lock().unwrap().push(JournalRecord {
            cursor,
            service: "web".into(),
            level: "info".into(),
            message: format!("record {cursor}"),
            fields: "{}".into(),
            ..Default::default()
        });
        lab.running.0.notifier.changed();
        wait_for(format!("record {cursor}\n")).await?;
    }
    let text = process.written();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.get(24..)).collect();
    assert_eq!(
        lines,
        [
            "error dns: no upstream answers tried=2",
            "info  web: record 5",
            "info  web: record 6",
            "info  web: record 7"
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_show_status_check_apply() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(lab.text(&["config", "show"]).await?, "version = 1\n");
    assert_eq!(lab.json(&["config", "show"]).await?["dns"]["domain"], "lan");
    lab.config.status.lock().unwrap().problem = "config.toml was missing".into();
    assert_eq!(
        lab.text(&["config", "status"]).await?,
        "\
Generation  4
Source      stored
Since       2026-11-21 10:00:00 UTC
Problem     config.toml was missing
"
    );

    let file = lab.router.run_dir().join("new.toml");
    std::fs::write(&file, "[dns]\ndomain = \"office\"\n")?;
    let file = file.to_str().context("path")?;
    assert_eq!(lab.text(&["config", "check", file]).await?, "valid\n");
    lab.config.outcomes.lock().unwrap().extend([
        ServiceOutcome { service: "dhcp".into(), applied: true, message: String::new() },
        ServiceOutcome { service: "dns".into(), applied: true, message: String::new() },
    ]);
    let applied = lab.text(&["config", "apply", file]).await?;
    assert_eq!(
        applied,
        "in force as generation 5\nSERVICE  APPLIED  REMARK\ndhcp     yes\ndns      yes\n"
    );
    assert_eq!(lab.config.received.lock().unwrap().last().unwrap(), "[dns]\ndomain = \"office\"\n");

    // From standard input.
    let mut command = lab.router.command(&example("pctl")?);
    command.args(["config", "apply", "-"]);
    let mut process = Process::start(&mut command)?;
    process.write("version = 1\n")?;
    let (code, _) = tokio::task::spawn_blocking(move || process.finish(LIMIT)).await??;
    assert_eq!(code, Some(0));
    assert_eq!(lab.config.received.lock().unwrap().last().unwrap(), "version = 1\n");

    {
        let mut outcomes = lab.config.outcomes.lock().unwrap();
        outcomes[1].applied = false;
        outcomes[1].message = "no memory".into();
    }
    let output = lab.run(&["config", "apply", file]).await?;
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8(output.stdout)?.contains("dns      NO       no memory\n"));

    lab.config
        .problems
        .lock()
        .unwrap()
        .push(Problem { path: "dns.domain".into(), message: "`-` is not a domain".into() });
    for verb in ["check", "apply"] {
        let output = lab.run(&["config", verb, file]).await?;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8(output.stdout)?, "dns.domain: `-` is not a domain\n");
        assert_eq!(
            String::from_utf8(output.stderr)?,
            "pctl: the document is not valid: 1 problem\n"
        );
    }
    let (code, error) = lab.fails(&["config", "check", "/nonexistent"]).await?;
    assert_eq!((code, error.contains("/nonexistent: No such file")), (2, true), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(lab.text(&["restart", "dhcp"]).await?, "dhcp is restarting\n");
    lab.text(&["kill", "dns"]).await?;
    lab.text(&["reboot"]).await?;
    lab.text(&["shutdown"]).await?;
    assert_eq!(
        *lab.init.controls.lock().unwrap(),
        [
            Control::Restart("dhcp".into()),
            Control::Kill("dns".into()),
            Control::Reboot,
            Control::Shutdown
        ]
    );
    let (code, error) = lab.fails(&["restart", "smtp"]).await?;
    assert_eq!(code, 1);
    assert!(
        error.starts_with("pctl: service `init`: no service `smtp`; allowed: config"),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_and_absent_services() -> Result<()> {
    let lab = Lab { pctl: Pctl { router: Router::new()? }, ..Lab::new()? };
    for wrong in [&["nonsense"][..], &[], &["flows", "-n", "0"], &["log", "-l", "loud"]] {
        assert_eq!(lab.fails(wrong).await?.0, 2, "{wrong:?}");
    }
    assert!(lab.text(&["--help"]).await?.contains("Exit codes: 0 done"));
    for (command, service) in
        [("services", "init"), ("leases", "dhcp"), ("flows", "firewall"), ("log", "init")]
    {
        let (code, error) = lab.fails(&[command]).await?;
        assert_eq!(code, 3, "{error}");
        assert!(
            error.starts_with(&format!("pctl: service `{service}` does not answer:")),
            "{error}"
        );
    }
    // One that hangs.
    let _hanging = lab.router.listen("dhcp")?;
    let (code, error) = lab.fails(&["leases"]).await?;
    assert_eq!(
        (code, error.as_str()),
        (3, "pctl: service `dhcp` does not answer: nothing for 5 s\n")
    );
    Ok(())
}
