//! A capture in progress: from the ring of packets to the socket of who asked for it.

use std::{
    io,
    os::unix::net::UnixStream as StdStream,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::{Array, MapData, RingBuf};
use portcullis_bus::firewall::CaptureRequest;
use portcullis_datapath_abi::{
    capture::{CaptureFilter, CaptureHeader},
    map,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    sync::oneshot,
};

use super::pcapng::{Names, Pcapng};
use crate::{
    datapath::{DatapathError, Maps},
    sweep::now_ticks,
};

/// Bytes of a file that are written at once.
const BATCH: usize = 256 * 1024;

/// How long a reader may let its socket be full: packets are lost meanwhile, and it holds the one
/// capture that there can be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause after which the ring is looked at even if nothing was heard of it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Why a capture cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The ring or the socket.
    #[error("capture: {0}")]
    Io(#[from] io::Error),
    /// The file.
    #[error("capture: {0}")]
    File(#[from] pcap_file::PcapError),
    /// The kernel's side.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

/// A number that no capture before has had. Ticks go on while no service runs.
fn next_session(ticks: u32) -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let next = |last: u32| ticks.max(last.wrapping_add(1)).max(1);
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    last.map_or_else(next, next)
}

/// Puts the filter in force and begins the file. The caller sees to the copying, and drops the sender
/// when there is none any more.
///
/// # Errors
/// What the kernel says.
pub fn begin(
    maps: &Maps,
    mut filter: CaptureFilter,
    request: &CaptureRequest,
    names: Names,
) -> Result<(Running, oneshot::Sender<()>), CaptureError> {
    filter.session = next_session(now_ticks());
    let mut map: Array<MapData, CaptureFilter> = maps.map(map::CAPTURE)?;
    map.set(0, filter, 0)
        .map_err(|source| DatapathError::Map { name: map::CAPTURE, source: Box::new(source) })?;
    let file = Pcapng::new(names, clock_offset_ns(), filter.snap)?;
    let (copies, over) = oneshot::channel();
    let running = Running {
        copying: Copying::new(maps.map(map::PACKETS)?, file, request.count)?,
        limit: (request.seconds != 0).then(|| Duration::from_secs(request.seconds.into())),
        session: filter.session,
        over,
    };
    Ok((running, copies))
}

/// A capture that was asked for.
pub struct Running {
    copying: Copying,
    limit: Option<Duration>,
    session: u32,
    /// Ends when no packets are copied any more.
    over: oneshot::Receiver<()>,
}

/// From the ring to the socket.
struct Copying {
    ring: AsyncFd<RingBuf<MapData>>,
    file: Pcapng,
    /// What was taken from the file, and how much of it is written. Kept here, for the time limit comes
    /// between two writes too, and a file must not lose the end of a block.
    unsent: Vec<u8>,
    sent: usize,
    /// Packets still wanted; none for any number.
    left: Option<u64>,
}

impl Running {
    /// Which capture it is.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Writes packets to `stream` until its other end is closed, count or time are reached, or none are
    /// copied any more.
    ///
    /// # Errors
    /// If the ring fails. A reader that has gone is no error.
    pub async fn carry(self, stream: StdStream) -> Result<(), CaptureError> {
        let Self { mut copying, limit, over, .. } = self;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let time_is_up = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = copying.run(&stream) => return outcome,
            () = time_is_up => {}
            _ = over => tracing::info!("a capture ends: no packets are copied any more"),
        }
        // What came in the last moment.
        copying.pass_on()?;
        copying.write(&stream).await.map(drop)
    }
}

impl Copying {
    /// What is in the ring from before is thrown away; call it inside a runtime.
    fn new(mut ring: RingBuf<MapData>, file: Pcapng, count: u64) -> Result<Self, CaptureError> {
        while ring.next().is_some() {}
        // SAFETY: the ring owns its descriptor, which is the same for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(io::Error::from)?;
        let left = (count != 0).then_some(count);
        Ok(Self { ring, file, unsent: Vec::new(), sent: 0, left })
    }

    async fn run(&mut self, stream: &UnixStream) -> Result<(), CaptureError> {
        loop {
            let more = self.pass_on()?;
            if !self.write(stream).await? || self.left == Some(0) {
                return Ok(());
            }
            if more {
                // A flood of packets must not keep the bus waiting.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                ready = self.ring.readable_mut() => ready?.clear_ready(),
                closed = is_closed(stream) => if closed? { return Ok(()); },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Adds what is in the ring to the file; whether there is more than a batch.
    fn pass_on(&mut self) -> Result<bool, CaptureError> {
        let mut taken = 0;
        while taken < BATCH {
            if self.left == Some(0) {
                return Ok(false);
            }
            let Some(item) = self.ring.get_mut().next() else {
                return Ok(false);
            };
            taken += item.len();
            if let Some((header, bytes)) = parse(&item) {
                self.file.packet(&header, bytes)?;
                if let Some(left) = &mut self.left {
                    *left -= 1;
                }
            }
        }
        Ok(true)
    }

    /// Writes what was added, after what a write that was given up has left; false if nobody reads it
    /// any more.
    async fn write(&mut self, stream: &UnixStream) -> Result<bool, CaptureError> {
        self.unsent.drain(..self.sent.min(self.unsent.len()));
        self.sent = 0;
        self.unsent.append(&mut self.file.take());
        while let Some(rest) = self.unsent.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match tokio::time::timeout(PATIENCE, stream.writable()).await {
                Ok(writable) => writable?,
                Err(_) => {
                    tracing::info!("a capture ends: nobody reads it");
                    return Ok(false);
                }
            }
            match stream.try_write(rest) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Waits until the other end is closed, or sends what it should not.
async fn is_closed(stream: &UnixStream) -> io::Result<bool> {
    stream.readable().await?;
    match stream.try_read(&mut [0]) {
        Ok(count) => Ok(count == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
        Err(error) => Err(error),
    }
}

/// Header and bytes of a packet in the ring; `None` if it is too short for what it says.
fn parse(item: &[u8]) -> Option<(CaptureHeader, &[u8])> {
    let (header, bytes) = item.split_at_checked(size_of::<CaptureHeader>())?;
    // SAFETY: of the right length, and a header is plain integers, valid for any bytes.
    let header = unsafe { header.as_ptr().cast::<CaptureHeader>().read_unaligned() };
    let bytes = bytes.get(..usize::try_from(header.captured).ok()?)?;
    Some((header, bytes))
}

/// What is to be added to `CLOCK_MONOTONIC` for the time of day, in nanoseconds.
pub fn clock_offset_ns() -> u64 {
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| {
            let seconds = u64::try_from(time.tv_sec()).ok()?;
            Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).ok()?)
        })
        .unwrap_or_default();
    let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    u64::try_from(day).unwrap_or_default().wrapping_sub(monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_captures_of_one_tick_are_told_apart() {
        let first = next_session(7);
        let second = next_session(7);
        assert!(first != 0 && second > first);
        assert!(
            next_session(second + 100) >= second + 100,
            "also from those of an earlier process"
        );
    }

    #[test]
    fn packets_are_as_long_as_they_say() {
        let mut item = vec![0; 32];
        item[16..20].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(parse(&item).is_none(), "shorter");
        item.extend([7, 8, 9, 0, 0]);
        let (header, bytes) = parse(&item).unwrap();
        assert_eq!((header.captured, bytes), (3, &[7, 8, 9][..]), "what fills up is left out");
        assert!(parse(&item[..31]).is_none());
    }
}
