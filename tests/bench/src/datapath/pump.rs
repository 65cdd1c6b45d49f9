//! Bulk TCP between real stacks, through the router: one thread writes at one end and reads at the
//! other, so that all the work is on one CPU and its time is the cost.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use anyhow::{Context, Result};
use portcullis_netns::{Namespace, execute};

use super::{
    clock::Meter,
    compare::median,
    mode::Mode,
    ours::{Ours, Settings},
    router::{Device, status},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PORT: u16 = 5001;

const SETTINGS: Settings = Settings { xdp: false, capacity: 65_536, rules: 0 };

/// Turns of each mode that count.
const ROUNDS: usize = 41;
/// Bytes in one turn.
const BYTES: usize = 256 << 20;
/// Bytes offered to the socket at once.
const CHUNK: usize = 128 << 10;

/// A connection through a router.
struct Pump {
    mode: Mode,
    client: TcpStream,
    server: TcpStream,
    // Kept for what they hold open.
    _ours: Option<Ours>,
    _namespaces: [Namespace; 3],
}

impl Pump {
    fn new(mode: Mode) -> Result<Self> {
        let client = Namespace::new("pumpc")?;
        let router = Namespace::new("pumpr")?;
        let server = Namespace::new("pumps")?;
        router.join("lan", &client, "eth0")?;
        router.join("wan", &server, "eth0")?;
        client.address("eth0", &format!("{CLIENT}/24"))?;
        client.run("ip route add default via 192.168.77.1")?;
        server.address("eth0", &format!("{SERVER}/24"))?;
        router.address("lan", "192.168.77.1/24")?;
        router.address("wan", "198.51.100.2/24")?;
        router.run("sysctl -qw net.ipv4.ip_forward=1")?;
        // Without translation the server must know the way back.
        server.run("ip route add 192.168.77.0/24 via 198.51.100.2")?;
        if let Some(ruleset) = mode.ruleset() {
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), ruleset)?;
            execute(router.command("nft").arg("-f").arg(file.path()))?;
        }
        let interfaces = [
            status("lan", &Device::of(&router, "lan")?, "192.168.77.1/24".to_owned()),
            status("wan", &Device::of(&router, "wan")?, "198.51.100.2/24".to_owned()),
        ];
        let ours = match mode {
            Mode::Tcx => Some(Ours::attach(&router, &interfaces, SETTINGS)?),
            _ => None,
        };
        let listener = server.enter(|| Ok(TcpListener::bind((SERVER, PORT))?))?;
        let near = client.enter(|| {
            TcpStream::connect_timeout(&(SERVER, PORT).into(), std::time::Duration::from_secs(5))
                .with_context(|| format!("{}: connecting", mode.name()))
        })?;
        let (far, _) = listener.accept()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        Ok(Self {
            mode,
            client: near,
            server: far,
            _ours: ours,
            _namespaces: [client, router, server],
        })
    }

    /// CPU time of a mebibyte, in microseconds.
    fn run(&mut self, meter: Meter) -> Result<f64> {
        let chunk = vec![0x55; CHUNK];
        let mut buffer = vec![0; CHUNK];
        let (mut sent, mut received) = (0, 0);
        let before = meter.read()?;
        while received < BYTES {
            if let Some(rest) = chunk.get(..CHUNK.min(BYTES - sent))
                && !rest.is_empty()
            {
                match self.client.write(rest) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).with_context(|| self.mode.name()),
                }
            }
            loop {
                match self.server.read(&mut buffer) {
                    Ok(count) => received += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).with_context(|| self.mode.name()),
                }
            }
        }
        let spent = meter.read()?.checked_sub(before).context("the clock ran backwards")?;
        Ok(spent as f64 / 1000.0 / (BYTES >> 20) as f64)
    }
}

/// CPU time of a mebibyte in each mode, in microseconds.
pub fn measure(modes: &[Mode], meter: Meter) -> Result<Vec<(Mode, f64)>> {
    let mut pumps = Vec::new();
    for mode in modes {
        pumps.push((Pump::new(*mode)?, Vec::new()));
    }
    for round in 0..=ROUNDS {
        for (pump, samples) in &mut pumps {
            let cost = pump.run(meter)?;
            if round > 0 {
                samples.push(cost);
            }
        }
    }
    Ok(pumps.into_iter().map(|(pump, samples)| (pump.mode, median(samples))).collect())
}
