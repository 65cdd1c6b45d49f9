//! The bus interface: hands calls to the service's loop and waits for its answer.

use async_trait::async_trait;
use portcullis_bus::{
    Error, Result,
    network::{InterfaceStatus, NetworkApi, WanLease},
};
use portcullis_model::part::NetworkPart;
use tokio::sync::{mpsc, oneshot};

use crate::check::check;

/// A call to the loop, with where its answer goes.
pub enum Request {
    /// Take a new part; the answer is what could not be done.
    Apply(NetworkPart, oneshot::Sender<Vec<String>>),
    /// Tell the interfaces.
    Interfaces(oneshot::Sender<std::result::Result<Vec<InterfaceStatus>, String>>),
    /// Tell the leases.
    Leases(oneshot::Sender<Vec<WanLease>>),
}

/// Implements `org.portcullis.Network1`.
pub struct Api {
    requests: mpsc::Sender<Request>,
}

impl Api {
    /// An implementation and the calls that it receives.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(16);
        (Self { requests }, receiver)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let ended = || Error::Failed("the network service is stopping".to_owned());
        self.requests.send(request(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }
}

#[async_trait]
impl NetworkApi for Api {
    async fn apply(&self, part: String) -> Result<()> {
        let part: NetworkPart = portcullis_runtime::parse_part("network", &part)
            .map_err(|error| Error::InvalidArgument(error.to_string()))?;
        check(&part).map_err(Error::InvalidArgument)?;
        let problems = self.ask(|reply| Request::Apply(part, reply)).await?;
        if problems.is_empty() { Ok(()) } else { Err(Error::Failed(problems.join("; "))) }
    }

    async fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        self.ask(Request::Interfaces).await?.map_err(Error::Failed)
    }

    async fn wan_leases(&self) -> Result<Vec<WanLease>> {
        self.ask(Request::Leases).await
    }
}
