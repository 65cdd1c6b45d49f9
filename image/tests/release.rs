//! A release that must not be made is refused before anything is built, with all reasons, and leaves nothing behind.

use anyhow::Result;
use portcullis_image::cache::Cache;
use portcullis_image::key;
use portcullis_image::pipeline::{BaseKind, Options};
use portcullis_image::release::{self, Release};
use std::fs;
use std::path::Path;
use std::process::Command;

fn git(folder: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=x", "-c", "user.email=x@example.org"])
        .args(arguments)
        .status()?;
    anyhow::ensure!(status.success(), "git {arguments:?}");
    Ok(())
}

/// A checkout with one commit, which could not be built if it came to that.
fn release(folder: &Path) -> Result<Release> {
    let checkout = folder.join("checkout");
    fs::create_dir(&checkout)?;
    git(&checkout, &["init", "--quiet"])?;
    fs::write(checkout.join("file"), "committed")?;
    git(&checkout, &["add", "."])?;
    git(&checkout, &["commit", "--quiet", "-m", "x"])?;
    let path = folder.join("release.pem");
    key::generate(&path)?;
    Ok(Release {
        version: "1.2.3".into(),
        min_version: Some("1.0.0".into()),
        allow_overrides: false,
        options: Options::plain(checkout, Cache::at(folder.join("cache")), Some(path)),
        folder: folder.join("releases"),
    })
}

fn refusal(release: &Release) -> Result<String> {
    match release::make(release) {
        Ok(folder) => anyhow::bail!("released {}", folder.display()),
        Err(error) => {
            assert!(!release.folder.exists(), "something was left behind");
            Ok(format!("{error:#}"))
        }
    }
}

#[test]
fn all_reasons_are_given_and_nothing_is_left() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut release = release(folder.path())?;
    fs::write(release.options.checkout.join("file"), "changed")?;
    release.version = "1.2".into();
    release.options.key = None;
    let error = refusal(&release)?;
    for reason in ["VERSION is \"1.2\"", " M file", "KEY names no signing key"] {
        assert!(error.contains(reason), "{reason}: {error}");
    }
    release.version = "0.9.0".into();
    assert!(refusal(&release)?.contains("0.9.0 is not newer than MIN_VERSION 1.0.0"));
    Ok(())
}

#[test]
fn a_folder_from_elsewhere_and_another_buildroot_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut release = release(folder.path())?;
    release.options.base = BaseKind::Folder(folder.path().to_owned());
    assert!(refusal(&release)?.contains("a release needs --base debian or buildroot"));
    // The checkout pins no Buildroot.
    release.options.base = BaseKind::Buildroot { output: folder.path().join("output") };
    assert!(refusal(&release)?.contains("version.env"));
    Ok(())
}

#[test]
fn a_release_is_never_built_over() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let release = release(folder.path())?;
    let there = release.folder.join("portcullis-1.2.3-x86_64-debian");
    fs::create_dir_all(&there)?;
    let error = format!("{:#}", release::make(&release).unwrap_err());
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(fs::read_dir(&release.folder)?.count(), 1);
    Ok(())
}
