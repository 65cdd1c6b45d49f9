//! What dpkg knows about packages of the host that parts of the image come from.

use crate::architecture::Architecture;
use crate::base::{Notice, Origin};
use crate::digest::Digest;
use crate::tool::DPKG_QUERY;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The origin of `file`, which an installed `package` has.
///
/// # Errors
/// When the package is not installed or the file cannot be read.
pub fn origin(
    architecture: &Architecture,
    package: &str,
    file: &Path,
    license: &str,
    role: &str,
) -> Result<Origin> {
    let version =
        DPKG_QUERY.text(DPKG_QUERY.command(["--show", "--showformat=${Version}", package]))?;
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Origin {
        purl: purl(package, &version, architecture),
        name: package.to_owned(),
        version,
        license: license.to_owned(),
        sha256: Digest::of(&bytes).to_string(),
        role: role.to_owned(),
    })
}

/// The installed package that `file` belongs to.
///
/// # Errors
/// When dpkg knows of none.
pub fn owner(file: &Path) -> Result<String> {
    let mut command = DPKG_QUERY.command(["--search"]);
    command.arg(file);
    let text = DPKG_QUERY.text(command)?;
    let package = text.split([':', ',']).next().unwrap_or_default().trim();
    anyhow::ensure!(!package.is_empty(), "dpkg-query says {text:?} about {}", file.display());
    Ok(package.to_owned())
}

/// Copyright and licence of an installed package (Debian Policy, 12.5).
///
/// # Errors
/// When the package is not installed, or without its documentation.
pub fn notice(package: &str) -> Result<Notice> {
    let path = Path::new("/usr/share/doc").join(package).join("copyright");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Notice { package: package.to_owned(), text })
}

/// The package URL of a Debian package.
pub fn purl(name: &str, version: &str, architecture: &Architecture) -> String {
    let escape = |text: &str| text.replace('+', "%2B").replace(':', "%3A").replace('~', "%7E");
    format!("pkg:deb/debian/{}@{}?arch={}", escape(name), escape(version), architecture.debian)
}

#[cfg(test)]
mod tests {
    use super::purl;
    use crate::architecture::X86_64;

    #[test]
    fn purls_escape_what_has_a_meaning_there() {
        assert_eq!(
            purl("linux-image-6.12.117+deb12-amd64", "6.12.117-1~deb12u1", &X86_64),
            "pkg:deb/debian/linux-image-6.12.117%2Bdeb12-amd64@6.12.117-1%7Edeb12u1?arch=amd64"
        );
    }
}
