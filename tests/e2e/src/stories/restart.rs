//! Services die and come back; what flows goes on flowing.

use std::{
    io::Read,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use portcullis_qemu::{Host, SOON, addresses};
use serde_json::Value;

use crate::scene::Scene;

/// Longest time that a killed service may be away, on a machine that is busy and emulates another.
const BACK_WITHIN: Duration = Duration::from_secs(15);

pub fn each_service(scene: &mut Scene) -> Result<()> {
    let names: Vec<String> = scene
        .services()?
        .iter()
        .filter_map(|service| service.get("name").and_then(Value::as_str).map(str::to_owned))
        .collect();
    for expected in ["config", "dhcp", "dns", "firewall", "network", "web"] {
        ensure!(names.iter().any(|name| name == expected), "no service {expected} in {names:?}");
    }
    let flow = Flow::start(scene.host(), 60)?;
    for name in names.iter().filter(|name| *name != "console") {
        let before = restarts(scene, name)?;
        let said = scene.lab.pctl(&format!("kill {name}"))?;
        let killed = Instant::now();
        loop {
            // The status itself is away while the web service is.
            if let Ok(count) = restarts(scene, name)
                && count > before
            {
                break;
            }
            if killed.elapsed() > BACK_WITHIN {
                bail!("{name} is not back {BACK_WITHIN:?} after the kill (pctl said: {said})");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        works(scene).with_context(|| format!("after the kill of {name}"))?;
    }
    flow.finish()
}

pub fn firewall_keeps_flows(scene: &mut Scene) -> Result<()> {
    let flow = Flow::start(scene.host(), 12)?;
    scene.lab.pctl("restart firewall")?;
    scene.lab.pctl("kill firewall")?;
    flow.finish()?;
    works(scene)
}

/// Starts of a service that is ready now.
fn restarts(scene: &Scene, name: &str) -> Result<u64> {
    let services = scene.services()?;
    let service = services
        .iter()
        .find(|service| service.get("name").and_then(Value::as_str) == Some(name))
        .with_context(|| format!("no service {name}"))?;
    let state = service.get("state").and_then(Value::as_str).unwrap_or_default();
    ensure!(state == "ready", "{name} is {state}");
    service.get("restarts").and_then(Value::as_u64).context("no count of restarts")
}

/// A new client is served: lease, name, page of the site.
fn works(scene: &Scene) -> Result<()> {
    let host = scene.second_host();
    host.forget()?;
    host.lease_by_udhcpc("laptop", SOON)?;
    let end = Instant::now() + SOON;
    loop {
        match host.get(&format!("http://{}/", addresses::SITE_NAME)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// A TCP connection through the NAT that carries a byte every 100 ms.
struct Flow {
    curl: Child,
    seconds: u64,
}

impl Drop for Flow {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

impl Flow {
    fn start(host: &Host, seconds: u64) -> Result<Self> {
        let url = format!("http://{}/slow/{seconds}", addresses::SITE);
        let limit = (seconds + 30).to_string();
        let curl = host
            .namespace()
            .command("curl")
            .args(["-sSf", "-N", "--max-time", &limit, &url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(Self { curl, seconds })
    }

    /// Waits for its regular end: a byte lost or a connection reset is an error.
    fn finish(mut self) -> Result<()> {
        let mut body = Vec::new();
        self.curl.stdout.take().context("curl without output")?.read_to_end(&mut body)?;
        let status = self.curl.wait()?;
        ensure!(status.success(), "the flow broke: curl: {status}");
        let (length, sent) = (body.len() as u64, self.seconds * 10);
        ensure!(length == sent, "{length} of {sent} bytes arrived");
        Ok(())
    }
}
