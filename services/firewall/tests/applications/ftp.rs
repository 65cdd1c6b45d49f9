//! FTP (RFC 959, RFC 2428): curl against pyftpdlib. Passive mode is two connections in the same
//! direction; in active mode the server connects to an address and port that the client names.

use std::{fs, net::IpAddr, path::Path, time::Instant};

use anyhow::{Result, ensure};
use portcullis_datapath_abi::Counter;
use portcullis_netns::{Namespace, Running};
use portcullis_site::{HOST, PAIRS, SERVER, Site, WAN, wait_listening};
use tempfile::TempDir;

/// Exit codes of curl, `man curl`.
const REFUSED_PORT: i32 = 30;
const TIMED_OUT: i32 = 28;

/// Content of the file that is fetched and stored.
fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

struct Server {
    _running: Running,
    folder: TempDir,
}

impl Server {
    /// An anonymous server on port 21 that takes files, with further options of pyftpdlib.
    fn new(namespace: &Namespace, address: IpAddr, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("file"), content())?;
        let (program, address) = ("/usr/bin/python3", address.to_string());
        let mut command = namespace.command(program);
        command.args(["-m", "pyftpdlib", "-p", "21", "-w", "-i", &address]).args(options);
        command.arg("-d").arg(folder.path()).stderr(std::process::Stdio::null());
        let mut running =
            Running::start_logged(command, fs::File::create(folder.path().join("log"))?)?;
        wait_listening(namespace, 21).map_err(|error| match running.check() {
            Err(ended) => ended,
            Ok(()) => error,
        })?;
        Ok(Self { _running: running, folder })
    }

    fn file(&self, name: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.folder.path().join(name))?)
    }
}

/// Runs curl; its exit code and the bytes that it fetched.
fn curl(namespace: &Namespace, arguments: &str) -> Result<(Option<i32>, Vec<u8>)> {
    let mut command = namespace.command("curl");
    command.args(["-sS", "--noproxy", "*"]).args(arguments.split_whitespace());
    let output = command.output()?;
    Ok((output.status.code(), output.stdout))
}

/// Fetches a file and stores one, in the same mode.
fn both_ways(client: &Namespace, server: &Server, target: IpAddr, mode: &str) -> Result<()> {
    let url = match target {
        IpAddr::V4(address) => format!("ftp://{address}"),
        IpAddr::V6(address) => format!("ftp://[{address}]"),
    };
    let (code, fetched) = curl(client, &format!("--max-time 20 {mode} {url}/file"))?;
    ensure!(code == Some(0), "`{mode}` {url}: curl {code:?}");
    ensure!(fetched == content(), "`{mode}` {url}: {} other bytes came", fetched.len());
    let upload = server.folder.path().join("file");
    let line = format!("--max-time 20 {mode} -T {} {url}/stored", shown(&upload));
    let (code, _) = curl(client, &line)?;
    ensure!(code == Some(0), "`{mode}` to {url}: curl {code:?}");
    ensure!(server.file("stored")? == content(), "`{mode}` to {url}: other bytes were stored");
    Ok(fs::remove_file(server.folder.path().join("stored"))?)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn passive_mode_works_from_inside() -> Result<()> {
    let mut site = Site::new("")?;
    for (_, address) in PAIRS {
        let server = Server::new(&site.server, address, &[])?;
        // EPSV, which names no address; and PASV, which names the server's.
        for mode in ["--ftp-pasv", "--ftp-pasv --disable-epsv"] {
            if address.is_ipv4() || !mode.contains("disable") {
                both_ways(&site.host, &server, address, mode)?;
            }
        }
    }
    ensure!(site.count(Counter::DropPolicy)? == 0, "{}", site.counters()?);
    Ok(())
}

/// Ports on which a client inside takes data connections.
const ACTIVE: &str = r#"
[[firewall.port_forwards]]
name = "ftp-data"
zone = "wan"
protocol = "tcp"
ports = ["50000-50003"]
to = "192.168.77.100"
sources = ["203.0.113.10"]
"#;

#[test]
fn active_mode_from_inside_needs_a_port_forward() -> Result<()> {
    let mut site = Site::new("")?;
    let server = Server::new(&site.server, SERVER.into(), &[])?;
    let url = format!("ftp://{SERVER}/file");

    // The client names its own address, which is nobody's outside: the server says no at once.
    for mode in ["", "--disable-eprt"] {
        let begun = Instant::now();
        let (code, _) = curl(&site.host, &format!("--max-time 20 --ftp-port - {mode} {url}"))?;
        ensure!(code == Some(REFUSED_PORT), "`{mode}`: curl {code:?}");
        println!("refused after {:?}", begun.elapsed());
    }
    ensure!(site.count(Counter::DropPolicy)? == 0, "{}", site.counters()?);

    // It names the router's: the server's connection is one that nobody allowed.
    let named = format!("--ftp-port {WAN}:50000-50003");
    let (code, _) = curl(&site.host, &format!("--max-time 4 {named} {url}"))?;
    ensure!(code == Some(TIMED_OUT), "curl {code:?}");
    ensure!(site.count(Counter::DropPolicy)? > 0, "{}", site.counters()?);

    // With a forward it is allowed, by EPRT and by PORT.
    site.configure(ACTIVE)?;
    for mode in ["", "--disable-eprt"] {
        both_ways(&site.host, &server, SERVER.into(), &format!("{named} {mode}"))?;
    }
    Ok(())
}

#[test]
fn active_mode_over_ipv6_needs_a_rule() -> Result<()> {
    let mut site = Site::new("")?;
    let (host, address) = PAIRS[1];
    let server = Server::new(&site.server, address, &[])?;
    let named = format!("--ftp-port [{host}]:50000-50003");
    let (code, _) = curl(&site.host, &format!("--max-time 4 {named} ftp://[{address}]/file"))?;
    ensure!(code == Some(TIMED_OUT), "curl {code:?}");
    ensure!(site.count(Counter::DropPolicy)? > 0, "{}", site.counters()?);
    site.configure(&format!(
        r#"
[[firewall.rules]]
name = "ftp-data"
from = "wan"
to = "lan"
sources = ["{address}"]
destinations = ["{host}"]
protocols = ["tcp"]
destination_ports = ["50000-50003"]
action = "allow"
"#
    ))?;
    both_ways(&site.host, &server, address, &named)
}

#[test]
fn a_server_inside_works_behind_two_port_forwards() -> Result<()> {
    let site = Site::new(
        r#"
[[firewall.port_forwards]]
name = "ftp"
zone = "wan"
protocol = "tcp"
ports = [21, "50010-50019"]
to = "192.168.77.100"
"#,
    )?;
    let ports = WAN.to_string();
    let server = Server::new(&site.host, HOST.into(), &["-n", &ports, "-r", "50010-50019"])?;
    for mode in ["--ftp-pasv", "--ftp-pasv --disable-epsv", "--ftp-port -"] {
        both_ways(&site.server, &server, WAN.into(), mode)?;
    }
    Ok(())
}
