//! What can make the cost of a transfer another one than that of forwarding it: segments that were
//! sent again, packets that our firewall dropped, small frames where large ones are expected, a sender
//! that sends by timers, a thread that waits for it.

use std::{
    collections::BTreeMap, fmt, fs, mem::MaybeUninit, net::TcpStream, ops::AddAssign,
    os::fd::AsRawFd as _,
};

use anyhow::{Context, Result, ensure};
use portcullis_netns::Namespace;

use super::ours::Ours;

/// What was seen from one reading to another.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Segments that the sender sent again.
    retransmitted: u64,
    /// Packets that our firewall dropped, by reason.
    dropped: BTreeMap<String, u64>,
    /// Frames that the router sent to the receiver, aggregated ones counted once.
    pub frames: u64,
    /// Bytes of these.
    bytes: u64,
    /// Softirqs of timers of high resolution, on all CPUs: a sender that paces itself sends by them.
    pub timers: u64,
    /// How often the thread looked after both ends.
    looks: u64,
    /// How often it found nothing to write and nothing to read.
    idle: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.retransmitted += other.retransmitted;
        for (reason, packets) in other.dropped {
            *self.dropped.entry(reason).or_default() += packets;
        }
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.timers += other.timers;
        self.looks += other.looks;
        self.idle += other.idle;
    }
}

impl Seen {
    /// With how often the thread looked after both ends, and found nothing to do.
    pub fn with_looks(self, looks: u64, idle: u64) -> Self {
        Self { looks, idle, ..self }
    }

    /// Mean size of a frame, in KiB.
    fn mean_frame(&self) -> f64 {
        self.bytes as f64 / self.frames as f64 / 1024.0
    }

    /// In how many of a hundred looks the thread found nothing to do.
    fn waited(&self) -> f64 {
        self.idle as f64 / self.looks as f64 * 100.0
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { retransmitted, dropped, frames, timers, .. } = self;
        write!(f, "{frames} frames of {:.1} KiB, ", self.mean_frame())?;
        write!(f, "{retransmitted} segments sent again, {timers} timers, ")?;
        write!(f, "waited in {:.1} % of looks", self.waited())?;
        dropped.iter().try_for_each(|(reason, packets)| write!(f, ", {packets} {reason}"))
    }
}

/// Counters as they were.
pub struct Witness {
    retransmitted: u64,
    dropped: BTreeMap<String, u64>,
    frames: u64,
    bytes: u64,
    timers: u64,
}

impl Witness {
    /// Reads them: of the sender's socket, of the router's device to the receiver, of our firewall.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn new(sender: &TcpStream, router: &Namespace, ours: Option<&mut Ours>) -> Result<Self> {
        let (bytes, frames) = sent(router, "wan")?;
        let dropped = ours.map(Ours::dropped).transpose()?.unwrap_or_default();
        Ok(Self {
            retransmitted: retransmitted(sender)?,
            dropped,
            frames,
            bytes,
            timers: timers(&fs::read_to_string("/proc/softirqs")?)?,
        })
    }

    /// What has changed since.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn testify(
        self,
        sender: &TcpStream,
        router: &Namespace,
        ours: Option<&mut Ours>,
    ) -> Result<Seen> {
        let mut now = Self::new(sender, router, ours)?;
        for (reason, packets) in &mut now.dropped {
            *packets -= self.dropped.get(reason).copied().unwrap_or_default();
        }
        now.dropped.retain(|_, packets| *packets != 0);
        Ok(Seen {
            retransmitted: now.retransmitted - self.retransmitted,
            dropped: now.dropped,
            frames: now.frames - self.frames,
            bytes: now.bytes - self.bytes,
            timers: now.timers - self.timers,
            ..Seen::default()
        })
    }
}

/// Bytes and packets that a device has sent.
fn sent(namespace: &Namespace, device: &str) -> Result<(u64, u64)> {
    let table = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let fields = transmitted(&table, device)?;
    fields.first().zip(fields.get(1)).map(|(bytes, packets)| (*bytes, *packets)).context("fields")
}

/// What `/proc/net/dev` says of a device's transmission: bytes, packets, errors, dropped, ...
pub fn transmitted(table: &str, device: &str) -> Result<Vec<u64>> {
    /// Fields of reception, which come first.
    const RECEPTION: usize = 8;
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim() == device);
    let line = table.lines().find(|line| name(line) == Some(true));
    let (_, fields) = line
        .and_then(|line| line.split_once(':'))
        .with_context(|| format!("no line for {device} in /proc/net/dev"))?;
    Ok(fields.split_whitespace().skip(RECEPTION).flat_map(str::parse).collect())
}

/// What `/proc/softirqs` says of timers of high resolution, on all CPUs together.
fn timers(table: &str) -> Result<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix("HRTIMER:"));
    let line = line.context("no line for HRTIMER in /proc/softirqs")?;
    Ok(line.split_whitespace().flat_map(str::parse::<u64>).sum())
}

/// Segments that a socket has sent again since it was made.
fn retransmitted(socket: &TcpStream) -> Result<u64> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of what is pointed to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    ensure!(result == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    // SAFETY: it is plain data, for which all zeros is valid, whatever the kernel wrote of it.
    let info = unsafe { info.assume_init() };
    Ok(u64::from(info.tcpi_total_retrans))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_device_are_those_of_its_line() -> Result<()> {
        let table = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo
    lo:       1       2    3    4    5     6          7         8     9      10   11   12   13
   wan:  104488     210    0    0    0     0          0         0 88112      98    1    7    0
  wan2:       0       0    0    0    0     0          0         0     1       2    3    4    5
";
        assert_eq!(transmitted(table, "wan")?, [88112, 98, 1, 7, 0]);
        assert!(transmitted(table, "wan3").is_err());
        Ok(())
    }

    #[test]
    fn timers_of_all_processors_count() -> Result<()> {
        let table = "\
                    CPU0       CPU1
       TIMER:    1380971    1199470
     HRTIMER:     910619    2051131
         RCU:    4137728    4765931
";
        assert_eq!(timers(table)?, 910_619 + 2_051_131);
        assert!(timers("CPU0\n").is_err());
        Ok(())
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_said() {
        let dropped = BTreeMap::from([("drop.tcp-window".to_owned(), 3)]);
        let turn =
            Seen { retransmitted: 3, dropped, frames: 10, bytes: 450_560, ..Seen::default() };
        let mut seen = turn.clone().with_looks(50, 1);
        seen += Seen { timers: 4, ..turn.with_looks(50, 0) };
        assert_eq!(
            seen.to_string(),
            "20 frames of 44.0 KiB, 6 segments sent again, 4 timers, waited in 1.0 % of looks, \
             6 drop.tcp-window"
        );
    }
}
