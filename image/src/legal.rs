//! The licences of an image as a folder: [`licenses`] of crates and Debian's packages, and what
//! Buildroot collects of its own (`make legal-info`).

use crate::architecture::Architecture;
use crate::base::{debian, stub};
use crate::buildroot::Buildroot;
use crate::licenses;
use crate::pipeline::{BaseKind, Options, modules_list};
use crate::progress::stage;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;

/// What of Buildroot's report goes along. Its sources are kept apart: they are larger than the image.
const OF_BUILDROOT: [&str; 7] = [
    "README",
    "buildroot.config",
    "licenses",
    "manifest.csv",
    "host-licenses",
    "host-manifest.csv",
    "legal-info.sha256",
];

/// Writes all of it below `folder`, which must not exist.
///
/// # Errors
/// When something that is shipped has no licence, or Buildroot cannot say.
pub fn write(options: &Options, architecture: &Architecture, folder: &Path) -> Result<()> {
    let Options { checkout, cache, base, .. } = options;
    ensure!(!folder.exists(), "{} exists already: remove it", folder.display());
    let notices = match base {
        BaseKind::Debian => debian::load(architecture, cache, &modules_list(checkout)?)?.notices,
        BaseKind::Buildroot { .. } => vec![stub::notice()?],
        BaseKind::Folder(_) => bail!("a folder handed over by Buildroot has no licences with it"),
    };
    let texts = stage("licences of crates and packages", || {
        licenses::collect(checkout, architecture, &notices)
    })?;
    licenses::write(&texts, folder)?;
    if let BaseKind::Buildroot { output } = base {
        let buildroot = Buildroot::open(checkout, architecture, output.clone(), cache)?;
        stage("licences of Buildroot (legal-info)", || {
            buildroot.make.run(&["legal-info".to_owned()])
        })?;
        let report = output.join("legal-info");
        for name in OF_BUILDROOT {
            copy(&report.join(name), &folder.join("buildroot").join(name))?;
        }
    }
    Ok(())
}

/// Copies a file or a folder with all in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {}", from.display());
    if from.is_dir() {
        fs::create_dir_all(to).with_context(failed)?;
        for entry in fs::read_dir(from).with_context(failed)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(above) = to.parent() {
        fs::create_dir_all(above).with_context(failed)?;
    }
    fs::copy(from, to).map(drop).with_context(failed)
}
