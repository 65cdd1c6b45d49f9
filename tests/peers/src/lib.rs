//! Stand-ins for the services on the bus, for tests of those who call them.
//!
//! [`Router`] is a folder with bus sockets; each `serve_*` puts a service there that answers with
//! given records over a real socket. Programs under test run as processes of their own with
//! [`Router::command`], as they do in the appliance.

mod fakes;
mod process;
mod sample;

pub use fakes::{Control, Controls, FakeConfig, FakeInit, FakeNetwork, Receiver};
pub use process::{Process, example};
pub use sample::{
    attachments, capture, certificate, counters, datapath, dns_status, drops, explanation, flows,
    interfaces, journal, leases, services, system, wan,
};

use std::{
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use portcullis_bus::server::{Callers, Notifier, Server, Signals};
use tokio::task::JoinHandle;
use zbus::object_server::Interface;

/// A folder tree as a router has: run folder with bus sockets, data folder.
pub struct Router {
    folder: tempfile::TempDir,
}

/// A service that runs until this is dropped; its socket stays, as init's would.
pub struct Running<I> {
    /// Sends its `Changed` signal.
    pub notifier: Notifier<I>,
    task: JoinHandle<std::convert::Infallible>,
}

impl<I> Drop for Running<I> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Router {
    /// An empty router.
    ///
    /// # Errors
    /// If the folders cannot be made.
    pub fn new() -> Result<Self> {
        let router = Self { folder: tempfile::tempdir()? };
        std::fs::create_dir_all(router.run_dir().join("bus"))?;
        std::fs::create_dir_all(router.data_dir())?;
        Ok(router)
    }

    /// What stands for /run/portcullis.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// What stands for /data.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The bus socket of `service`.
    pub fn socket(&self, service: &str) -> PathBuf {
        self.run_dir().join(format!("bus/{service}.sock"))
    }

    /// Makes the socket of `service` without anybody answering: a service that hangs.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn listen(&self, service: &str) -> Result<UnixListener> {
        let path = self.socket(service);
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(&path).with_context(|| path.display().to_string())
    }

    /// Serves `object` as `service`.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn serve<I>(&self, service: &str, object: I) -> Result<Running<I>>
    where
        I: Interface + Signals + Clone,
    {
        let listener = self.listen(service)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let server = Server::new(object, Callers::SocketModeDecides);
        let notifier = server.notifier();
        Ok(Running { notifier, task: tokio::spawn(server.run(listener)) })
    }

    /// A program that sees this router as the one that it runs on.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("PORTCULLIS_RUN_DIR", self.run_dir())
            .env("PORTCULLIS_DATA_DIR", self.data_dir())
            .env_remove("LISTEN_FDS")
            .env_remove("NOTIFY_SOCKET");
        command
    }
}
