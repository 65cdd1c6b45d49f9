//! What the console shows to who has not pressed a key yet.

use std::time::Duration;

use portcullis_bus::{
    config::ConfigBusProxy, init::InitBusProxy, network::NetworkBusProxy, web::WebBusProxy,
};
use portcullis_model::part::WebPart;

use portcullis_bus::peer::call;

use crate::text::clean;

/// How long one service may take; the banner shows what came until then.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the banner says; what could not be learned is none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Banner {
    /// Version of the image.
    pub version: Option<String>,
    /// Whether all essential services are ready, and else why not.
    pub problems: Option<Vec<String>>,
    /// Addresses where the page is reachable.
    pub addresses: Vec<String>,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: Option<String>,
    /// One line per interface with DHCP.
    pub internet: Option<Vec<String>>,
}

impl Banner {
    /// Asks the services, all at once.
    pub async fn gather() -> Self {
        let (system, web, certificate, leases) = tokio::join!(
            call("init", TIMEOUT, async |c| InitBusProxy::new(&c).await?.system().await),
            call("config", TIMEOUT, async |c| {
                ConfigBusProxy::new(&c).await?.part("web".to_owned()).await
            }),
            call("web", TIMEOUT, async |c| WebBusProxy::new(&c).await?.certificate().await),
            call("network", TIMEOUT, async |c| NetworkBusProxy::new(&c).await?.wan_leases().await),
        );
        let system = system.ok();
        let addresses = web
            .ok()
            .and_then(|json| serde_json::from_str::<WebPart>(&json).ok())
            .map(|part| part.addresses.iter().map(ToString::to_string).collect())
            .unwrap_or_default();
        let internet = leases.ok().map(|leases| {
            let line = |lease: portcullis_bus::network::WanLease| match lease.address {
                Some(address) => format!("{address} by {}", lease.interface),
                None => format!("no address by {} yet ({})", lease.interface, lease.state),
            };
            leases.into_iter().map(line).collect()
        });
        Self {
            version: system.as_ref().map(|system| system.version.clone()),
            problems: system.map(|system| system.problems),
            addresses,
            fingerprint: certificate.ok().map(|certificate| certificate.sha256),
            internet,
        }
    }

    /// The lines, each with its end.
    pub fn render(&self) -> String {
        let mut text = String::from("\n");
        let mut line = |label: &str, value: &str| {
            text.push_str(format!("  {label:<13}{}", clean(value)).trim_end());
            text.push('\n');
        };
        line("Portcullis", self.version.as_deref().unwrap_or("starting"));
        line("", "");
        if self.addresses.is_empty() {
            line("Web page", "not known yet");
        }
        for address in &self.addresses {
            line("Web page", &format!("https://{address}/"));
        }
        if let Some(fingerprint) = &self.fingerprint {
            let (first, second) = colons(fingerprint);
            line("Certificate", &format!("SHA-256 {first}"));
            line("", &format!("        {second}"));
        }
        match &self.internet {
            None => line("Internet", "not known yet"),
            Some(lines) if lines.is_empty() => line("Internet", "by fixed address"),
            Some(lines) => lines.iter().for_each(|lease| line("Internet", lease)),
        }
        match &self.problems {
            None => line("Health", "not known yet"),
            Some(problems) if problems.is_empty() => line("Health", "ok"),
            Some(problems) => problems.iter().for_each(|problem| line("Health", problem)),
        }
        text.push_str("\n  Press Enter for the command line.\n");
        text
    }
}

/// A fingerprint as browsers show it, in two lines.
fn colons(hex: &str) -> (String, String) {
    let pairs: Vec<String> =
        hex.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_uppercase()).collect();
    let (first, second) = pairs.split_at(pairs.len() / 2);
    (first.join(":"), second.join(":"))
}
