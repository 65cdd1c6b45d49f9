//! The service's part of the configuration.

use portcullis_bus::config::ConfigBusProxy;
use serde::de::DeserializeOwned;

/// Why a part cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The config service cannot be asked.
    #[error("configuration service: {0}")]
    Bus(#[from] portcullis_bus::Error),
    /// The part is not of the type that this service knows.
    #[error("part `{service}` of the configuration: {source}")]
    Format {
        /// Service whose part it is.
        service: String,
        /// What does not fit.
        source: serde_json::Error,
    },
}

/// Fetches this service's part from the config service, as at start. Later changes come by the
/// service's own `apply`.
///
/// # Errors
/// If the config service does not answer or sends something else.
pub async fn fetch_part<T: DeserializeOwned>(service: &str) -> Result<T, PartError> {
    let connection = portcullis_bus::connect("config").await?;
    let config = ConfigBusProxy::new(&connection).await.map_err(portcullis_bus::Error::from)?;
    parse_part(service, &config.part(service.to_owned()).await?)
}

/// Reads a part as handed to a service's `apply`.
///
/// # Errors
/// If it is not of type `T`.
pub fn parse_part<T: DeserializeOwned>(service: &str, json: &str) -> Result<T, PartError> {
    serde_json::from_str(json)
        .map_err(|source| PartError::Format { service: service.to_owned(), source })
}
