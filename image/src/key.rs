//! The Ed25519 key that signs slots, as a PKCS#8 PEM file (what `openssl genpkey -algorithm ed25519` makes).

use crate::cache::Cache;
use crate::progress;
use anyhow::{Context, Result, bail};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use portcullis_bundle::SigningKey;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Where the development key of this user is; it never lies in a checkout.
pub fn development_key_path(cache: &Cache) -> PathBuf {
    cache.folder().join("keys/development.pem")
}

/// The key at `path`, or the development key, which is made when there is none yet.
///
/// # Errors
/// When the key cannot be read or made.
pub fn load(path: Option<&Path>, cache: &Cache) -> Result<SigningKey> {
    if let Some(path) = path {
        return read(path);
    }
    let path = development_key_path(cache);
    if !path.exists() {
        match generate(&path) {
            Ok(_) => progress::note(&format!("made the development key {}", path.display())),
            // Another build was faster; then its key is the one.
            Err(_) if path.exists() => {}
            Err(error) => return Err(error),
        }
    }
    read(&path)
}

/// Makes a new key at `path`, readable by its owner alone.
///
/// # Errors
/// When there is a file already, which is never overwritten, or the folder cannot be written.
pub fn generate(path: &Path) -> Result<SigningKey> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut seed))
        .context("cannot read /dev/urandom")?;
    let key = SigningKey::from_bytes(&seed);
    let pem = key.to_pkcs8_pem(LineEnding::LF).context("cannot encode the key")?;

    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    // Written aside and linked into place: whoever sees the file sees all of it, and an older one stays.
    let temporary = folder.join(format!(".key-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("cannot create {}", temporary.display()))?;
    let linked = file
        .write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&temporary, path));
    fs::remove_file(&temporary)?;
    linked.with_context(|| {
        format!("cannot create the key {} (an existing one is kept)", path.display())
    })?;
    Ok(key)
}

/// Reads a private key.
///
/// # Errors
/// When the file cannot be read or is not an Ed25519 private key in PKCS#8 PEM.
pub fn read(path: &Path) -> Result<SigningKey> {
    let pem = fs::read_to_string(path)
        .with_context(|| format!("cannot read the key {}", path.display()))?;
    SigningKey::from_pkcs8_pem(&pem)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("{} is not an Ed25519 private key in PKCS#8 PEM", path.display()))
}

/// The public half as PEM, which other programs read (RFC 8410).
///
/// # Errors
/// When it cannot be encoded.
pub fn public_pem(key: &SigningKey) -> Result<String> {
    key.verifying_key().to_public_key_pem(LineEnding::LF).context("cannot encode the public key")
}

/// The public keys the boot manager trusts, one hexadecimal line each.
pub fn public_lines(keys: &[[u8; 32]]) -> String {
    keys.iter().map(|key| format!("{}\n", hex::encode(key))).collect()
}

/// Reads a public key of 64 hexadecimal digits.
///
/// # Errors
/// When it is anything else.
pub fn parse_public(text: &str) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    if hex::decode_to_slice(text.trim(), &mut key).is_err() {
        bail!("{text:?} is not a public key: 64 hexadecimal digits are needed");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::{development_key_path, generate, load, parse_public, public_lines, read};
    use crate::cache::Cache;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_development_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let first = load(None, &cache).unwrap();
        assert_eq!(first.to_bytes(), load(None, &cache).unwrap().to_bytes());
        let path = development_key_path(&cache);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(generate(&path).is_err(), "an existing key was overwritten");
        assert_eq!(first.to_bytes(), read(&path).unwrap().to_bytes());
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn reads_what_openssl_makes() {
        // RFC 8410, section 10.3, the key without attributes.
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, pem).unwrap();
        let public = *read(&path).unwrap().verifying_key().as_bytes();
        assert_eq!(
            public_lines(&[public]),
            "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1\n"
        );
        assert_eq!(parse_public(&public_lines(&[public])).unwrap(), public);
        assert!(parse_public("abc").is_err());
    }
}
