//! Plays the firewall: says which devices it is on.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use portcullis_bus::{
    Error,
    firewall::{
        Attachment, CaptureRequest, Counter, DatapathStatus, DropCount, Explanation, Firewall1,
        FirewallApi, FlowPage, FlowQuery, RuleFinding,
    },
    server::{Callers, Notifier, Server},
};

/// The firewall; serves until the test process ends.
pub struct Firewall {
    guarded: Arc<Mutex<Vec<u32>>>,
    notifier: Notifier<Firewall1>,
}

impl Firewall {
    /// Begins to serve; on no device yet.
    pub fn play(socket: &Path) -> Result<Self> {
        let guarded = Arc::new(Mutex::new(Vec::new()));
        let object = Firewall1(Arc::new(Fake(guarded.clone())));
        let server = Server::new(object, Callers::SocketModeDecides);
        let notifier = server.notifier();
        let listener = std::os::unix::net::UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        std::thread::spawn(move || {
            super::runtime().unwrap().block_on(async {
                match server.run(tokio::net::UnixListener::from_std(listener).unwrap()).await {}
            })
        });
        Ok(Self { guarded, notifier })
    }

    /// Is on these devices from now on.
    pub fn guard(&self, indices: &[u32]) -> Result<()> {
        *self.guarded.lock().ok().context("poisoned")? = indices.to_vec();
        self.notifier.changed();
        Ok(())
    }
}

struct Fake(Arc<Mutex<Vec<u32>>>);

fn not_played<T>() -> portcullis_bus::Result<T> {
    Err(Error::Failed("not played".to_owned()))
}

#[async_trait]
impl FirewallApi for Fake {
    async fn guarded(&self) -> portcullis_bus::Result<Vec<u32>> {
        Ok(self.0.lock().unwrap().clone())
    }
    async fn apply(&self, _: String) -> portcullis_bus::Result<()> {
        not_played()
    }
    async fn flows(&self, _: u32) -> portcullis_bus::Result<FlowPage> {
        not_played()
    }
    async fn counters(&self) -> portcullis_bus::Result<Vec<Counter>> {
        not_played()
    }
    async fn attachments(&self) -> portcullis_bus::Result<Vec<Attachment>> {
        not_played()
    }
    async fn datapath(&self) -> portcullis_bus::Result<DatapathStatus> {
        not_played()
    }
    async fn find_flows(&self, _: FlowQuery) -> portcullis_bus::Result<FlowPage> {
        not_played()
    }
    async fn drops(&self) -> portcullis_bus::Result<Vec<DropCount>> {
        not_played()
    }
    async fn capture(&self, _: CaptureRequest) -> portcullis_bus::Result<zbus::OwnedFd> {
        not_played()
    }
    async fn explain(&self, _: String) -> portcullis_bus::Result<Explanation> {
        not_played()
    }
    async fn findings(&self) -> portcullis_bus::Result<Vec<RuleFinding>> {
        not_played()
    }
    async fn nftables(&self) -> portcullis_bus::Result<String> {
        not_played()
    }
    async fn reevaluate(&self) -> portcullis_bus::Result<u64> {
        not_played()
    }
    async fn purge(&self, _: String) -> portcullis_bus::Result<u64> {
        not_played()
    }
}
