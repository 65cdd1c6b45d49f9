//! Rules, port forwards, hairpin and refusals, as people on both sides of the router see them; on
//! either datapath.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_netns::Namespace;
use portcullis_qemu::{Host, SOON, addresses};
use serde_json::Value;

use super::ZONES;
use crate::scene::Scene;

/// What the page behind the port forward says.
const PAGE: &str = "from behind the router";
/// How long a connection is tried for that nobody refuses.
const SILENCE: Duration = Duration::from_secs(3);

pub fn on_ebpf(scene: &mut Scene) -> Result<()> {
    holds(scene, "ebpf")
}

pub fn on_nftables(scene: &mut Scene) -> Result<()> {
    holds(scene, "nftables")
}

fn holds(scene: &mut Scene, datapath: &str) -> Result<()> {
    let server = scene.host().address()?;
    scene.second_host().lease_by_udhcpc("laptop", SOON)?;
    let document = format!(
        r#"[firewall]
datapath = "{datapath}"
{ZONES}
[[firewall.rules]]
name = "refused"
from = "lan"
to = "wan"
protocols = ["tcp"]
destination_ports = ["8081"]
action = "reject"
[[firewall.rules]]
name = "silent"
from = "lan"
to = "wan"
protocols = ["tcp"]
destination_ports = ["8082"]
action = "deny"
[[firewall.port_forwards]]
name = "page"
zone = "wan"
protocol = "tcp"
ports = ["8080"]
to = "{server}"
to_port = 80
"#
    );
    scene
        .under(&document, |scene| check(scene, datapath))
        .with_context(|| format!("datapath {datapath}"))
}

fn check(scene: &Scene, datapath: &str) -> Result<()> {
    let (host, laptop) = (scene.host(), scene.second_host());
    let site = &scene.lab.internet.site;
    wait_until_in_force(host, datapath)?;
    let runs = scene.lab.pctl("datapath")?;
    let kind = runs.lines().find_map(|line| line.strip_prefix("Datapath"));
    ensure!(kind.map(str::trim) == Some(datapath), "another datapath runs:\n{runs}");
    let wan = wan_address(host)?;
    let page = serve_page(host.namespace())?;

    let seen = host.get(&format!("http://{}/", addresses::SITE))?;
    ensure!(seen.trim() == wan, "the site saw {seen}, the WAN address is {wan}");
    for (who, namespace) in [
        ("outside", site),
        ("a neighbour in the LAN", laptop.namespace()),
        ("itself", host.namespace()),
    ] {
        let body = fetch(namespace, &format!("{wan}:8080"))?;
        ensure!(
            body == Attempt::Answered(PAGE.to_owned()),
            "{who} at the forwarded port: {body:?}"
        );
    }
    for (what, namespace, target, expected) in [
        (
            "a rejected port",
            host.namespace(),
            format!("{}:8081", addresses::SITE),
            Attempt::Refused,
        ),
        ("a denied port", host.namespace(), format!("{}:8082", addresses::SITE), Attempt::Silence),
        ("a port that is not forwarded", site, format!("{wan}:8083"), Attempt::Silence),
        ("the router's page from outside", site, format!("{wan}:443"), Attempt::Silence),
    ] {
        let attempt = fetch(namespace, &target)?;
        ensure!(attempt == expected, "{what}: {attempt:?}, expected {expected:?}");
    }
    drop(page);
    Ok(())
}

fn wait_until_in_force(host: &Host, datapath: &str) -> Result<()> {
    let end = Instant::now() + SOON;
    loop {
        // The rule that refuses at once is the sign; before it is there, the answer is silence.
        let attempt = fetch(host.namespace(), &format!("{}:8081", addresses::SITE))?;
        if attempt == Attempt::Refused {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the rules are not in force on {datapath}: {attempt:?}");
        thread::sleep(Duration::from_millis(300));
    }
}

fn wan_address(host: &Host) -> Result<String> {
    let status = host.status()?;
    let address = status.pointer("/wan/0/address").and_then(Value::as_str);
    let (address, _prefix) =
        address.and_then(|text| text.split_once('/')).context("no WAN lease")?;
    Ok(address.to_owned())
}

#[derive(Debug, Eq, PartialEq)]
enum Attempt {
    Answered(String),
    Refused,
    Silence,
}

fn fetch(namespace: &Namespace, target: &str) -> Result<Attempt> {
    let limit = SILENCE.as_secs().to_string();
    let output = namespace
        .command("curl")
        .args(["-sS", "--max-time", &limit, &format!("http://{target}/")])
        .output()?;
    match output.status.code() {
        Some(0) => Ok(Attempt::Answered(String::from_utf8_lossy(&output.stdout).into_owned())),
        // CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT.
        Some(7) => Ok(Attempt::Refused),
        Some(28) => Ok(Attempt::Silence),
        code => {
            anyhow::bail!("curl {target}: {code:?}: {}", String::from_utf8_lossy(&output.stderr))
        }
    }
}

/// A web server on port 80 that lives as long as the value: it is stopped by a connection.
struct Page {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

fn serve_page(namespace: &Namespace) -> Result<Page> {
    let listener = namespace.enter(|| Ok(TcpListener::bind(("0.0.0.0", 80))?))?;
    listener.set_nonblocking(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A client that goes away in the middle is no error of the server.
                    let _ = answer(stream);
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    });
    Ok(Page { stop, thread: Some(thread) })
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    )
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
