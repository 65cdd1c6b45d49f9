//! `org.portcullis.Web1`, and the certificate that it tells of.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use portcullis_bus::{
    Error, Result,
    server::Notifier,
    web::{CertificateStatus, Web1, WebApi},
};
use portcullis_model::part::WebPart;
use portcullis_runtime::{parse_part, unix_now_s};
use rcgen::KeyPair;
use rustls::ServerConfig;

use crate::{
    access::Access,
    identity::{Certificate, Identity, Store, names},
    tls::{Resolver, certified_key, server_config},
};

/// The service's state.
pub struct Web {
    store: Store,
    access: Access,
    resolver: Arc<Resolver>,
    key: Arc<KeyPair>,
    current: Mutex<Current>,
    notifier: OnceLock<Notifier<Web1>>,
}

#[derive(Clone)]
struct Current {
    part: WebPart,
    certificate: Certificate,
}

impl Web {
    /// Loads or makes the certificate for `part`.
    ///
    /// # Errors
    /// If key or certificate cannot be made.
    pub fn new(store: Store, part: WebPart) -> anyhow::Result<Self> {
        let Identity { key, certificate } = store.load(&names(&part), unix_now_s())?;
        let resolver = Arc::new(Resolver::new(certified_key(&key, &certificate)?));
        let access = Access::default();
        access.allow(part.networks.clone());
        access.name(names(&part));
        Ok(Self {
            store,
            access,
            resolver,
            key: Arc::new(key),
            current: Mutex::new(Current { part, certificate }),
            notifier: OnceLock::new(),
        })
    }

    /// Sends the `Changed` signal through `notifier` from now on.
    pub fn notify_through(&self, notifier: Notifier<Web1>) {
        // Called once; a second notifier would be of the same server.
        let _ = self.notifier.set(notifier);
    }

    /// Who may connect, kept up to date.
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// The TLS configuration, whose certificate is kept up to date.
    ///
    /// # Errors
    /// None is known: the provider has the protocol versions.
    pub fn tls(&self) -> std::result::Result<Arc<ServerConfig>, rustls::Error> {
        server_config(self.resolver.clone())
    }

    /// The certificate in use.
    pub fn certificate_status(&self) -> CertificateStatus {
        let Certificate { sha256, not_after_unix_s, names, .. } = self.current().certificate;
        CertificateStatus { sha256, not_after_unix_s, names }
    }

    /// Looks whether the certificate must be renewed by now, and does it.
    ///
    /// # Errors
    /// If it cannot be made; the old one stays.
    pub fn renew(&self) -> anyhow::Result<()> {
        self.take(self.current().part)
    }

    fn current(&self) -> Current {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, part: WebPart) -> anyhow::Result<()> {
        let before = self.current().certificate;
        let certificate =
            self.store.renewed(&self.key, before.clone(), &names(&part), unix_now_s())?;
        let changed = certificate != before;
        if changed {
            self.resolver.replace(certified_key(&self.key, &certificate)?);
        }
        self.access.allow(part.networks.clone());
        self.access.name(certificate.names.clone());
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
            Current { part, certificate };
        if changed && let Some(notifier) = self.notifier.get() {
            notifier.changed();
        }
        Ok(())
    }
}

#[async_trait]
impl WebApi for Web {
    async fn apply(&self, part: String) -> Result<()> {
        let part: WebPart =
            parse_part("web", &part).map_err(|error| Error::InvalidArgument(error.to_string()))?;
        self.take(part).map_err(|error| Error::Failed(format!("{error:#}")))
    }

    async fn certificate(&self) -> Result<CertificateStatus> {
        Ok(self.certificate_status())
    }
}
