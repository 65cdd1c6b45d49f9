//! A small internet for the appliance's WAN: an access provider with DHCP and DNS (dnsmasq), and
//! behind it a second router hop with a web server. All in namespaces of our own.
//!
//! ```text
//! WAN of the appliance ── provider (198.51.100.1) ── 192.0.2.0/24 ── site (203.0.113.10)
//! ```
//! The site has a route to the provider's customers and none to any private network: what the
//! appliance does not translate is never answered.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use portcullis_netns::{Namespace, Running};

/// Addresses and names of the simulated internet (documentation prefixes, RFC 5737).
pub mod addresses {
    /// The provider's router, DHCP and DNS server.
    pub const PROVIDER: &str = "198.51.100.1";
    /// First address that the provider leases; it leases 11.
    pub const WAN_FIRST: &str = "198.51.100.50";
    /// Last address that the provider leases.
    pub const WAN_LAST: &str = "198.51.100.60";
    /// Prefix that all leased addresses begin with.
    pub const WAN_PREFIX: &str = "198.51.100.";
    /// The web server.
    pub const SITE: &str = "203.0.113.10";
    /// Its name.
    pub const SITE_NAME: &str = "www.example.com";
}

/// The simulated internet.
#[derive(Debug)]
pub struct Internet {
    /// The provider; device `wan0` goes to the appliance.
    pub provider: Namespace,
    /// The web server's host.
    pub site: Namespace,
    dnsmasq: Option<Running>,
    folder: PathBuf,
    visitors: Arc<Mutex<BTreeSet<IpAddr>>>,
    server: TcpListener,
    wan: File,
}

impl Drop for Internet {
    fn drop(&mut self) {
        // The thread that waits for visitors would keep the namespace for ever.
        let _ = rustix::net::shutdown(&self.server, rustix::net::Shutdown::Both);
    }
}

impl Internet {
    /// Builds it; DHCP and DNS log into `folder`.
    ///
    /// # Errors
    /// Not root, or a program is missing.
    pub fn new(folder: &Path) -> Result<Self> {
        let (provider, site) = (Namespace::new("isp")?, Namespace::new("site")?);
        let wan = provider.tap("wan0", true)?;
        provider.address("wan0", &format!("{}/24", addresses::PROVIDER))?;
        provider.join("core0", &site, "core0")?;
        provider.address("core0", "192.0.2.1/24")?;
        site.address("core0", "192.0.2.2/24")?;
        site.address("lo", &format!("{}/32", addresses::SITE))?;
        provider.run(&format!("ip route add {}/32 via 192.0.2.2", addresses::SITE))?;
        site.run("ip route add 198.51.100.0/24 via 192.0.2.1")?;
        provider.run("sysctl -qw net.ipv4.ip_forward=1")?;
        let server = site.enter(|| Ok(TcpListener::bind((addresses::SITE, 80))?))?;
        let mut internet = Self {
            provider,
            site,
            dnsmasq: None,
            folder: folder.to_owned(),
            visitors: Arc::default(),
            server,
            wan,
        };
        internet.start_provider_services()?;
        let listener = internet.server.try_clone()?;
        let visitors = Arc::clone(&internet.visitors);
        std::thread::spawn(move || serve(&listener, &visitors));
        Ok(internet)
    }

    /// The appliance's end of the WAN cable.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn wan_cable(&self) -> Result<File> {
        // The device lives as long as our own descriptor, over restarts of the machine.
        self.wan.try_clone().context("tap wan0")
    }

    /// Starts the provider's DHCP and DNS (again).
    ///
    /// # Errors
    /// If dnsmasq does not start.
    pub fn start_provider_services(&mut self) -> Result<()> {
        let leases = self.folder.join("provider.leases");
        let log = self.dns_log();
        let mut command = self.provider.command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file="])
            .args(["--no-resolv", "--no-hosts", "--interface=wan0", "--bind-interfaces"])
            .args(["--except-interface=lo", "--dhcp-authoritative", "--log-queries", "--log-dhcp"])
            .arg(format!("--log-facility={}", log.display()))
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .arg(format!(
                "--dhcp-range={},{},255.255.255.0,10m",
                addresses::WAN_FIRST,
                addresses::WAN_LAST
            ))
            .arg(format!("--dhcp-option=option:router,{}", addresses::PROVIDER))
            .arg(format!("--dhcp-option=option:dns-server,{}", addresses::PROVIDER))
            .arg(format!("--host-record={},{}", addresses::SITE_NAME, addresses::SITE))
            .args([
                "--domain=provider.example",
                "--auth-zone=unused.example",
                "--auth-server=x.example",
            ]);
        let mut dnsmasq = Running::start(command)?;
        std::thread::sleep(Duration::from_millis(200));
        dnsmasq.check()?;
        self.dnsmasq = Some(dnsmasq);
        Ok(())
    }

    /// dnsmasq's log: every query and every DHCP message.
    pub fn dns_log(&self) -> PathBuf {
        self.folder.join("provider.log")
    }

    /// The addresses that the web server has been visited from, as it saw them.
    pub fn visitors(&self) -> BTreeSet<IpAddr> {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the content of `http://SITE/bytes/LENGTH` to `out`: bytes that do not repeat.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_content(length: u64, out: &mut impl Write) -> std::io::Result<()> {
        let mut block = Vec::with_capacity(1 << 16);
        let mut left = length;
        let mut state = 0_u64;
        while left > 0 {
            block.clear();
            while block.len() < 1 << 16 {
                // SplitMix64: cheap and without period that a router could hide a fault in.
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = state;
                word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                block.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
            }
            let take = left.min(block.len() as u64);
            let part = usize::try_from(take).ok().and_then(|take| block.get(..take));
            out.write_all(part.unwrap_or(&block))?;
            left -= take;
        }
        Ok(())
    }
}

fn serve(listener: &TcpListener, visitors: &Arc<Mutex<BTreeSet<IpAddr>>>) {
    while let Ok((stream, peer)) = listener.accept() {
        let visitors = Arc::clone(visitors);
        std::thread::spawn(move || {
            // A client that goes away in the middle is no error of the server.
            let _ = answer(stream, peer, &visitors);
        });
    }
}

fn answer(
    mut stream: TcpStream,
    peer: SocketAddr,
    visitors: &Mutex<BTreeSet<IpAddr>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    visitors.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.ip());
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
    }
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    let head = |status: &str, length: u64| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    if let Some(length) = path.strip_prefix("/bytes/").and_then(|n| n.parse::<u64>().ok()) {
        stream.write_all(head("200 OK", length).as_bytes())?;
        Internet::write_content(length, &mut stream)
    } else if let Some(seconds) = path.strip_prefix("/slow/").and_then(|n| n.parse::<u64>().ok()) {
        // One byte each 100 ms: a flow that lives while something else happens.
        stream.write_all(head("200 OK", seconds * 10).as_bytes())?;
        for _ in 0..seconds * 10 {
            stream.write_all(b".")?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    } else {
        let body = format!("{}\n", peer.ip());
        stream.write_all(head("200 OK", body.len() as u64).as_bytes())?;
        stream.write_all(body.as_bytes())
    }
}
