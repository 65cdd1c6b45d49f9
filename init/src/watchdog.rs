//! The hardware watchdog: restarts the machine if the supervisor's loop stands still.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

/// The first watchdog; its module was loaded if the hardware has one.
const DEVICE: &str = "/dev/watchdog0";

/// Much shorter than the shortest time-out of the drivers (10 s and more).
const PERIOD: Duration = Duration::from_secs(2);

/// A watchdog that was started; it cannot be stopped again by ending.
#[derive(Debug)]
pub struct Watchdog {
    device: Option<File>,
    fed: Option<Instant>,
}

impl Watchdog {
    /// Starts the hardware's watchdog, if there is one.
    pub fn open() -> Self {
        let device = File::options().write(true).open(DEVICE).ok();
        if device.is_some() {
            tracing::info!("hardware watchdog started");
        }
        Self { device, fed: None }
    }

    /// Says that the loop lives; to be called often.
    pub fn feed(&mut self) {
        if self.fed.is_some_and(|t| t.elapsed() < PERIOD) {
            return;
        }
        self.fed = Some(Instant::now());
        if let Some(device) = &mut self.device {
            // Any byte but `V`, which would switch it off.
            let _ = device.write_all(b"\0");
        }
    }
}
