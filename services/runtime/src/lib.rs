//! What every service shell shares, so that a service's `main` is wiring only: the log, the
//! sockets handed over by init, readiness and watchdog (sd_notify), the bus server, the end.
//!
//! ```text
//! pub fn main() -> ExitCode {
//!     portcullis_runtime::run("dns", |service| async move {
//!         let udp = service.udp("dns-udp")?;            // [[listen]] name in init/services/dns.toml
//!         let bus = service.serve_bus(Dns1(api))?;      // notifier for the Changed signal
//!         service.ready("answering");
//!         service.shutdown().await;                     // SIGTERM
//!         Ok(())
//!     })
//! }
//! ```

mod log;
mod part;
mod sockets;

pub use part::{PartError, fetch_part, parse_part};
pub use sockets::{SocketError, Sockets};

use std::{
    future::Future,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use portcullis_bus::server::{Callers, Notifier, Restrict, Server, Signals};
use tokio::signal::unix::{SignalKind, signal};
use zbus::object_server::Interface;

/// Environment variable with the user ids that may call this service, comma-separated; set by
/// init from the service manifests.
pub const BUS_CALLERS_VARIABLE: &str = "PORTCULLIS_BUS_CALLERS";

/// Environment variable with the user ids of those callers that may give orders; set by init.
pub const BUS_CONTROLLERS_VARIABLE: &str = "PORTCULLIS_BUS_CONTROLLERS";

/// What [`Service::pending`] sends, besides the keys of sd_notify(3).
pub const PENDING_KEY: &str = "X_PORTCULLIS_PENDING";

/// A running service's connection to init.
pub struct Service {
    name: &'static str,
    sockets: Sockets,
}

/// Runs a service to its end: sets up the log, takes over the sockets, starts a single-threaded
/// tokio runtime and calls `body`. The error of `body` is logged and becomes exit code 1, which
/// makes init restart the service.
pub fn run<F, Fut>(name: &'static str, body: F) -> ExitCode
where
    F: FnOnce(Service) -> Fut,
    Fut: Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
{
    log::init();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| {
            let sockets = Sockets::from_environment()?;
            runtime.block_on(async {
                spawn_watchdog();
                body(Service { name, sockets }).await
            })
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(service = name, error = %chain(error.as_ref()), "service failed");
            ExitCode::FAILURE
        }
    }
}

/// An error with all its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl Service {
    /// Name of the service.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The sockets handed over by init and not taken yet.
    pub fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// Serves `object` on this service's bus socket from now on, and returns what emits its
    /// `Changed` signal. Outside the appliance the socket is made here.
    ///
    /// # Errors
    /// If the socket was neither handed over nor can be made.
    pub fn serve_bus<I>(&mut self, object: I) -> Result<Notifier<I>, SocketError>
    where
        I: Interface + Signals + Restrict + Clone,
    {
        let listener = self.sockets.bus(self.name)?;
        let server = Server::with_controllers(
            object,
            users(BUS_CALLERS_VARIABLE),
            users(BUS_CONTROLLERS_VARIABLE),
        );
        let notifier = server.notifier();
        tokio::spawn(server.run(listener));
        Ok(notifier)
    }

    /// Tells init that the service does its work, with a line for `pctl services`.
    pub fn ready(&self, status: &str) {
        notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(status)]);
    }

    /// Updates the line for `pctl services`.
    pub fn status(&self, status: &str) {
        notify(&[sd_notify::NotifyState::Status(status)]);
    }

    /// What the service still has to do to be whole, in a sentence: with it, init does not count the
    /// machine as healthy. `None` if nothing. To be told before [`Self::ready`].
    pub fn pending(&self, what: Option<&str>) {
        let text = format!("{PENDING_KEY}={}", what.unwrap_or_default());
        notify(&[sd_notify::NotifyState::Custom(&text)]);
    }

    /// Ends when init asks the service to stop (SIGTERM) or a developer does (SIGINT).
    pub async fn shutdown(&self) {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "no signal handler; ends only by SIGKILL");
                std::future::pending().await
            }
        }
        notify(&[sd_notify::NotifyState::Stopping]);
    }
}

/// Folder for the service's own persistent files: `/data/<service>`, made by init with the right
/// owner; under `$PORTCULLIS_DATA_DIR` on a development machine, where it is made here.
///
/// # Errors
/// If the folder cannot be made.
pub fn state_dir(service: &str) -> std::io::Result<PathBuf> {
    match std::env::var_os("PORTCULLIS_DATA_DIR") {
        Some(root) => {
            let path = PathBuf::from(root).join(service);
            std::fs::create_dir_all(&path)?;
            Ok(path)
        }
        None => Ok(PathBuf::from("/data").join(service)),
    }
}

/// Seconds since the Unix epoch; 0 for a clock before it.
pub fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn users(variable: &str) -> Callers {
    match std::env::var(variable) {
        Ok(list) => {
            Callers::Only(list.split(',').filter_map(|uid| uid.trim().parse().ok()).collect())
        }
        Err(_) => Callers::SocketModeDecides,
    }
}

/// Feeds init's watchdog from the one thread that does the work: a service that blocks is
/// restarted. Does nothing where no watchdog was asked for.
fn spawn_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let period = (limit / 3).max(Duration::from_millis(50));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
    });
}

fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "sd_notify");
    }
}
