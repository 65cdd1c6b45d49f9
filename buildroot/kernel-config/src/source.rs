//! The Kconfig files of a kernel: from Debian's source package, of which two hundredths are needed, or a given folder.

use anyhow::{Context, Result, bail, ensure};
use portcullis_image::cache::Cache;
use portcullis_image::digest::Digest;
use portcullis_image::tool::{APT_CACHE, APT_GET, DPKG_DEB, Tool};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The source package of the kernel series that we build. Debian 12 has it among its security updates, 13 by itself.
const PACKAGE: &str = "linux-source-6.12";

/// What Kconfig reads of a kernel's sources, as patterns of `tar`.
const NEEDED: [&str; 5] = ["Kconfig*", "Kbuild", "Makefile", "*/scripts/*", "*/arch/*/Makefile*"];

const TAR: Tool = Tool { program: "tar", package: "tar" };

/// A folder with the Kconfig files of a kernel.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    // Removed when the tree is dropped.
    _folder: Option<TempDir>,
}

impl Tree {
    /// The Kconfig files of a kernel whose sources are in `path`.
    ///
    /// # Errors
    /// When there are none.
    pub fn at(path: &Path) -> Result<Self> {
        ensure!(
            path.join("Kconfig").exists() && path.join("scripts/kconfig").exists(),
            "{} is not the top folder of a kernel's sources",
            path.display()
        );
        Ok(Self { path: path.canonicalize()?, _folder: None })
    }

    /// Those of the newest 6.12 that Debian has for this machine. They are kept in the cache; only the first time the
    /// whole package is downloaded (150 MB) and unpacked (15 s).
    ///
    /// # Errors
    /// When apt does not know the package, or it cannot be had or unpacked.
    pub fn of_debian(cache: &Cache) -> Result<Self> {
        let package = Package::find(PACKAGE)?;
        let parts = ["kconfig", &package.name, &package.version, &package.sha256];
        let key = Digest::of_parts(parts.into_iter().chain(NEEDED).map(str::as_bytes));
        let archive = cache.get_or_make("kconfig", key, |target| extract(&package, target))?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut command = TAR.command(["--extract", "--gzip", "--strip-components=1", "--file"]);
        command.arg(&archive).arg("--directory").arg(folder.path());
        TAR.run(command)?;
        let path = folder.path().to_owned();
        Ok(Self { path, _folder: Some(folder) })
    }

    /// The top folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What apt's signed index says about a package.
struct Package {
    name: String,
    version: String,
    sha256: String,
}

impl Package {
    fn find(name: &str) -> Result<Self> {
        let text = APT_CACHE
            .text(APT_CACHE.command(["show", "--no-all-versions", name]))
            .with_context(|| format!("apt does not know {name}: run apt-get update"))?;
        let field = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("apt-cache says no {key} of {name}"))
        };
        Ok(Self { name: name.to_owned(), version: field("Version")?, sha256: field("SHA256")? })
    }

    fn download(&self, folder: &Path) -> Result<PathBuf> {
        let mut command = APT_GET.command(["--quiet=2", "download"]);
        command.arg(format!("{}={}", self.name, self.version)).current_dir(folder);
        APT_GET.run(command)?;
        let file = fs::read_dir(folder)?.next().context("apt-get downloaded nothing")??.path();
        let digest = Digest::of(&fs::read(&file)?).to_string();
        ensure!(
            digest == self.sha256,
            "{} has the SHA-256 {digest}, apt's index says {}",
            self.name,
            self.sha256
        );
        Ok(file)
    }
}

/// Makes `target`, an archive of what Kconfig needs.
fn extract(package: &Package, target: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let download = folder.path().join("download");
    let unpacked = folder.path().join("unpacked");
    let sources = folder.path().join("sources");
    for path in [&download, &unpacked, &sources] {
        fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let file = package.download(&download)?;
    let mut command = DPKG_DEB.command(["--extract"]);
    command.arg(&file).arg(&unpacked);
    DPKG_DEB.run(command)?;
    let archive = unpacked.join(format!("usr/src/{}.tar.xz", package.name));

    // The folder counts for the patterns behind it only.
    let mut command = TAR.command(["--extract", "--xz", "--directory"]);
    command.arg(&sources).arg("--file").arg(&archive);
    command.args(["--wildcards", "--no-anchored"]).args(NEEDED);
    TAR.run(command)?;
    let mut entries = fs::read_dir(&sources)?;
    let (Some(top), None) = (entries.next().transpose()?, entries.next()) else {
        bail!("{} does not have one top folder", archive.display());
    };
    Tree::at(&top.path())?;

    // The same bytes for the same package.
    let mut command = TAR.command(["--create", "--gzip", "--sort=name", "--mtime=@0"]);
    command.args(["--owner=0", "--group=0", "--numeric-owner", "--directory"]).arg(&sources);
    command.arg("--file").arg(target).arg(top.file_name());
    TAR.run(command)?;
    File::open(target)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn a_folder_without_a_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Tree::at(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("is not the top folder of a kernel's sources"), "{error}");
    }
}
