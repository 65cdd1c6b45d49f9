//! `SHA256SUMS` of all files of a folder, and its Ed25519 signature in `SHA256SUMS.sig` (64 bytes, RFC 8032): what
//! `sha256sum --check` and `openssl pkeyutl -verify -rawin` read.

use crate::digest::Digest;
use anyhow::{Context, Result};
use ed25519_dalek::Signer as _;
use portcullis_bundle::SigningKey;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The list's name.
pub const SUMS: &str = "SHA256SUMS";
/// The signature's name.
pub const SIGNATURE: &str = "SHA256SUMS.sig";

/// Writes list and signature for the files in `folder`, sorted by name.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(folder: &Path, key: &SigningKey) -> Result<()> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let name = entry?.file_name().into_string().ok().context("a file's name is not UTF-8")?;
        if name != SUMS && name != SIGNATURE {
            names.push(name);
        }
    }
    names.sort();
    let mut list = String::new();
    for name in names {
        let path = folder.join(&name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let _ = writeln!(list, "{}  {name}", Digest::of(&bytes));
    }
    let signature = key.sign(list.as_bytes()).to_bytes();
    fs::write(folder.join(SUMS), list)?;
    fs::write(folder.join(SIGNATURE), signature)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{SIGNATURE, SUMS, write};
    use crate::key;
    use crate::tool::Tool;
    use portcullis_bundle::SigningKey;
    use std::fs;

    #[test]
    fn sha256sum_and_openssl_agree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let key = SigningKey::from_bytes(&[7; 32]);
        for (name, text) in [("b.slot", "slot"), ("a.json", "{}")] {
            fs::write(path.join(name), text).unwrap();
        }
        write(path, &key).unwrap();
        let list = fs::read_to_string(path.join(SUMS)).unwrap();
        let names: Vec<&str> = list.lines().map(|line| &line[66..]).collect();
        assert_eq!(names, ["a.json", "b.slot"]);
        // Again, with list and signature there already.
        write(path, &key).unwrap();
        assert_eq!(fs::read_to_string(path.join(SUMS)).unwrap(), list);

        let sha256sum = Tool { program: "sha256sum", package: "coreutils" };
        let mut command = sha256sum.command(["--check", "--strict", SUMS]);
        command.current_dir(path);
        sha256sum.run(command).unwrap();

        let openssl = Tool { program: "openssl", package: "openssl" };
        fs::write(path.join("key.pem"), key::public_pem(&key).unwrap()).unwrap();
        let verify = || {
            let mut command = openssl.command(["pkeyutl", "-verify", "-rawin", "-pubin"]);
            command
                .args(["-inkey", "key.pem", "-sigfile", SIGNATURE, "-in", SUMS])
                .current_dir(path);
            openssl.run(command)
        };
        verify().unwrap();
        fs::write(path.join(SUMS), list.replace('a', "b")).unwrap();
        assert!(verify().is_err(), "a changed list was accepted");
    }
}
