//! A release: everything that is published of one version, in one folder that appears whole or not at all.
//!
//! [`conditions`] refuses what must not be released; [`pipeline`] builds; this module names the files; [`checksums`]
//! signs the list of them all. [`files`] packs folders and disks. The same commit, version and key give the same bytes.

pub mod checksums;
pub mod conditions;
pub mod files;

use crate::architecture::{Architecture, X86_64};
use crate::buildroot::{Buildroot, make::Make};
use crate::pipeline::{self, BaseKind, Options};
use crate::progress::{note, stage};
use crate::{key, legal, version};
use anyhow::{Context, Result, bail, ensure};
use conditions::{Candidate, Tree};
use portcullis_bundle::{TRAILER_SIZE, Version, key_id};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// What to release.
#[derive(Debug, Clone)]
pub struct Release {
    /// Its version, as somebody typed it.
    pub version: String,
    /// The oldest version that a device running it may install, likewise.
    pub min_version: Option<String>,
    /// Packages of Buildroot may come from folders of this machine.
    pub allow_overrides: bool,
    /// How to build; version, minimum and profile are set from here.
    pub options: Options,
    /// The folder that gets a folder for each release.
    pub folder: PathBuf,
}

/// Checks, builds, and gives the folder of the release.
///
/// # Errors
/// When a condition is not met (names all that are not) or the build fails.
pub fn make(release: &Release) -> Result<PathBuf> {
    let architecture = &X86_64;
    let (options, tree) = options_of(release)?;
    let stem = stem(&release.version, architecture, &options.base);
    let folder = release.folder.join(&stem);
    ensure!(
        !folder.exists(),
        "{} is there already; a release is never built over another one",
        folder.display()
    );
    fs::create_dir_all(&release.folder)
        .with_context(|| format!("cannot create {}", release.folder.display()))?;
    let staging = tempfile::Builder::new().prefix(".release-").tempdir_in(&release.folder)?;
    let built = Options { out: staging.path().join("image"), ..options };
    let report = pipeline::build(&built)?;
    let target = staging.path().join("files");
    fs::create_dir(&target)?;
    let epoch = version::epoch(version::commit(&built.checkout)?.as_ref())?;

    let take = |from: &Path, name: &str| {
        let to = target.join(format!("{stem}{name}"));
        fs::rename(from, &to)
            .or_else(|_| fs::copy(from, &to).map(drop))
            .with_context(|| format!("cannot take {}", from.display()))
    };
    let blob = fs::read(built.out.join(pipeline::SLOT))?;
    take(&built.out.join(pipeline::SLOT), ".slot")?;
    take(&built.out.join(pipeline::QCOW2), ".qcow2")?;
    take(&built.out.join(pipeline::SIZE), ".size.json")?;
    take(&built.out.join(pipeline::SBOM), ".cdx.json")?;
    stage("disk image, compressed (zstd)", || {
        files::compress(&built.out.join(pipeline::RAW), &target.join(format!("{stem}.raw.zst")))
    })?;

    let licences = staging.path().join("licences");
    legal::write(&built, architecture, &licences)?;
    stage("licences (tar, zstd)", || {
        files::pack(&licences, epoch, &target.join(format!("{stem}.licences.tar.zst")))
    })?;
    if let BaseKind::Buildroot { output } = &built.base {
        stage("kernel's sources and configuration", || {
            let base = crate::buildroot::base_folder(output);
            for (name, to) in [("config", ".kernel-config"), ("System.map", ".System.map")] {
                fs::copy(base.join(name), target.join(format!("{stem}{to}")))
                    .with_context(|| format!("cannot take {name} of {}", base.display()))?;
            }
            let sources = output.join("legal-info/sources");
            files::archive(&sources, epoch, &target.join(format!("{stem}.sources.tar")))
        })?;
    }

    let signing_key = key::load(built.key.as_deref(), &built.cache)?;
    let public = *signing_key.verifying_key().as_bytes();
    let facts = json!({
        "version": release.version,
        "min_version": release.min_version,
        "architecture": architecture.name,
        "base": report.base,
        "commit": tree.commit,
        "source_date_epoch": epoch,
        "key_id": key_id(&public).to_string(),
        "content_sha256": content_digest(&blob)?,
        "overrides": matches!(built.base, BaseKind::Buildroot { .. }) && Make::is_overridden(),
    });
    let mut facts = serde_json::to_vec_pretty(&facts)?;
    facts.push(b'\n');
    fs::write(target.join(format!("{stem}.release.json")), facts)?;
    fs::write(target.join("release-key.pub.pem"), key::public_pem(&signing_key)?)?;
    checksums::write(&target, &signing_key)?;

    // It took an hour, and the stages read the checkout one after another.
    tree.check_unchanged(&conditions::tree(&built.checkout, &release.version)?)?;
    fs::rename(&target, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
    note(&format!("release {}", folder.display()));
    Ok(folder)
}

/// SHA-256 of a slot blob without its trailer: what everybody gets who builds the same, whatever the key.
///
/// # Errors
/// When the blob is shorter than a trailer.
pub fn content_digest(blob: &[u8]) -> Result<String> {
    let (content, _) = blob
        .split_last_chunk::<TRAILER_SIZE>()
        .context("the slot blob is shorter than its trailer")?;
    Ok(crate::digest::Digest::of(content).to_string())
}

/// The options of the build and the state of the checkout, if all conditions are met.
fn options_of(release: &Release) -> Result<(Options, Tree)> {
    let Options { checkout, cache, key, base, .. } = &release.options;
    let candidate = Candidate {
        version: &release.version,
        min_version: release.min_version.as_deref(),
        tree: conditions::tree(checkout, &release.version)?,
        key: conditions::key(key.as_deref(), cache),
        overrides: matches!(base, BaseKind::Buildroot { .. })
            && Make::is_overridden()
            && !release.allow_overrides,
    };
    candidate.check()?;
    let tree = candidate.tree;
    // A base that was handed over before says nothing about the licences of its parts.
    ensure!(!matches!(base, BaseKind::Folder(_)), "a release needs --base debian or buildroot");
    if let BaseKind::Buildroot { output } = base {
        // Early: it would be a pity to learn that in an hour.
        let buildroot = Buildroot::open(checkout, &X86_64, output.clone(), cache)?;
        if let Some(stale) = buildroot.make.stale()? {
            bail!(
                "no release: {stale}; remove that folder, or name another one by BUILDROOT_OUTPUT"
            );
        }
    }
    let parse = |text: &String| -> Result<Version> { Ok(text.parse()?) };
    let options = Options {
        version: Some(parse(&release.version)?),
        min_version: release.min_version.as_ref().map(parse).transpose()?,
        profile: pipeline::SHIPPED_PROFILE.to_owned(),
        ..release.options.clone()
    };
    Ok((options, tree))
}

/// Name of the folder and beginning of all names in it. What is built on Debian's kernel says so.
fn stem(version: &str, architecture: &Architecture, base: &BaseKind) -> String {
    let variant = match base {
        BaseKind::Debian => "-debian",
        BaseKind::Buildroot { .. } | BaseKind::Folder(_) => "",
    };
    format!("portcullis-{version}-{}{variant}", architecture.name)
}

#[cfg(test)]
mod tests {
    use super::{content_digest, stem};
    use crate::architecture::X86_64;
    use crate::pipeline::BaseKind;
    use portcullis_bundle::TRAILER_SIZE;

    #[test]
    fn names_say_version_processor_and_the_unusual_base() {
        let buildroot = BaseKind::Buildroot { output: "out".into() };
        assert_eq!(stem("1.2.3", &X86_64, &buildroot), "portcullis-1.2.3-x86_64");
        assert_eq!(stem("1.2.3", &X86_64, &BaseKind::Debian), "portcullis-1.2.3-x86_64-debian");
    }

    #[test]
    fn the_content_is_all_but_the_signature() {
        let mut blob = vec![1; 4096 + TRAILER_SIZE];
        let digest = content_digest(&blob).unwrap();
        blob[4096] = 2;
        assert_eq!(content_digest(&blob).unwrap(), digest);
        blob[4095] = 2;
        assert_ne!(content_digest(&blob).unwrap(), digest);
        assert!(content_digest(&[0; 10]).is_err());
    }
}
