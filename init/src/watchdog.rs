//! The hardware watchdog: restarts the machine if the supervisor's loop stands still. Before there is
//! one, and after its end, a [`Patience`] stands in, which knows how long that may take.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

/// Much shorter than the shortest time-out of the drivers (10 s and more).
const PERIOD: Duration = Duration::from_secs(2);

/// The watchdogs that were started; they cannot be stopped again by ending. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<Mutex<Started>>);

#[derive(Debug, Default)]
struct Started {
    devices: BTreeMap<String, File>,
    fed: Option<Instant>,
}

impl Watchdog {
    /// Starts the watchdogs that `sys` (normally /sys) shows and that do not run yet, by their nodes
    /// in `dev`.
    pub fn start(&self, sys: &Path, dev: &Path) {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names(sys) {
            if started.devices.contains_key(&name) {
                continue;
            }
            match File::options().write(true).open(dev.join(&name)) {
                Ok(device) => {
                    tracing::info!(device = name, "watchdog started");
                    started.devices.insert(name, device);
                }
                Err(error) => tracing::warn!(device = name, %error, "watchdog not started"),
            }
        }
    }

    /// Says that all goes on; to be called often.
    pub fn feed(&self) {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if started.fed.is_some_and(|t| t.elapsed() < PERIOD) {
            return;
        }
        started.fed = Some(Instant::now());
        for device in started.devices.values_mut() {
            // Any byte but `V`, which would switch it off.
            let _ = device.write_all(b"\0");
        }
    }
}

/// What the kernel's own timer (softdog) calls itself.
const TIMER: &str = "Software Watchdog";

/// All that are hardware; the kernel's own timer, which a kernel that hangs does not serve, only if
/// there are none. Their numbers say nothing: drivers find their hardware in any order.
fn names(sys: &Path) -> Vec<String> {
    let made_up = fs::canonicalize(sys.join("devices/virtual")).ok();
    let own = |path: &PathBuf| match fs::read_to_string(path.join("identity")) {
        Ok(identity) => identity.trim() == TIMER,
        // A kernel without that file. Not all drivers say which device their watchdog belongs to.
        Err(_) => {
            let device = fs::canonicalize(path).ok();
            made_up
                .as_ref()
                .zip(device)
                .is_some_and(|(made_up, device)| device.starts_with(made_up))
        }
    };
    let entries = fs::read_dir(sys.join("class/watchdog")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let (mut timers, mut chosen): (Vec<_>, Vec<_>) = paths.into_iter().partition(own);
    if chosen.is_empty() {
        timers.truncate(1);
        chosen = timers;
    }
    chosen.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect()
}

/// Bounds a part of the machine's life in which nothing else would notice that it stands still:
/// feeds the watchdog until it is dropped, or its time is over.
#[derive(Debug)]
pub struct Patience {
    _end: Sender<()>,
}

impl Patience {
    /// Calls `over` after `limit`, on a thread of its own, and feeds no more.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn new(
        watchdog: Watchdog,
        limit: Duration,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (end, ended) = channel::<()>();
        let begin = Instant::now();
        std::thread::Builder::new().name("patience".to_owned()).spawn(move || {
            loop {
                watchdog.feed();
                let rest = limit.saturating_sub(begin.elapsed());
                match ended.recv_timeout(rest.min(PERIOD)) {
                    Err(RecvTimeoutError::Timeout) if begin.elapsed() >= limit => return over(),
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { _end: end })
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::mpsc::channel};

    use super::*;

    /// sysfs with watchdogs by number, each below its device.
    fn sys(devices: &[&str]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        fs::create_dir_all(sys.path().join("class/watchdog")).unwrap();
        for (number, device) in devices.iter().enumerate() {
            let name = format!("watchdog{number}");
            let folder = sys.path().join("devices").join(device).join("watchdog").join(&name);
            fs::create_dir_all(&folder).unwrap();
            symlink(folder, sys.path().join("class/watchdog").join(name)).unwrap();
        }
        sys
    }

    #[test]
    fn the_hardware_counts_whatever_its_number() {
        let pci = "pci0000:00/0000:00:04.0";
        assert_eq!(names(sys(&["virtual", pci]).path()), ["watchdog1"]);
        assert_eq!(
            names(sys(&[pci, "virtual", "platform/wdat"]).path()),
            ["watchdog0", "watchdog2"]
        );
        assert_eq!(names(sys(&["virtual", "virtual"]).path()), ["watchdog0"]);
        let named = sys(&["virtual", "virtual"]);
        for (number, identity) in ["Software Watchdog\n", "i6300ESB timer\n"].iter().enumerate() {
            let folder = named.path().join(format!("class/watchdog/watchdog{number}"));
            fs::write(folder.join("identity"), identity).unwrap();
        }
        assert_eq!(names(named.path()), ["watchdog1"]);
        assert!(names(sys(&[]).path()).is_empty());
        assert!(names(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn what_takes_its_time_is_fed_and_ended_by_its_limit() {
        let sys = sys(&["pci0000:00"]);
        let dev = tempfile::tempdir().unwrap();
        let node = dev.path().join("watchdog0");
        fs::write(&node, "").unwrap();
        let watchdog = Watchdog::default();
        for _ in 0..2 {
            watchdog.start(sys.path(), dev.path());
        }
        let (over, told) = channel();
        let patience = Patience::new(watchdog, Duration::ZERO, move || {
            let _ = over.send(());
        })
        .unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(()), "it waits for ever");
        assert_eq!(fs::read(&node).unwrap(), b"\0");
        drop(patience);
    }

    #[test]
    fn what_ends_in_time_is_left_alone() {
        let (over, told) = channel::<()>();
        let limit = Duration::from_secs(3600);
        let patience = Patience::new(Watchdog::default(), limit, move || {
            let _ = over.send(());
        })
        .unwrap();
        drop(patience);
        // The thread ends without a word.
        let end = told.recv_timeout(Duration::from_secs(60));
        assert_eq!(end, Err(RecvTimeoutError::Disconnected));
    }
}
