//! Single calls for those who show the state of many services: bounded in time with connecting,
//! with errors that name the service and tell "not there" from "will not".

use std::time::Duration;

use zbus::Connection;

use crate::{Error, connect_at, socket_path};

/// Why a call brought no result.
#[derive(Debug)]
pub enum PeerError {
    /// The service is not there or does not answer in time.
    NotAnswering {
        /// Its name.
        service: &'static str,
        /// What was seen.
        reason: String,
    },
    /// The service answered that it will not or cannot.
    Refused {
        /// Its name.
        service: &'static str,
        /// Its words.
        message: String,
    },
}

impl std::fmt::Display for PeerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnswering { service, reason } => {
                write!(f, "service `{service}` does not answer: {reason}")
            }
            Self::Refused { service, message } => write!(f, "service `{service}`: {message}"),
        }
    }
}

impl std::error::Error for PeerError {}

impl PeerError {
    /// Sorts the bus's errors: the service's own answers are refusals, the rest means that it is
    /// not there.
    pub fn new(service: &'static str, error: Error) -> Self {
        match error {
            Error::InvalidArgument(message)
            | Error::NotFound(message)
            | Error::Denied(message)
            | Error::Failed(message) => Self::Refused { service, message },
            Error::ZBus(error) => Self::NotAnswering { service, reason: error.to_string() },
        }
    }
}

/// Connects to `service` and lets `call` use the connection, all within `limit`.
///
/// # Errors
/// If the service is not there, does not answer in time, or refuses.
pub async fn call<T, F>(service: &'static str, limit: Duration, call: F) -> Result<T, PeerError>
where
    F: AsyncFnOnce(Connection) -> Result<T, Error>,
{
    let work = async {
        let connection =
            connect_at(&socket_path(service), limit).await.map_err(|error| match error {
                Error::Failed(reason) => PeerError::NotAnswering { service, reason },
                error => PeerError::new(service, error),
            })?;
        call(connection).await.map_err(|error| PeerError::new(service, error))
    };
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(PeerError::NotAnswering {
            service,
            reason: format!("nothing for {} s", limit.as_secs()),
        }),
    }
}
