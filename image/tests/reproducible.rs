//! The same parts give the same bytes, wherever and whenever they are put together; and what is put together is a disk
//! whose every byte is answered for by the signature.
//!
//! Kernel, modules and programs are small stand-ins; the EFI stub and every tool are the real ones.

use anyhow::{Context, Result, ensure};
use portcullis_bundle::SigningKey;
use portcullis_image::architecture::X86_64;
use portcullis_image::assemble::{Assembly, Parts, assemble};
use portcullis_image::base::Base;
use portcullis_image::digest::Digest;
use portcullis_image::inspect::inspect;
use portcullis_image::modules::{Module, info::Info};
use portcullis_image::release::content_digest;
use portcullis_image::tool::Tools;
use portcullis_image::{disk, qcow2};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const EPOCH: u64 = 1_700_000_000;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn parts() -> Result<Parts> {
    let module = |name: &str, boot| Module {
        name: name.to_owned(),
        path: format!("kernel/drivers/{name}.ko"),
        info: Info { aliases: vec![format!("virtio:{name}*")], ..Info::default() },
        bytes: name.repeat(5000).into_bytes(),
        boot,
    };
    Ok(Parts {
        architecture: &X86_64,
        tools: Tools::default(),
        base: Base {
            release: "6.12.0-test".into(),
            kernel: (0..200_000_u32).flat_map(u32::to_le_bytes).collect(),
            modules: vec![module("virtio_blk", true), module("virtio_net", false)],
            built_in: vec!["kernel/drivers/md/dm-mod.ko".into()],
            stub: fs::read(X86_64.stub).context("the Debian package systemd-boot-efi")?,
            ..Base::default()
        },
        program: b"multi-call".repeat(100_000),
        stage_one: b"stage one".repeat(10_000),
        boot_manager: b"boot manager".repeat(1000),
        version: "1.2.3+gabc".parse()?,
        min_version: Some("1.0.0".parse()?),
        epoch: EPOCH,
    })
}

/// Assembles and writes both disk images, and gives the hashes of all that is published.
fn build(folder: &Path) -> Result<(Assembly, [Digest; 3])> {
    let assembly = assemble(&parts()?, &key())?;
    let (raw, cow) = (folder.join("raw"), folder.join("qcow2"));
    disk::write(&raw, &assembly.esp, &assembly.slot.blob)?;
    qcow2::convert(&raw, &cow)?;
    let digests = [
        Digest::of(&assembly.slot.blob),
        Digest::of(&fs::read(&raw)?),
        Digest::of(&fs::read(&cow)?),
    ];
    Ok((assembly, digests))
}

#[test]
fn two_builds_in_different_folders_are_equal() -> Result<()> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (assembly, one) = build(first.path())?;
    // The coarsest clock in it is FAT's, with two seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let (_, two) = build(second.path())?;
    assert_eq!(one, two);
    assert_eq!(Digest(assembly.slot.summary.sha256), one[0]);
    Ok(())
}

#[test]
fn another_key_gives_the_same_content() -> Result<()> {
    let content = |seed| {
        let slot = assemble(&parts()?, &SigningKey::from_bytes(&[seed; 32]))?.slot;
        anyhow::Ok((content_digest(&slot.blob)?, slot.summary.sha256))
    };
    let ((one, signed), (other, signed_otherwise)) = (content(7)?, content(8)?);
    assert_eq!(one, other);
    assert_ne!(signed, signed_otherwise);
    Ok(())
}

#[test]
fn any_other_input_gives_another_slot() -> Result<()> {
    let blob = |change: fn(&mut Parts)| {
        let mut parts = parts()?;
        change(&mut parts);
        anyhow::Ok(Digest::of(&assemble(&parts, &key())?.slot.blob))
    };
    let reference = blob(|_| {})?;
    for (what, change) in [
        ("program", (|parts| parts.program.push(0)) as fn(&mut Parts)),
        ("stage one", |parts| parts.stage_one.push(0)),
        ("kernel", |parts| parts.base.kernel.push(0)),
        ("version", |parts| parts.version = "1.2.4".parse().unwrap()),
        ("minimum version", |parts| parts.min_version = None),
        ("time", |parts| parts.epoch += 1),
    ] {
        assert_ne!(blob(change)?, reference, "{what}");
    }
    Ok(())
}

