//! Services die and come back; what flows goes on flowing.

use std::{
    fs::File,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail, ensure};
use portcullis_netns::Running;
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
    let mut flow = Flow::start(scene.host())?;
    for name in names.iter().filter(|name| *name != "console") {
        let before = restarts(scene, name)?;
        let said = scene.lab.pctl(&format!("kill {name}"))?;
        back(name, &said, || restarts(scene, name).is_ok_and(|count| count > before))?;
        works(scene).with_context(|| format!("after the kill of {name}"))?;
        flow.goes_on().with_context(|| format!("after the kill of {name}"))?;
    }
    Ok(())
}

pub fn firewall_keeps_flows(scene: &mut Scene) -> Result<()> {
    let mut flow = Flow::start(scene.host())?;
    for command in ["restart", "kill"] {
        let before = scene.pid("firewall")?;
        let said = scene.lab.pctl(&format!("{command} firewall"))?;
        back("firewall", &said, || scene.pid("firewall").is_ok_and(|pid| pid != before))?;
        flow.goes_on().with_context(|| format!("after {command} firewall"))?;
    }
    works(scene)
}

/// Waits until a service is there again.
fn back(name: &str, said: &str, is_there: impl Fn() -> bool) -> Result<()> {
    let killed = Instant::now();
    // The status itself is away while the web service is.
    while !is_there() {
        if killed.elapsed() > BACK_WITHIN {
            bail!("{name} is not back after {BACK_WITHIN:?} (pctl said: {said})");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Starts of a service that is ready now.
fn restarts(scene: &Scene, name: &str) -> Result<u64> {
    scene.pid(name)?;
    scene.service(name)?.get("restarts").and_then(Value::as_u64).context("no count of restarts")
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

/// A TCP connection through the NAT that carries a byte every 100 ms, as long as this value lives.
struct Flow {
    curl: Running,
    body: PathBuf,
}

/// Longer than the stories go on.
const FLOW_S: u64 = 1200;

impl Flow {
    fn start(host: &Host) -> Result<Self> {
        let body = host.folder().join("flow");
        // Those of an earlier flow do not count.
        drop(File::create(&body)?);
        let mut command = host.namespace().command("curl");
        command.args(["-sSf", "-N", "--max-time", &FLOW_S.to_string(), "-o"]).arg(&body);
        command.arg(format!("http://{}/slow/{FLOW_S}", addresses::SITE));
        let mut flow = Self { curl: Running::start(command)?, body };
        flow.goes_on()?;
        Ok(flow)
    }

    /// Half a second's worth arrives on the same connection: TCP loses nothing without breaking it.
    fn goes_on(&mut self) -> Result<()> {
        let arrived = |flow: &Self| Ok::<u64, Error>(flow.body.metadata()?.len());
        let before = arrived(self)?;
        let end = Instant::now() + SOON;
        while arrived(self)? < before + 5 {
            self.curl.check().context("the flow broke")?;
            ensure!(Instant::now() < end, "the flow stands still at {before} bytes");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
