//! The base `debian`: the prebuilt kernel of the host's Debian release and the stub of its `systemd-boot-efi`.
//!
//! apt finds the package, checks the archive's signature and says the package's hash; nothing is installed.

use super::{Base, Notice, Origin, stub};
use crate::architecture::Architecture;
use crate::cache::Cache;
use crate::debian::purl;
use crate::digest::Digest;
use crate::modules::list;
use crate::progress::stage;
use crate::tool::{APT_CACHE, APT_GET, DPKG_DEB};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Gets kernel, modules and stub; `modules_list` is the text of `modules.list`.
///
/// # Errors
/// When the host is no Debian that has this kernel, the package cannot be had, or a wanted module is missing.
pub fn load(architecture: &Architecture, cache: &Cache, modules_list: &str) -> Result<Base> {
    let wanted = list::parse(modules_list)?;
    let stub = stub::read(architecture)?;
    let record = stage("kernel package (apt)", || kernel_record(architecture))?;
    let package = stage("kernel download", || download(&record, cache))?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    stage("kernel unpacking", || {
        let mut command = DPKG_DEB.command(["--extract"]);
        command.arg(&package).arg(folder.path());
        DPKG_DEB.run(command).map(drop)
    })?;

    let (release, modules_folder) = find_modules(folder.path())?;
    let kernel_path = folder.path().join("boot").join(format!("vmlinuz-{release}"));
    let kernel =
        fs::read(&kernel_path).with_context(|| format!("cannot read {}", kernel_path.display()))?;
    let (modules, built_in) =
        stage("kernel modules", || super::modules(&modules_folder, &wanted, &release))?;
    let origins = vec![record.origin(architecture), stub::origin(architecture)?];
    let copyright = folder.path().join("usr/share/doc").join(&record.name).join("copyright");
    let text =
        fs::read(&copyright).with_context(|| format!("cannot read {}", copyright.display()))?;
    let notices = vec![Notice { package: record.name, text }, stub::notice()?];
    Ok(Base { release, kernel, modules, built_in, stub, origins, built_by: Vec::new(), notices })
}

/// What apt says about a package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    name: String,
    version: String,
    sha256: String,
}

impl Record {
    fn origin(&self, architecture: &Architecture) -> Origin {
        Origin {
            name: self.name.clone(),
            version: self.version.clone(),
            license: "GPL-2.0-only WITH Linux-syscall-note".to_owned(),
            purl: purl(&self.name, &self.version, architecture),
            sha256: self.sha256.clone(),
            role: "kernel and modules".to_owned(),
        }
    }
}

/// Finds the kernel package by way of the metapackage of this Debian release.
fn kernel_record(architecture: &Architecture) -> Result<Record> {
    // On 12 the newer kernel is a backport beside the release's own; from 13 on it is the release's own.
    let metapackages = [
        format!("linux-image-6.12-{}", architecture.debian),
        format!("linux-image-{}", architecture.debian),
    ];
    for metapackage in &metapackages {
        let Ok(text) =
            APT_CACHE.text(APT_CACHE.command(["show", "--no-all-versions", metapackage]))
        else {
            continue;
        };
        let Some(kernel) = depends_of(&text) else { continue };
        if !kernel.starts_with("linux-image-6.12.") {
            continue;
        }
        let text = APT_CACHE.text(APT_CACHE.command(["show", "--no-all-versions", &kernel]))?;
        return record_of(&text)
            .with_context(|| format!("apt-cache says nothing usable about {kernel}"));
    }
    bail!(
        "apt knows no 6.12 kernel ({}): Debian 12 or 13 is needed, with its security archive in the sources; \
         run apt-get update",
        metapackages.join(" or ")
    )
}

/// The versioned kernel package that a metapackage's record names first.
fn depends_of(record: &str) -> Option<String> {
    let depends = field(record, "Depends")?;
    depends.split([',', ' ']).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

fn record_of(record: &str) -> Option<Record> {
    Some(Record {
        name: field(record, "Package")?.to_owned(),
        version: field(record, "Version")?.to_owned(),
        sha256: field(record, "SHA256")?.to_owned(),
    })
}

/// A field of a control record that stands in one line (deb822(5)).
fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// The package file, from the cache or the archive. Its hash must be the one in apt's signed index.
fn download(record: &Record, cache: &Cache) -> Result<PathBuf> {
    let key =
        Digest::of_parts(["deb", &record.name, &record.version, &record.sha256].map(str::as_bytes));
    cache.get_or_make("packages", key, |target| {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut command = APT_GET.command(["--quiet=2", "download"]);
        command.arg(format!("{}={}", record.name, record.version)).current_dir(folder.path());
        APT_GET.run(command)?;
        let mut files = fs::read_dir(folder.path())?;
        let package = files.next().context("apt-get downloaded nothing")??.path();
        let bytes = fs::read(&package)?;
        let digest = Digest::of(&bytes).to_string();
        ensure!(
            digest == record.sha256,
            "the package {} has the SHA-256 {digest}, apt's index says {}",
            record.name,
            record.sha256
        );
        Ok(fs::write(target, bytes)?)
    })
}

/// The kernel release and its module folder in an unpacked package (`/lib` before `/usr` was merged, `/usr/lib` after).
fn find_modules(package: &Path) -> Result<(String, PathBuf)> {
    for folder in ["usr/lib/modules", "lib/modules"] {
        let Ok(mut entries) = fs::read_dir(package.join(folder)) else { continue };
        if let Some(entry) = entries.next().transpose()? {
            let release = entry.file_name().into_string().ok();
            return Ok((release.context("the kernel's release is not UTF-8")?, entry.path()));
        }
    }
    bail!("the kernel package has no folder lib/modules or usr/lib/modules")
}

#[cfg(test)]
mod tests {
    use super::{Record, depends_of, record_of};

    const META: &str = "Package: linux-image-6.12-amd64\nVersion: 6.12.117-1~deb12u1\n\
                        Provides: linux-image-6.0.0\nPre-Depends: x\n\
                        Depends: linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)\nSHA256: 5b85\n";

    #[test]
    fn the_metapackage_names_the_kernel() {
        assert_eq!(depends_of(META).as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(depends_of("Package: x\n"), None);
    }

    #[test]
    fn reads_a_record() {
        let expected = Record {
            name: "linux-image-6.12-amd64".into(),
            version: "6.12.117-1~deb12u1".into(),
            sha256: "5b85".into(),
        };
        assert_eq!(record_of(META), Some(expected));
        assert_eq!(record_of("Package: x\nVersion: 1\n"), None);
    }
}