#[test]
fn inspection_finds_every_flipped_byte() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (assembly, _) = build(folder.path())?;
    let trusted = [*key().verifying_key().as_bytes()];
    let slot = folder.path().join("slot");
    let manifest = assembly.slot.summary.manifest;

    fs::write(&slot, &assembly.slot.blob)?;
    for file in [&slot, &folder.path().join("raw")] {
        let inspection = inspect(file, &trusted)?;
        assert!(inspection.sound, "{}", inspection.text);
        assert!(inspection.text.contains("1.2.3+gabc"), "{}", inspection.text);
        // What two builders with different keys compare.
        let content = content_digest(&assembly.slot.blob)?;
        assert!(inspection.text.contains(&content), "{}", inspection.text);
    }
    assert!(!inspect(&slot, &[[9; 32]])?.sound, "a stranger's key was trusted");

    let end = assembly.slot.blob.len();
    for at in [
        0,
        manifest.tree.offset,
        manifest.uki.offset,
        manifest.uki.offset + manifest.uki.size - 1,
        end as u64 - 1,
    ] {
        let mut damaged = assembly.slot.blob.clone();
        damaged[usize::try_from(at)?] ^= 1;
        fs::write(&slot, damaged)?;
        let inspection = inspect(&slot, &trusted)?;
        assert!(
            !inspection.sound && inspection.text.contains("NOT SOUND"),
            "byte {at}: {}",
            inspection.text
        );
    }
    Ok(())
}

#[test]
fn binutils_and_veritysetup_read_what_we_wrote() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (assembly, _) = build(folder.path())?;
    let manifest = assembly.slot.summary.manifest;
    let part = |offset: u64, size: u64| {
        let start = usize::try_from(offset)?;
        anyhow::Ok(&assembly.slot.blob[start..start + usize::try_from(size)?])
    };

    let uki = folder.path().join("uki.efi");
    fs::write(&uki, part(manifest.uki.offset, manifest.uki.size)?)?;
    let output = run(Command::new("objdump").arg("-h").arg(&uki), "binutils")?;
    let headers = String::from_utf8(output)?;
    for section in [".text", ".osrel", ".cmdline", ".uname", ".linux", ".initrd"] {
        assert!(headers.contains(&format!(" {section} ")), "{section} is missing:\n{headers}");
    }
    for (section, expected) in [
        (".cmdline", assembly.slot.command_line.as_bytes()),
        (".initrd", assembly.initrd.as_slice()),
    ] {
        let copy = folder.path().join("section");
        let mut objcopy = Command::new("objcopy");
        objcopy.args(["-O", "binary", "--only-section", section]).arg(&uki).arg(&copy);
        run(&mut objcopy, "binutils")?;
        assert!(fs::read(&copy)?.starts_with(expected), "{section} has another content");
    }

    let (root, tree) = (folder.path().join("root"), folder.path().join("tree"));
    fs::write(&root, part(manifest.root.offset, manifest.root.size)?)?;
    fs::write(&tree, part(manifest.tree.offset, manifest.tree.size)?)?;
    let mut verity = Command::new("/usr/sbin/veritysetup");
    verity.args(["verify", "--no-superblock", "--data-block-size=4096", "--hash-block-size=4096"]);
    verity.arg(format!("--salt={}", Digest(manifest.salt)));
    verity.arg(format!("--data-blocks={}", manifest.root.size / 4096));
    verity.arg(&root).arg(&tree).arg(Digest(manifest.root_hash).to_string());
    run(&mut verity, "cryptsetup-bin")?;
    run(Command::new("fsck.erofs").arg(&root), "erofs-utils")?;
    Ok(())
}

fn run(command: &mut Command, package: &str) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("{command:?}, of the Debian package {package}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
