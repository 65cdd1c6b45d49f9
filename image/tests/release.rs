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
    // Whoever runs the tests may build with overrides.
    release.allow_overrides = true;
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

/// A checkout that pins something with the looks of a Buildroot, which is in the cache.
fn pinned(checkout: &Path, cache: &Path) -> Result<()> {
    let source = cache.join("fetched");
    fs::create_dir_all(&source)?;
    git(&source, &["init", "--quiet"])?;
    fs::write(source.join("Makefile"), "export BR2_VERSION := 2026.05.1\n")?;
    git(&source, &["add", "."])?;
    git(&source, &["commit", "--quiet", "-m", "x"])?;
    let head = Command::new("git").arg("-C").arg(&source).args(["rev-parse", "HEAD"]).output()?;
    let commit = String::from_utf8(head.stdout)?.trim().to_owned();
    fs::create_dir_all(cache.join("buildroot"))?;
    fs::rename(source, cache.join("buildroot").join(&commit))?;

    let tree = checkout.join("buildroot");
    fs::create_dir_all(tree.join("configs"))?;
    fs::create_dir_all(tree.join("board/portcullis/patches"))?;
    fs::write(tree.join("configs/portcullis_x86_64_defconfig"), "BR2_x86_64=y\n")?;
    fs::write(tree.join("external.mk"), "")?;
    let zero = "0".repeat(40);
    fs::write(
        tree.join("version.env"),
        format!("BUILDROOT_VERSION=2026.05.1\nBUILDROOT_COMMIT={commit}\nBUILDROOT_TREE={zero}\n"),
    )?;
    fs::create_dir(checkout.join("image"))?;
    fs::write(checkout.join("image/modules.list"), "")?;
    git(checkout, &["add", "."])?;
    git(checkout, &["commit", "--quiet", "-m", "y"])
}

#[test]
fn packages_of_unknown_origin_are_not_released() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let release = release(folder.path())?;
    pinned(&release.options.checkout, &folder.path().join("portcullis"))?;
    let output = folder.path().join("output");
    fs::create_dir_all(output.join("build/linux-6.12"))?;
    let run = Command::new(env!("CARGO_BIN_EXE_portcullis-image"))
        .args(["release", "--base", "buildroot", "1.2.3"])
        .arg("--key")
        .arg(folder.path().join("release.pem"))
        .current_dir(&release.options.checkout)
        .env("XDG_CACHE_HOME", folder.path())
        .env("BUILDROOT_OUTPUT", &output)
        .env_remove("BUILDROOT_DIR")
        .env_remove("BR2_PACKAGE_OVERRIDE_FILE")
        .output()?;
    let error = String::from_utf8(run.stderr)?;
    assert!(!run.status.success());
    assert!(error.contains("no release: nobody knows what") && error.contains("output"), "{error}");
    assert!(!release.options.checkout.join("target").exists(), "something was left behind");
    Ok(())
}
