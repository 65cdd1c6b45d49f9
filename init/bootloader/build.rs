//! Embeds the public keys that slots may be signed with.
//!
//! `PORTCULLIS_SLOT_KEYS` names a text file: one Ed25519 public key per line, 64 hexadecimal digits;
//! empty lines and lines that start with `#` are ignored.
use anyhow::{Context as _, Result, bail, ensure};
use ed25519_dalek::VerifyingKey;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

const VARIABLE: &str = "PORTCULLIS_SLOT_KEYS";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    if for_uefi() {
        // No time stamp in the program: same sources, same bytes.
        println!("cargo::rustc-link-arg-bins=/Brepro");
    }
    let keys = match env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        Some(path) => read_keys(&path)?,
        None if for_uefi() => bail!(
            "set {VARIABLE} to the path of a file with the public keys that slots are signed with \
             (one per line, 64 hexadecimal digits): a boot manager without keys can start nothing"
        ),
        // The host's build only runs the tests of the library.
        None => Vec::new(),
    };
    let mut code = String::from("&[\n");
    for key in keys {
        writeln!(code, "    {key:?},")?;
    }
    code.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    fs::write(out.join("slot_keys.rs"), code).context("cannot write slot_keys.rs")
}

fn for_uefi() -> bool {
    env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "uefi")
}

fn read_keys(path: &Path) -> Result<Vec<[u8; 32]>> {
    println!("cargo::rerun-if-changed={}", path.display());
    let text = fs::read_to_string(path)
        .with_context(|| format!("{VARIABLE}: cannot read {}", path.display()))?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("{VARIABLE}: {} line {}", path.display(), index + 1);
        let mut key = [0; 32];
        hex::decode_to_slice(line, &mut key)
            .with_context(|| format!("{}: not 64 hexadecimal digits", place()))?;
        let usable = VerifyingKey::from_bytes(&key).is_ok_and(|key| !key.is_weak());
        ensure!(usable, "{}: not a usable Ed25519 public key", place());
        keys.push(key);
    }
    ensure!(!keys.is_empty(), "{VARIABLE}: {} holds no key", path.display());
    Ok(keys)
}
