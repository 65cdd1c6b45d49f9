//! The commands of the firewall as a process against a stand-in for its service.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod common;

use std::{process::Command, sync::Arc};

use anyhow::{Context, Result};
use common::Pctl;
use portcullis_bus::{
    config::Config1,
    firewall::{CaptureRequest, Firewall1, FlowQuery},
};
use portcullis_peers::{FakeConfig, Receiver, Router, Running};

struct Lab {
    pctl: Pctl,
    firewall: Arc<Receiver>,
    config: Arc<FakeConfig>,
    _running: (Running<Firewall1>, Running<Config1>),
}

impl Lab {
    fn new() -> Result<Self> {
        let router = Router::new()?;
        let firewall = Arc::new(Receiver::default());
        let config = Arc::new(FakeConfig::default());
        let running = (
            router.serve("firewall", Firewall1(firewall.clone()))?,
            router.serve("config", Config1(config.clone()))?,
        );
        Ok(Self { pctl: Pctl { router }, firewall, config, _running: running })
    }
}

impl std::ops::Deref for Lab {
    type Target = Pctl;

    fn deref(&self) -> &Pctl {
        &self.pctl
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datapath_says_which_hook_and_why() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(
        lab.text(&["datapath"]).await?,
        "\
Datapath    ebpf
Flows       214 of 65536 (0 %)
Mappings    120 of 65536 (0 %)
Index       668 of 262144 (0 %)
Policy      12 rules in bank 1, routes 17
Dropped     5120 packets: drop.policy 5120

INTERFACE  DEVICE  HOOK         WANTED  PROGRAM  WHY THIS HOOK
lan        lan     tcx-egress   auto         40  a bridge has no XDP of its own
lan        lan     tcx-ingress  auto         41  a bridge has no XDP of its own
wan        eth0    xdp          auto         42  the driver has native XDP
"
    );
    let json = lab.json(&["datapath"]).await?;
    assert_eq!(json["status"]["flow_capacity"], 65_536);
    assert_eq!(json["attachments"][2]["hook"], "xdp");
    assert_eq!(json["drops"][0]["name"], "drop.policy");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_have_reasons_and_zones() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(
        lab.text(&["drops"]).await?,
        "\
REASON          FROM  TO      PACKETS      BYTES  WHAT IT MEANS
drop.policy     wan   router     5000  293.0 KiB  No policy allows the flow.
drop.policy     wan   lan         120    7.0 KiB  No policy allows the flow.
drop.malformed  wan   -             3      180 B  Headers contradict themselves.
"
    );
    assert_eq!(lab.json(&["drops"]).await?[2]["to_zone"], "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_are_asked_for_by_what_is_known_of_them() -> Result<()> {
    let lab = Lab::new()?;
    let table =
        lab.text(&["flows", "--host", "2001:db8::/32", "--port", "443", "--zone", "lan"]).await?;
    assert!(table.contains("192.168.77.100:50112"), "{table}");
    lab.text(&["flows", "-n", "7", "--protocol", "icmpv6"]).await?;
    assert_eq!(
        *lab.firewall.queries.lock().unwrap(),
        [
            FlowQuery {
                limit: 50,
                host: "2001:db8::/32".into(),
                port: 443,
                zone: "lan".into(),
                protocol: String::new(),
            },
            FlowQuery { limit: 7, protocol: "icmpv6".into(), ..FlowQuery::default() },
        ]
    );
    let (code, error) = lab.fails(&["flows", "--host", "192.168.77.256"]).await?;
    assert!(code == 2 && error.contains("an address or prefix is needed"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_prints_a_line_for_each_packet() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(
        lab.text(&["capture", "--drops", "--host", "10.0.0.0/8", "--sample", "1/10", "-c", "2"])
            .await?,
        "\
2026-11-22 10:00:00.025000 eth0     udp 192.168.77.100:12345 > 192.168.77.1:53, 46 bytes
2026-11-22 10:00:00.025000 eth0     tcp 198.51.100.7:12345 > 203.0.113.57:22 [S], 54 bytes (drop.policy, wan > router)
"
    );
    assert_eq!(
        *lab.firewall.captures.lock().unwrap(),
        [CaptureRequest {
            dropped_only: true,
            host: "10.0.0.0/8".into(),
            count: 2,
            snap: 9216,
            sample: 10,
            ..CaptureRequest::default()
        }]
    );
    let lines = lab.text(&["--json", "capture", "--seconds", "1"]).await?;
    let second: serde_json::Value = serde_json::from_str(lines.lines().nth(1).context("line")?)?;
    assert_eq!(second["comment"], "drop.policy, wan > router");
    assert_eq!(second["unix_us"], 1_795_341_600_025_000_u64);

    let (code, error) = lab.fails(&["capture", "--zone", "dmz"]).await?;
    assert_eq!(
        (code, error.as_str()),
        (1, "pctl: service `firewall`: zone: there is no `dmz`: lan, wan\n")
    );
    for wrong in [["--sample", "10"], ["--sample", "1/0"], ["--snap", "13"], ["--port", "0"]] {
        let (code, error) = lab.fails(&["capture", wrong[0], wrong[1]]).await?;
        assert!(code == 2 && error.contains(wrong[0]), "{error}");
    }
    Ok(())
}

/// Needs tcpdump.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcpdump_reads_the_file_of_a_capture() -> Result<()> {
    let lab = Lab::new()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("packets.pcapng");
    let name = file.to_str().context("path")?;
    assert_eq!(lab.text(&["capture", name]).await?, format!("2 packets in {name}\n"));
    assert_eq!(std::fs::read(&file)?, lab.run(&["capture", "-"]).await?.stdout);
    let read = Command::new("tcpdump").args(["-n", "-tt", "-r", name]).output()?;
    let text = String::from_utf8(read.stdout)?;
    assert!(
        text.contains("1795341600.025000 IP 198.51.100.7.12345 > 203.0.113.57.22: Flags [S]"),
        "{text}{}",
        String::from_utf8_lossy(&read.stderr)
    );
    assert_eq!(text.lines().count(), 2);
    let (code, error) = lab.fails(&["capture", "/nowhere/packets.pcapng"]).await?;
    assert_eq!(
        (code, error.as_str()),
        (2, "pctl: /nowhere/packets.pcapng: No such file or directory (os error 2)\n")
    );
    assert_eq!(lab.firewall.captures.lock().unwrap().len(), 2, "no capture without a place for it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_firewall_is_shown_explained_and_asked_again() -> Result<()> {
    let lab = Lab::new()?;
    let toml = lab.text(&["firewall", "show"]).await?;
    let document = portcullis_model::Document::parse(&toml)?;
    assert_eq!(document.firewall, portcullis_model::Document::parse("")?.firewall);
    assert!(toml.starts_with("[firewall]\n"), "{toml}");
    let json: serde_json::Value =
        serde_json::from_str(&lab.text(&["firewall", "show", "--as", "json"]).await?)?;
    assert_eq!(json["firewall"]["max_flows"], 65_536);
    let nft = lab.text(&["firewall", "show", "--as", "nft"]).await?;
    assert_eq!(nft, "table inet portcullis {\n}\n");

    let packet = ["tcp", "192.168.77.5:1234", "->", "203.0.113.5:443", "in", "lan"];
    let explain = [&["firewall", "explain"][..], &packet].concat();
    assert_eq!(
        lab.text(&explain).await?,
        "\
Rule `web` fits: TCP to port 443.
Zone wan masquerades: the source becomes 203.0.113.57.
allow: from lan to wan (rule `web`)
"
    );
    assert_eq!(
        lab.json(&["firewall", "explain", &packet.join(" ")]).await?["verdict"],
        "allow",
        "in one word too"
    );
    let (code, error) = lab.fails(&["firewall", "explain", "tcp"]).await?;
    assert_eq!((code, error.as_str()), (1, "pctl: service `firewall`: `tcp`: `->` is missing\n"));

    assert_eq!(
        lab.text(&["firewall", "check"]).await?,
        "`no-mail` never decides: `all-tcp` before it always does\n"
    );
    assert_eq!(lab.json(&["firewall", "check"]).await?[0]["kind"], "shadowed");

    assert_eq!(lab.text(&["firewall", "reevaluate"]).await?, "3 flows ended\n");
    assert_eq!(
        lab.text(&["firewall", "purge", "203.0.113.57"]).await?,
        "12 flows of 203.0.113.57 ended\n"
    );
    let (code, error) = lab.fails(&["firewall", "purge", "everything"]).await?;
    assert!(code == 2 && error.contains("an address or prefix is needed"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_imported_through_the_documents_own_transaction() -> Result<()> {
    let lab = Lab::new()?;
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("path")?.to_owned())
    };
    let rules = write(
        "rules.yaml",
        "\
rules:
  - name: web
    from: wan
    to: lan
    destinations: [192.168.77.20]
    protocols: [tcp]
    destination_ports: [80, 443]
    action: allow
",
    )?;
    assert_eq!(
        lab.text(&["firewall", "import", "--check", &rules]).await?,
        "valid; nothing was changed\n"
    );
    let applied = lab.text(&["firewall", "import", &rules]).await?;
    assert!(applied.starts_with("in force as generation 5\n"), "{applied}");
    let received = lab.config.received.lock().unwrap().clone();
    assert_eq!(received.len(), 2);
    let document = portcullis_model::Document::parse(&received[1])?;
    assert_eq!(document.firewall.rules.len(), 1);
    assert_eq!(document.firewall.rules[0].name.as_str(), "web");
    assert_eq!(document.firewall.zones.len(), 2, "what the file does not name stays");

    let wrong = write(
        "rules.json",
        r#"{"rules":[{"name":"web","from":"wan","to":"moon","action":"allow"}]}"#,
    )?;
    let output = lab.run(&["firewall", "import", &wrong]).await?;
    let told = String::from_utf8(output.stdout)?;
    assert!(told.contains("moon"), "{told}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lab.config.received.lock().unwrap().len(), 2, "nothing was sent");

    let yaml = lab.text(&["firewall", "show", "--as", "yaml"]).await?;
    assert!(yaml.contains("policies:"), "{yaml}");
    Ok(())
}
