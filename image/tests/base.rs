//! The folder that Buildroot hands over: read as it was written, and refused when anything in it is not as it says.
//!
//! Modules are small stand-ins made of this test program's own format; the EFI stub is the real one.

use anyhow::{Context, Result};
use portcullis_image::architecture::X86_64;
use portcullis_image::base::buildroot::{self, Pin};
use portcullis_image::base::{Base, Origin};
use portcullis_image::cache::Cache;
use portcullis_image::pipeline::modules_list;
use portcullis_image::{base, digest::Digest};
use std::fs;
use std::path::Path;

fn pin() -> Pin {
    Pin { version: "2026.05.1".into(), commit: "c".repeat(40) }
}

fn base() -> Base {
    Base {
        release: "6.12.107".into(),
        kernel: b"kernel".repeat(1000),
        built_in: vec![
            "kernel/drivers/md/dm-verity.ko".into(),
            "kernel/net/bridge/bridge.ko".into(),
        ],
        origins: vec![Origin {
            name: "linux".into(),
            version: "6.12.107".into(),
            license: "GPL-2.0-only WITH Linux-syscall-note".into(),
            purl: "pkg:generic/linux@6.12.107".into(),
            sha256: "0".repeat(64),
            role: "kernel and modules".into(),
        }],
        ..Base::default()
    }
}

const LIST: &str = "boot dm_verity\nroot bridge\nroot crc32c_intel?\n";

fn load(folder: &Path) -> Result<Base> {
    buildroot::load(&X86_64, folder, &pin(), LIST)
}

#[test]
fn a_kernel_without_modules_is_taken_as_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    buildroot::write(folder.path(), &base(), &X86_64, &pin())?;
    let loaded = load(folder.path())?;
    let expected = base();
    assert_eq!((loaded.release, loaded.kernel), (expected.release, expected.kernel));
    assert_eq!((loaded.modules, loaded.built_in), (vec![], expected.built_in));
    let names: Vec<&str> = loaded.origins.iter().map(|origin| origin.name.as_str()).collect();
    assert_eq!(names, ["linux", "systemd-boot-efi"]);
    Ok(())
}

#[test]
fn what_is_not_as_it_says_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let error = |change: &dyn Fn(&Path) -> Result<()>| -> Result<String> {
        buildroot::write(folder.path(), &base(), &X86_64, &pin())?;
        change(folder.path())?;
        Ok(format!("{:#}", load(folder.path()).err().context("it was taken")?))
    };
    let edit = |from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join("base.json");
            let text = fs::read_to_string(&path)?;
            anyhow::ensure!(text.contains(from), "no {from} in {text}");
            Ok(fs::write(&path, text.replace(from, to))?)
        }
    };
    for (from, to, expected) in [
        ("\"format\": 1", "\"format\": 2", "format 2, this builder reads 1"),
        ("\"x86_64\"", "\"aarch64\"", "it is for aarch64, not x86_64"),
        ("2026.05.1", "2026.02", "it was built by Buildroot 2026.02"),
        ("\"kernel\":", "\"../kernel\":", "no SHA-256 of the file kernel"),
        ("\"role\"", "\"part\"", "base.json is wrong"),
    ] {
        let error = error(&edit(from, to))?;
        assert!(error.contains(expected), "{error}");
    }
    let error = |change: &dyn Fn(&Path) -> Result<()>, expected: &str| -> Result<()> {
        let error = error(change)?;
        assert!(error.contains(expected), "{error}");
        Ok(())
    };
    error(&|folder| Ok(fs::write(folder.join("kernel"), "other")?), "kernel has the SHA-256")?;
    error(&|folder| Ok(fs::remove_file(folder.join("kernel"))?), "cannot read")?;
    error(&|folder| Ok(fs::remove_file(folder.join("base.json"))?), "has not come to its end")?;
    error(
        &|folder| {
            Ok(fs::write(folder.join("modules/modules.builtin"), "kernel/net/bridge/bridge.ko\n")?)
        },
        "no module dm_verity",
    )?;
    Ok(())
}

#[test]
fn debians_kernel_is_the_same_by_either_way() -> Result<()> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("checkout")?;
    let list = modules_list(checkout)?;
    let direct = base::debian::load(&X86_64, &Cache::of_user()?, &list)?;
    let folder = tempfile::tempdir()?;
    buildroot::write(folder.path(), &direct, &X86_64, &pin())?;
    let handed_over = buildroot::load(&X86_64, folder.path(), &pin(), &list)?;
    assert_eq!(direct.release, handed_over.release);
    assert_eq!(Digest::of(&direct.kernel), Digest::of(&handed_over.kernel));
    assert!(direct.modules.len() > 50 && direct.modules == handed_over.modules);
    assert_eq!(direct.built_in, handed_over.built_in);
    assert_eq!(direct.origins, handed_over.origins);
    Ok(())
}
