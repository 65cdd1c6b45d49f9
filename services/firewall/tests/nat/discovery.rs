//! What a peer finds out about the translation: coturn's `turnutils_natdiscovery` (RFC 5780) against
//! a STUN server with two addresses.

use anyhow::{Context, Result, ensure};
use portcullis_netns::{Namespace, Running};

use portcullis_site::{HOST, SERVER, SERVER_TOO, Site};

fn stun_server(namespace: &Namespace) -> Result<(Running, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().display();
    let running = namespace.start(&format!(
        "turnserver -n -S -v -L {SERVER} -L {SERVER_TOO} -p 3478 --alt-listening-port 3479 \
         --no-cli --no-tls --no-dtls --no-tcp -l {path}/log --simple-log \
         --pidfile {path}/pid --userdb {path}/db"
    ))?;
    for _ in 0..100 {
        // Both addresses, both ports.
        let sockets = namespace.run("cat /proc/net/udp")?;
        let open = [0x0D96_u16, 0x0D97]
            .iter()
            .all(|port| sockets.matches(&format!(":{port:04X} ")).count() >= 2);
        if open {
            return Ok((running, folder));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    None.context("the STUN server does not listen")
}

/// What the tool says about one kind of behaviour.
fn discover(host: &Namespace, options: &str) -> Result<String> {
    host.told(&format!("timeout 60 turnutils_natdiscovery {options} -L {HOST} -p 3478 {SERVER}"))
}

#[test]
fn a_stun_client_finds_the_mapping_independent_and_the_filter_strict() -> Result<()> {
    let mut site = Site::new("")?;
    let _server = stun_server(&site.server)?;
    let text = discover(&site.host, "-m")?;
    ensure!(
        text.contains("Endpoint Independent Mapping"),
        "RFC 4787 REQ-1: {text} {}",
        site.counters()?
    );
    let text = discover(&site.host, "-f")?;
    ensure!(text.contains("Address and Port Dependent Filtering"), "{text}");
    let text = discover(&site.host, "-H")?;
    ensure!(text.contains("successful hairpinning"), "RFC 4787 REQ-9: {text}");
    Ok(())
}

#[test]
fn with_full_cone_it_finds_the_filter_open() -> Result<()> {
    let site = Site::new(
        r#"
[[firewall.rules]]
name = "games"
from = "lan"
to = "wan"
protocols = ["udp"]
action = "allow"
full_cone = true
"#,
    )?;
    let _server = stun_server(&site.server)?;
    let text = discover(&site.host, "-f")?;
    ensure!(text.contains("Endpoint Independent Filtering"), "{text}");
    let text = discover(&site.host, "-m")?;
    ensure!(text.contains("Endpoint Independent Mapping"), "{text}");
    Ok(())
}
