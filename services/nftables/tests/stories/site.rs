//! The site of the tests, with our ruleset on its router, and what talks there.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portcullis_model::{Document, validate::validate};
use portcullis_netns::Namespace;
use portcullis_nftables::{
    compile::{Interface, Site as Facts, TABLE, compile, reason_and_pair},
    conntrack::Flow,
    kernel::{Netfilter, write_setting},
};
pub use portcullis_site::{
    HOST, HOST6, OTHER, PATIENCE, PROVIDER, ROUTER, SERVER, SERVER6, Topology, WAN,
};

/// Long enough for an answer, short enough to wait for none.
pub const MOMENT: Duration = Duration::from_millis(700);

/// The topology with our ruleset on its router.
pub struct Site(Topology);

impl Deref for Site {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        &self.0
    }
}

impl Site {
    /// Everything connected, with the ruleset of a configuration in force.
    pub fn new(configuration: &str) -> Result<Self> {
        let site = Self(Topology::new(true)?);
        site.configure(configuration)?;
        Ok(site)
    }

    /// Puts the ruleset of a configuration into force.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        const INTERFACES: &str = "[interfaces.wan]\nzone = \"wan\"\nports = [\"eth0\"]\n\
            [interfaces.lan]\nzone = \"lan\"\nkind = \"bridge\"\nports = [\"others\"]\n";
        let document = Document::parse(&format!("{INTERFACES}{configuration}"))?;
        let problems = validate(&document);
        ensure!(problems.is_empty(), "{problems:?}");
        let facts = Facts {
            interfaces: vec![
                interface("lan", "lan", &["192.168.77.1/24", "2001:db8:77::1/64"])?,
                interface("wan", "eth0", &["198.51.100.2/24", "2001:db8:1::2/64"])?,
            ],
            schedules: BTreeSet::new(),
            // Not the addresses that this test plays the internet with.
            bogons: ["10.0.0.0/8", "192.168.0.0/16", "::/3", "4000::/2", "8000::/1"]
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()?,
        };
        let compiled = compile(&document.firewall, &facts);
        self.router.enter(|| {
            portcullis_nftables::conntrack::settings(&document.firewall)
                .iter()
                .try_for_each(write_setting)?;
            Ok(Netfilter::open()?.replace(compiled.table)?)
        })
    }

    /// Packets that a counter counted, for all pairs of zones together.
    pub fn count(&self, reason: &str) -> Result<u64> {
        let counters = self.router.enter(|| Ok(Netfilter::open()?.counters(TABLE)?))?;
        let counted = counters.iter().filter(|one| reason_and_pair(&one.name).0 == reason);
        Ok(counted.map(|one| one.packets).sum())
    }

    pub fn flows(&self) -> Result<Vec<Flow>> {
        self.router.enter(|| {
            let mut flows = Vec::new();
            Netfilter::open()?.each_flow(|flow| flows.push(flow))?;
            Ok(flows)
        })
    }
}

fn interface(name: &str, device: &str, addresses: &[&str]) -> Result<Interface> {
    Ok(Interface {
        name: name.parse()?,
        device: device.to_owned(),
        zone: name.parse()?,
        addresses: addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
    })
}

/// A server that answers each of `count` connections with the address it came from.
pub struct Greeter {
    pub address: SocketAddr,
    thread: Option<thread::JoinHandle<()>>,
}

impl Greeter {
    pub fn start(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<Self> {
        use std::io::Write;

        let address = address.into();
        let listener = namespace.enter(|| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let thread = thread::spawn(move || {
            let end = Instant::now() + 10 * PATIENCE;
            while Instant::now() < end {
                match listener.accept() {
                    Ok((mut stream, peer)) => {
                        let _ = writeln!(stream, "{peer}");
                    }
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Self { address, thread: Some(thread) })
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        // The thread ends by itself; nothing waits for it.
        drop(self.thread.take());
    }
}

/// Connects from a namespace and reads what the greeter says: who it is seen as.
pub fn seen_as(namespace: &Namespace, to: impl Into<SocketAddr>) -> Result<SocketAddr> {
    use std::io::Read;

    let to = to.into();
    let mut stream = namespace
        .enter(|| TcpStream::connect_timeout(&to, MOMENT).with_context(|| format!("to {to}")))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.trim().parse().with_context(|| text.clone())
}

/// A UDP socket in a namespace.
pub fn udp(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<UdpSocket> {
    let address = address.into();
    namespace.enter(|| {
        let socket = UdpSocket::bind(address).with_context(|| address.to_string())?;
        socket.set_read_timeout(Some(MOMENT))?;
        Ok(socket)
    })
}

/// Whether a host answers a ping.
pub fn pings(namespace: &Namespace, to: &str) -> Result<bool> {
    Ok(namespace.run(&format!("ping -c 1 -W 1 {to}")).is_ok())
}
