//! Key and certificate of the page.
//!
//! The key is made once and stays: whoever has accepted it in a browser or pinned it keeps that.
//! The certificate is made anew with the same key when its names change or its end is near.
//! [`decide`] is the policy; [`Store`] keeps the two files:
//!
//! | file | content |
//! |---|---|
//! | `key.pem` | ECDSA P-256 key, PKCS #8, mode 0600 |
//! | `certificate.json` | [`Certificate`]: PEM with what was put into it |

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use portcullis_model::part::WebPart;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Days that a certificate is valid: what Apple's systems accept at most of one that a user
/// trusts is 825.
const VALIDITY_DAYS: u64 = 820;
/// A certificate is renewed this long before its end.
const RENEW_BEFORE_S: u64 = 30 * 86_400;
/// A client's clock may be behind.
const BACKDATED_S: u64 = 86_400;

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.json";

/// Key or certificate cannot be made or stored.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The certificate cannot be made.
    #[error("certificate: {0}")]
    Make(String),
}

/// A certificate with what was put into it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Certificate {
    /// SHA-256 of the DER form, lower-case hexadecimal.
    pub sha256: String,
    /// End of validity (seconds since the epoch).
    pub not_after_unix_s: u64,
    /// Names and addresses that it is valid for.
    pub names: Vec<String>,
    /// DER form, hexadecimal.
    pub der: String,
}

/// A key with its certificate.
#[derive(Debug)]
pub struct Identity {
    /// The private key.
    pub key: KeyPair,
    /// The certificate for it.
    pub certificate: Certificate,
}

/// Why a stored certificate is not used any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// It is for other names or addresses.
    NamesChanged,
    /// Its end is near or past.
    Ending,
    /// It is not valid yet: it was made while the clock was ahead.
    NotYetValid,
}

/// Whether a certificate for other names, or at this time, is needed.
pub fn decide(certificate: &Certificate, names: &[String], now_unix_s: u64) -> Option<Renewal> {
    if certificate.names != names {
        Some(Renewal::NamesChanged)
    } else if now_unix_s.saturating_add(RENEW_BEFORE_S) >= certificate.not_after_unix_s {
        Some(Renewal::Ending)
    } else if certificate.not_after_unix_s
        > now_unix_s.saturating_add(VALIDITY_DAYS * 86_400 + BACKDATED_S)
    {
        Some(Renewal::NotYetValid)
    } else {
        None
    }
}

/// Names that the page is reachable by.
pub fn names(part: &WebPart) -> Vec<String> {
    let mut names = vec![format!("{}.{}", part.hostname, part.domain), part.hostname.to_string()];
    names.extend(part.addresses.iter().map(ToString::to_string));
    names
}

impl Certificate {
    /// Makes a self-signed certificate for `key`.
    ///
    /// # Errors
    /// If a name cannot stand in a certificate, or the random generator fails.
    pub fn make(key: &KeyPair, names: &[String], now_unix_s: u64) -> Result<Self, IdentityError> {
        let make = |error: rcgen::Error| IdentityError::Make(error.to_string());
        let at = |unix_s: u64| {
            i64::try_from(unix_s)
                .ok()
                .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
                .ok_or_else(|| IdentityError::Make(format!("time {unix_s} is out of range")))
        };
        let not_after_unix_s = now_unix_s.saturating_add(VALIDITY_DAYS * 86_400);
        let mut params = CertificateParams::new(names).map_err(make)?;
        params.not_before = at(now_unix_s.saturating_sub(BACKDATED_S))?;
        params.not_after = at(not_after_unix_s)?;
        // Browsers refuse two certificates of one issuer with the same number.
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial)
            .map_err(|_| IdentityError::Make("no random numbers".to_owned()))?;
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Portcullis");
        if let Some(name) = names.first() {
            params.distinguished_name.push(DnType::CommonName, short(name));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(key).map_err(make)?;
        let der = certificate.der();
        Ok(Self {
            sha256: sha256(der),
            not_after_unix_s,
            names: names.to_vec(),
            der: hex::encode(der),
        })
    }
}

