//! The web service: HTTPS with the status API and the status page. Read-only until login exists.
//!
//! ```text
//! server    accept, limits, who may connect -> TLS -> hyper -> routes
//! routes    paths, methods, security headers, errors
//! status    GET /api/v1/status: asks all services at once, bounded in time
//! assets    the page: HTML, CSS and JavaScript, built in
//! identity  key and self-signed certificate, kept over restarts (pure but for its store)
//! api       org.portcullis.Web1: a new part, the certificate
//! ```

pub mod access;
pub mod api;
mod assets;
pub mod identity;
pub mod routes;
pub mod server;
pub mod status;
mod tls;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use portcullis_bus::web::Web1;
use portcullis_model::part::WebPart;
use tokio::net::TcpListener;

/// Name on the bus.
const NAME: &str = "web";
/// Name of the listening socket in the manifest.
const SOCKET: &str = "https";
/// Where a run outside the appliance listens, unless [`LISTEN_VARIABLE`] says otherwise.
const DEVELOPMENT_LISTEN: &str = "127.0.0.1:8443";
/// Address and port for a run outside the appliance.
const LISTEN_VARIABLE: &str = "PORTCULLIS_WEB_LISTEN";
/// How often the certificate's end is looked at.
const RENEWAL_PERIOD: Duration = Duration::from_secs(3600);
/// Pause before the configuration service is asked again.
const PART_PAUSE: Duration = Duration::from_millis(500);

/// Runs the service.
pub fn main() -> ExitCode {
    portcullis_runtime::run(NAME, |mut service| async move {
        let folder = portcullis_runtime::state_dir(NAME).context("state folder")?;
        let listener = if service.sockets().has(SOCKET) {
            service.sockets().tcp(SOCKET)?
        } else {
            development_listener().await?
        };
        let part = first_part().await;
        let web = Arc::new(api::Web::new(identity::Store::new(folder), part)?);
        let notifier = service.serve_bus(Web1(web.clone()))?;
        web.notify_through(notifier);
        let server = server::Server::new(
            web.tls()?,
            web.access(),
            routes::router(status::Cache::new(web.clone())),
        );
        tokio::spawn(server.run(listener));
        tokio::spawn(renew(web));
        service.ready("serving HTTPS");
        service.shutdown().await;
        Ok(())
    })
}

/// The page needs its part only for names and networks: it waits for the configuration service
/// as long as that takes; init's start limit bounds it.
async fn first_part() -> WebPart {
    loop {
        match portcullis_runtime::fetch_part(NAME).await {
            Ok(part) => return part,
            Err(error) => tracing::warn!(%error, "no part yet"),
        }
        tokio::time::sleep(PART_PAUSE).await;
    }
}

async fn development_listener() -> anyhow::Result<TcpListener> {
    let address = std::env::var(LISTEN_VARIABLE).unwrap_or_else(|_| DEVELOPMENT_LISTEN.to_owned());
    let listener =
        TcpListener::bind(&address).await.with_context(|| format!("listen on {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "no socket from init, listening by myself");
    Ok(listener)
}

async fn renew(web: Arc<api::Web>) {
    loop {
        tokio::time::sleep(RENEWAL_PERIOD).await;
        if let Err(error) = web.renew() {
            tracing::error!(%error, "certificate not renewed");
        }
    }
}
