//! The page of a router that does not exist, for working on it: stand-ins answer for all other
//! services. `cargo build --examples -p portcullis-web && target/debug/examples/page [WORD...]`
//!
//! Words: `offline` (no WAN address), `sick` (a failed service), `partly` (some services do not
//! answer), `new` (nobody on the LAN yet).

use std::{io::Write, path::Path, sync::Arc};

use anyhow::{Context, Result};
use portcullis_bus::{
    config::Config1, dhcp::Dhcp1, dns::Dns1, firewall::Firewall1, init::Init1, network::Network1,
};
use portcullis_model::{Document, part::WebPart};
use portcullis_peers::{FakeConfig, FakeInit, FakeNetwork, Process, Receiver, Router};
use tokio::signal::unix::SignalKind;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|w| w == word);
    let router = Router::new()?;

    let config = FakeConfig::default();
    let part = serde_json::to_string(&WebPart::of(&Document::default()))?;
    config.parts.lock().ok().context("lock")?.push(("web".to_owned(), part));
    let init = FakeInit::default();
    let network = FakeNetwork::default();
    if has("offline") {
        for lease in &mut *network.wan.lock().ok().context("lock")? {
            lease.address = None;
            lease.state = "selecting".to_owned();
        }
    }
    if has("sick") {
        let mut system = init.system.lock().ok().context("lock")?;
        system.healthy = false;
        system.problems = vec![
            "the service dns has failed: it crashed 5 times in a minute".to_owned(),
            "the data partition has 3 MiB left of 950 MiB".to_owned(),
        ];
        system.data_free_bytes = 3 << 20;
        if let Some(dns) =
            init.services.lock().ok().context("lock")?.iter_mut().find(|s| s.name == "dns")
        {
            dns.state = "failed".to_owned();
            dns.last_exit = "ended with signal 11".to_owned();
            dns.restarts = 5;
        }
    }
    let _config = router.serve("config", Config1(Arc::new(config)))?;
    let _init = router.serve("init", Init1(Arc::new(init)))?;
    let _network = router.serve("network", Network1(Arc::new(network)))?;
    let receiver = Arc::new(Receiver::default());
    if has("new") {
        receiver.nobody();
    }
    let _firewall = router.serve("firewall", Firewall1(receiver.clone()))?;
    let _answering = if has("partly") {
        None
    } else {
        Some((router.serve("dhcp", Dhcp1(receiver.clone()))?, router.serve("dns", Dns1(receiver))?))
    };
    let program = std::env::current_exe()?;
    let program = program.parent().unwrap_or(Path::new(".")).join("web-service");
    let _web = Process::start(&mut router.command(&program))
        .with_context(|| program.display().to_string())?;
    writeln!(std::io::stderr(), "Ctrl-C ends it.")?;
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        outcome = tokio::signal::ctrl_c() => Ok(outcome?),
    }
}