/// A common name has at most 64 characters (RFC 5280 appendix A.1); the full name is in the SAN.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// The folder of the service.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// A store in `folder`, which exists.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The stored identity, or a new one where none is stored, it is damaged, or
    /// [`decide`] says so. What cannot be stored is used all the same, and logged: a page with a
    /// new key beats no page.
    ///
    /// # Errors
    /// If key or certificate cannot be made.
    pub fn load(&self, names: &[String], now_unix_s: u64) -> Result<Identity, IdentityError> {
        let stored_key = self.read(KEY).and_then(|text| match text {
            Some(text) => {
                KeyPair::from_pem(&text).map(Some).map_err(|error| self.damaged(KEY, error))
            }
            None => Ok(None),
        });
        let key = match stored_key {
            Ok(Some(key)) => key,
            outcome => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "key damaged, a new one is made; browsers will ask again");
                }
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                    .map_err(|error| IdentityError::Make(error.to_string()))?;
                self.keep(KEY, key.serialize_pem().as_bytes());
                key
            }
        };
        match self.certificate(&key) {
            Ok(Some(certificate)) => {
                let certificate = self.renewed(&key, certificate, names, now_unix_s)?;
                Ok(Identity { key, certificate })
            }
            outcome => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "certificate damaged, a new one is made");
                }
                let certificate = self.make(&key, names, now_unix_s)?;
                Ok(Identity { key, certificate })
            }
        }
    }

    /// `certificate`, or a new one for the same key if [`decide`] says so.
    ///
    /// # Errors
    /// If the certificate cannot be made.
    pub fn renewed(
        &self,
        key: &KeyPair,
        certificate: Certificate,
        names: &[String],
        now_unix_s: u64,
    ) -> Result<Certificate, IdentityError> {
        match decide(&certificate, names, now_unix_s) {
            None => Ok(certificate),
            Some(reason) => {
                tracing::info!(?reason, "new certificate with the same key");
                self.make(key, names, now_unix_s)
            }
        }
    }

    fn make(
        &self,
        key: &KeyPair,
        names: &[String],
        now_unix_s: u64,
    ) -> Result<Certificate, IdentityError> {
        let certificate = Certificate::make(key, names, now_unix_s)?;
        match serde_json::to_vec(&certificate) {
            Ok(json) => self.keep(CERTIFICATE, &json),
            Err(error) => tracing::error!(%error, "certificate not stored"),
        }
        Ok(certificate)
    }

    /// The stored certificate, whole and for this key.
    fn certificate(&self, key: &KeyPair) -> Result<Option<Certificate>, IdentityError> {
        let Some(text) = self.read(CERTIFICATE)? else {
            return Ok(None);
        };
        let certificate: Certificate =
            serde_json::from_str(&text).map_err(|error| self.damaged(CERTIFICATE, error))?;
        let der =
            hex::decode(&certificate.der).map_err(|error| self.damaged(CERTIFICATE, error))?;
        if sha256(&der) != certificate.sha256 {
            return Err(self.damaged(CERTIFICATE, "does not have the SHA-256 written beside it"));
        }
        crate::tls::certified_key(key, &certificate)
            .map_err(|error| self.damaged(CERTIFICATE, error))?;
        Ok(Some(certificate))
    }

    fn damaged(
        &self,
        name: &str,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> IdentityError {
        let source = io::Error::new(ErrorKind::InvalidData, why);
        IdentityError::File { path: self.folder.join(name), source }
    }

    fn read(&self, name: &str) -> Result<Option<String>, IdentityError> {
        let path = self.folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }

    /// Writes beside, flushes, renames over, flushes the folder.
    fn keep(&self, name: &str, content: &[u8]) {
        let path = self.folder.join(name);
        let temporary = self.folder.join(format!(".{name}.new"));
        let write = || {
            // A file left by a crash could have any mode.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        if let Err(source) = write() {
            let error = IdentityError::File { path: path.clone(), source };
            tracing::error!(%error, "not stored; made anew at the next start");
        }
    }
}
