//! Bulk TCP between real stacks, through the router: one thread writes at one end and reads at the
//! other, so that all the work is on one CPU and its time is the cost.
//!
//! A sender that paces itself sends by timers. Each of them costs an interrupt, which on a virtual
//! machine may be as dear as several frames, and the thread, which never sleeps, is charged with waiting for
//! it; how many there are depends on what the sender believes of the path, not on the router. So it must
//! not pace itself, and what could make a figure another one is noted beside it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use portcullis_netns::{Namespace, execute};

use super::{
    clock::Meter,
    compare::Cost,
    mode::Mode,
    ours::{Ours, Settings},
    router::{Device, status},
    witness::{Seen, Witness},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PORT: u16 = 5001;

/// It sends what the window allows (RFC 5681), and every kernel has it. The machine's own choice may be
/// one that paces, as BBR does.
const CONGESTION_CONTROL: &str = "reno";

const SETTINGS: Settings = Settings { xdp: false, capacity: 65_536, rules: 0 };

/// Connections of each mode, one after the other: what is peculiar to one, as where its memory is, does
/// not decide.
const CONNECTIONS: usize = 3;
/// Turns of each connection that count: short ones, so that what disturbs the machine disturbs all modes.
const ROUNDS: usize = 81;
/// Bytes in one turn.
const BYTES: usize = 64 << 20;
/// Bytes offered to the socket at once.
const CHUNK: usize = 128 << 10;

/// A connection through a router.
struct Pump {
    mode: Mode,
    client: TcpStream,
    server: TcpStream,
    router: Namespace,
    ours: Option<Ours>,
    // Kept for what they hold open.
    _ends: [Namespace; 2],
}

/// What a mode cost, and what was seen meanwhile.
pub struct Pumped {
    /// Microseconds of CPU for a mebibyte.
    pub cost: Cost,
    /// In all turns that count.
    pub seen: Seen,
}

impl Pump {
    fn new(mode: Mode) -> Result<Self> {
        let client = Namespace::new("pumpc")?;
        let router = Namespace::new("pumpr")?;
        let server = Namespace::new("pumps")?;
        // Neighbour discovery would be counted among the packets.
        for namespace in [&client, &router, &server] {
            namespace.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")?;
        }
        router.join("lan", &client, "eth0")?;
        router.join("wan", &server, "eth0")?;
        client.address("eth0", &format!("{CLIENT}/24"))?;
        client.run("ip route add default via 192.168.77.1")?;
        client.run(&format!("sysctl -qw net.ipv4.tcp_congestion_control={CONGESTION_CONTROL}"))?;
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
            TcpStream::connect_timeout(&(SERVER, PORT).into(), Duration::from_secs(5))
                .with_context(|| format!("{}: connecting", mode.name()))
        })?;
        let (far, _) = listener.accept()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        Ok(Self { mode, client: near, server: far, router, ours, _ends: [client, server] })
    }

    /// CPU time of a mebibyte, in microseconds, and what was seen while this many bytes were
    /// transferred.
    fn run(&mut self, bytes: usize, meter: Meter) -> Result<(f64, Seen)> {
        let witness = Witness::new(&self.client, &self.router, self.ours.as_mut())?;
        let before = meter.read()?;
        let (looks, idle) = self.transfer(bytes).with_context(|| self.mode.name())?;
        let spent = meter.read()?.checked_sub(before).context("the clock ran backwards")?;
        let seen = witness.testify(&self.client, &self.router, self.ours.as_mut())?;
        let cost = spent as f64 / 1000.0 / (bytes as f64 / f64::from(1 << 20));
        Ok((cost, seen.with_looks(looks, idle)))
    }

    /// How often the thread looked after both ends, and how often it found nothing to do.
    fn transfer(&mut self, bytes: usize) -> Result<(u64, u64)> {
        let chunk = vec![0x55; CHUNK];
        let mut buffer = vec![0; CHUNK];
        let (mut sent, mut received) = (0, 0);
        let (mut looks, mut idle) = (0, 0);
        while received < bytes {
            let before = (sent, received);
            if let Some(rest) = chunk.get(..CHUNK.min(bytes - sent))
                && !rest.is_empty()
            {
                match self.client.write(rest) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            loop {
                match self.server.read(&mut buffer) {
                    Ok(count) => received += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            looks += 1;
            if before == (sent, received) {
                idle += 1;
            }
        }
        Ok((looks, idle))
    }
}

/// CPU time of a mebibyte in each mode, in microseconds.
///
/// # Errors
/// If a router cannot be built or a connection fails.
pub fn measure(modes: &[Mode], meter: Meter) -> Result<Vec<Pumped>> {
    let mut turns: Vec<_> = modes.iter().map(|_| (Vec::new(), Seen::default())).collect();
    for _ in 0..CONNECTIONS {
        let mut pumps = modes.iter().map(|mode| Pump::new(*mode)).collect::<Result<Vec<_>>>()?;
        for round in 0..=ROUNDS {
            for (pump, (costs, seen)) in pumps.iter_mut().zip(&mut turns) {
                let (cost, witnessed) = pump.run(BYTES, meter)?;
                if round > 0 {
                    costs.push(cost);
                    *seen += witnessed;
                }
            }
        }
    }
    let pumped = |(mode, (costs, seen))| Pumped { cost: Cost::new(mode, costs), seen };
    Ok(modes.iter().copied().zip(turns).map(pumped).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// What made the same transfer cost five times as much now and then.
    #[test]
    fn a_sender_that_paces_itself_is_noticed() -> Result<()> {
        let bytes_per_second: libc::c_uint = 1 << 30;
        let meter = Meter::new()?;
        let mut pump = Pump::new(Mode::Plain)?;
        pump.run(8 << 20, meter)?;
        // SAFETY: the option takes a number, whose address and size these are.
        let result = unsafe {
            libc::setsockopt(
                pump.client.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MAX_PACING_RATE,
                (&raw const bytes_per_second).cast(),
                size_of_val(&bytes_per_second) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let (_, seen) = pump.run(32 << 20, meter)?;
        assert!(seen.timers > seen.frames / 2, "{seen}");
        Ok(())
    }
}
