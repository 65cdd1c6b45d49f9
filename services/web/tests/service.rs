//! The web service as a process, with stand-ins for the services that it asks and a real TLS
//! client.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod common;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use common::{connect, request, request_to};
use portcullis_bus::{
    config::Config1, connect_at, dhcp::Dhcp1, dns::Dns1, firewall::Firewall1, init::Init1,
    network::Network1, web::WebBusProxy,
};
use portcullis_model::{Document, part::WebPart};
use portcullis_peers::{
    FakeConfig, FakeInit, FakeNetwork, Process, Receiver, Router, Running, example,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

struct Lab {
    router: Router,
    address: SocketAddr,
    _config: Running<Config1>,
}

impl Lab {
    /// A router where only the config service answers.
    fn new() -> Result<Self> {
        let router = Router::new()?;
        let config = FakeConfig::default();
        let part = serde_json::to_string(&WebPart::of(&Document::default()))?;
        config.parts.lock().unwrap().push(("web".to_owned(), part));
        let config = router.serve("config", Config1(Arc::new(config)))?;
        // Free now; nobody else takes it before the service does, or the test fails and says so.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self { router, address, _config: config })
    }

    async fn start(&self) -> Result<Process> {
        let mut command = self.router.command(&example("web-service")?);
        command.env("PORTCULLIS_WEB_LISTEN", self.address.to_string());
        let process = Process::start(&mut command)?;
        let end = Instant::now() + LIMIT;
        while let Err(error) = connect(self.address, None).await {
            if Instant::now() > end {
                bail!("no service: {error:#}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(process)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.router.data_dir().join("web").join(name)
    }

    async fn status(&self, alpn: &str) -> Result<Value> {
        let (head, body) = request(self.address, alpn, "GET", "/api/v1/status", &[]).await?;
        anyhow::ensure!(head.status() == 200, "{head:?} {body}");
        anyhow::ensure!(head.headers()["content-type"] == "application/json", "{head:?}");
        anyhow::ensure!(head.headers()["cache-control"] == "no-store", "{head:?}");
        Ok(serde_json::from_str(&body)?)
    }

    async fn bus(&self) -> Result<WebBusProxy<'static>> {
        let connection = connect_at(&self.router.socket("web"), LIMIT).await?;
        Ok(WebBusProxy::new(&connection).await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_has_all_parts() -> Result<()> {
    let lab = Lab::new()?;
    let receiver = Arc::new(Receiver::default());
    let _peers = (
        lab.router.serve("init", Init1(Arc::new(FakeInit::default())))?,
        lab.router.serve("network", Network1(Arc::new(FakeNetwork::default())))?,
        lab.router.serve("firewall", Firewall1(receiver.clone()))?,
        lab.router.serve("dhcp", Dhcp1(receiver.clone()))?,
        lab.router.serve("dns", Dns1(receiver))?,
    );
    let _process = lab.start().await?;
    for alpn in ["http/1.1", "h2"] {
        let status = lab.status(alpn).await?;
        assert_eq!(status["errors"], serde_json::json!({}), "{status:#}");
        for (pointer, value) in [
            ("/version", Value::from("0.1.0")),
            ("/system/kernel", "6.12.48-amd64".into()),
            ("/system/healthy", true.into()),
            ("/slots/0/name", "a".into()),
            ("/slots/0/running", true.into()),
            ("/boot/0/name", "firmware".into()),
            ("/services/2/name", "dhcp".into()),
            ("/services/2/state", "ready".into()),
            ("/interfaces/0/addresses/0", "192.168.77.1/24".into()),
            ("/wan/0/state", "bound".into()),
            ("/wan/0/address", "203.0.113.57/24".into()),
            ("/leases/1/hostname", "laptop".into()),
            ("/flows/total", 214.into()),
            ("/flows/capacity", 65_536.into()),
            ("/counters/0/name", "forwarded".into()),
            ("/dns/upstreams/0/address", "203.0.113.53:53".into()),
            ("/config/generation", 4.into()),
            ("/certificate/names/0", "portcullis.lan".into()),
        ] {
            assert_eq!(status.pointer(pointer), Some(&value), "{pointer} in {status:#}");
        }
        assert!(status["flows"].get("flows").is_none(), "who talks to whom is not shown");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_without_peers_says_so_in_time() -> Result<()> {
    let lab = Lab::new()?;
    // They listen and never answer. Asked one after the other they would take 8 s.
    let hanging = ["network", "dhcp", "firewall", "dns"].map(|name| lab.router.listen(name));
    let _hanging = hanging.into_iter().collect::<Result<Vec<_>>>()?;
    let _process = lab.start().await?;
    let begin = Instant::now();
    let status = lab.status("h2").await?;
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
    for part in [
        "system",
        "slots",
        "boot",
        "services",
        "interfaces",
        "wan",
        "leases",
        "flows",
        "counters",
        "dns",
    ] {
        assert_eq!(status[part], Value::Null, "{part}");
        let error = status["errors"][part].as_str().context(part)?;
        assert!(error.contains("does not answer"), "{error}");
    }
    assert!(status["errors"]["wan"].as_str().unwrap().contains("network"));
    assert_eq!(status["config"]["source"], "stored");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_served_with_strict_headers() -> Result<()> {
    let lab = Lab::new()?;
    let _process = lab.start().await?;
    let (head, page) = request(lab.address, "h2", "GET", "/", &[]).await?;
    assert_eq!(head.status(), 200);
    assert!(page.contains("<title>Portcullis</title>"));
    // Without JavaScript there is a sentence, and nothing that waits for ever.
    assert!(page.contains("<noscript>"));
    for part in ["id=\"health\"", "id=\"parts\""] {
        let tag = page.split('<').find(|tag| tag.contains(part)).unwrap();
        assert!(tag.split('>').next().unwrap().ends_with(" hidden"), "{tag}");
    }
    for inline in ["<style", "style=", "onclick", "onload", "http://", "//cdn"] {
        assert!(!page.contains(inline), "{inline}");
    }
    let mut paths = vec!["/"];
    for (attribute, part) in [("href=\"", &page), ("src=\"", &page)] {
        for link in part.split(attribute).skip(1) {
            let path = link.split('"').next().unwrap();
            if path.starts_with('/') && !path.starts_with("/api") {
                paths.push(path);
            }
        }
    }
    assert!(paths.contains(&"/app.js") && paths.contains(&"/style.css"), "{paths:?}");
    for path in paths {
        let (head, body) = request(lab.address, "http/1.1", "GET", path, &[]).await?;
        assert_eq!(head.status(), 200, "{path}");
        assert!(!body.is_empty());
        let headers = head.headers();
        let policy = headers["content-security-policy"].to_str()?;
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert!(!headers.contains_key("strict-transport-security"));
        let etag = headers["etag"].to_str()?.to_owned();
        let known = [("if-none-match", etag.as_str())];
        let (head, body) = request(lab.address, "http/1.1", "GET", path, &known).await?;
        assert_eq!((head.status().as_u16(), body.as_str()), (304, ""));
        let (head, body) = request(lab.address, "http/1.1", "HEAD", path, &[]).await?;
        assert_eq!((head.status().as_u16(), body.as_str()), (200, ""));
    }
    Ok(())
}

/// A page in the internet whose name leads here all of a sudden (DNS rebinding) learns nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_answers_to_its_own_names() -> Result<()> {
    let lab = Lab::new()?;
    let _process = lab.start().await?;
    for alpn in ["http/1.1", "h2"] {
        for name in
            ["portcullis.lan", "PORTCULLIS.lan:443", "portcullis", "192.168.77.1", "localhost:8443"]
        {
            let (head, _) = request_to(name, lab.address, alpn, "GET", "/", &[]).await?;
            assert_eq!(head.status(), 200, "{alpn} {name}");
        }
        for path in ["/", "/api/v1/status", "/nothing"] {
            let (head, body) =
                request_to("rebound.example", lab.address, alpn, "GET", path, &[]).await?;
            assert_eq!(head.status(), 421, "{alpn} {path}");
            assert!(head.headers().contains_key("content-security-policy"));
            assert!(body.contains("portcullis.lan"), "{body}");
            assert!(!body.contains("kernel"), "{body}");
        }
    }
    // Another name at once, with the part that has it.
    let document = Document::parse("[system]\nhostname = \"gate\"\n")?;
    lab.bus().await?.apply(serde_json::to_string(&WebPart::of(&document))?).await?;
    for (name, status) in [("gate.lan", 200), ("portcullis.lan", 421)] {
        let (head, _) = request_to(name, lab.address, "h2", "GET", "/", &[]).await?;
        assert_eq!(head.status(), status, "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_json_under_api() -> Result<()> {
    let lab = Lab::new()?;
    let _process = lab.start().await?;
    for (method, path, status) in [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api", 404),
        ("POST", "/api/v1/status", 405),
        ("DELETE", "/api/v1/status", 405),
        ("GET", "/nothing", 404),
        ("PUT", "/", 405),
        ("GET", "/../../etc/passwd", 404),
    ] {
        let (head, body) = request(lab.address, "http/1.1", method, path, &[]).await?;
        assert_eq!(head.status(), status, "{method} {path}");
        assert!(head.headers().contains_key("content-security-policy"));
        if status == 405 {
            assert_eq!(head.headers()["allow"], "GET, HEAD");
        }
        if path.starts_with("/api") {
            let error: Value = serde_json::from_str(&body)?;
            assert_eq!(error["status"], status);
            assert!(error["error"].as_str().is_some_and(|text| !text.is_empty()));
        }
    }
    let long = "x".repeat(40_000);
    let outcome = request(lab.address, "http/1.1", "GET", "/", &[("x-long", &long)]).await;
    match outcome {
        Ok((head, _)) => assert_eq!(head.status(), 431),
        Err(error) => assert!(error.downcast_ref::<hyper::Error>().is_some(), "{error:#}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_and_certificate_stay() -> Result<()> {
    let lab = Lab::new()?;
    let process = lab.start().await?;
    let (_, first) = connect(lab.address, None).await?;
    let bus = lab.bus().await?;
    let status = bus.certificate().await?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &first);
    assert_eq!(status.sha256, hex::encode(digest), "the one in use is the one told of");
    assert_eq!(status.names, ["portcullis.lan", "portcullis", "192.168.77.1"]);
    let days = (status.not_after_unix_s - portcullis_runtime::unix_now_s()) / 86_400;
    assert!((800..=825).contains(&days), "{days}");
    let mode = fs::metadata(lab.file("key.pem"))?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let key = fs::read_to_string(lab.file("key.pem"))?;
    process.kill()?;

    let process = lab.start().await?;
    let (_, second) = connect(lab.address, None).await?;
    assert_eq!(first, second, "kept over a restart");

    // Other names: another certificate at once, with the same key.
    let document = Document::parse("[system]\nhostname = \"gate\"\n[dns]\ndomain = \"home.arpa\"")?;
    let bus = lab.bus().await?;
    bus.apply(serde_json::to_string(&WebPart::of(&document))?).await?;
    let (_, third) = connect(lab.address, None).await?;
    assert_ne!(second, third);
    assert_eq!(bus.certificate().await?.names, ["gate.home.arpa", "gate", "192.168.77.1"]);
    assert_eq!(fs::read_to_string(lab.file("key.pem"))?, key);
    assert!(matches!(
        bus.apply("{}".to_owned()).await,
        Err(portcullis_bus::Error::InvalidArgument(_))
    ));
    process.kill()?;

    // A damaged certificate is made anew, a damaged key, too; the page goes on.
    let text = fs::read_to_string(lab.file("certificate.json"))?;
    fs::write(lab.file("certificate.json"), text.replacen("\"der\":\"30", "\"der\":\"31", 1))?;
    let process = lab.start().await?;
    let (_, fourth) = connect(lab.address, None).await?;
    assert_ne!(third, fourth);
    assert_eq!(fs::read_to_string(lab.file("key.pem"))?, key);
    process.kill()?;
    fs::write(lab.file("key.pem"), key.get(..key.len() / 2).context("half")?)?;
    let _process = lab.start().await?;
    let (_, fifth) = connect(lab.address, None).await?;
    assert_ne!(fourth, fifth);
    assert_ne!(fs::read_to_string(lab.file("key.pem"))?, key);
    let mode = fs::metadata(lab.file("key.pem"))?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    Ok(())
}
