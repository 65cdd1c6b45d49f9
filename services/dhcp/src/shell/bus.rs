//! `org.portcullis.Dhcp1`: calls are handed to the one task that owns the server.

use portcullis_bus::{
    Error, Result,
    dhcp::{DhcpApi, Lease},
};
use portcullis_model::part::DhcpPart;
use tokio::sync::{mpsc, oneshot};

use crate::{SERVICE, core::LeaseRecord};

/// A call and where its result goes.
pub(super) enum Call {
    Apply(DhcpPart, oneshot::Sender<()>),
    Leases(oneshot::Sender<Vec<Lease>>),
}

/// What the bus serves.
pub(super) struct Api {
    calls: mpsc::Sender<Call>,
}

impl Api {
    pub(super) fn new(calls: mpsc::Sender<Call>) -> Self {
        Self { calls }
    }

    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T> {
        let stopping = || Error::Failed("the service is stopping".to_owned());
        let (sender, result) = oneshot::channel();
        self.calls.send(call(sender)).await.map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())
    }
}

#[async_trait::async_trait]
impl DhcpApi for Api {
    async fn apply(&self, part: String) -> Result<()> {
        let part = portcullis_runtime::parse_part(SERVICE, &part)
            .map_err(|error| Error::InvalidArgument(error.to_string()))?;
        self.call(|done| Call::Apply(part, done)).await
    }

    async fn leases(&self) -> Result<Vec<Lease>> {
        self.call(Call::Leases).await
    }
}

/// A lease as the bus shows it.
pub(super) fn lease(record: LeaseRecord, reserved: bool) -> Lease {
    Lease {
        interface: record.interface.into(),
        address: record.address.to_string(),
        mac: record.hardware.to_string(),
        hostname: record.hostname.map(String::from),
        state: record.state.as_str().to_owned(),
        expires_unix_s: record.ends_unix_s,
        reserved,
    }
}
