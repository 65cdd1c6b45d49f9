//! Buildroot's two scripts, run as Buildroot runs them on folders as it leaves them: what they hand over is what the
//! image builder reads, and what must not be in the target stops the build.
//!
//! The kernel is a stand-in and the tools are the host's: what the scripts do with them is what is tested here.

use anyhow::{Context, Result, ensure};
use portcullis_image::architecture::X86_64;
use portcullis_image::base::buildroot::{Description, describe};
use portcullis_image::buildroot::pin;
use portcullis_image::digest::Digest;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn external() -> Result<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?;
    Ok(checkout.join("buildroot"))
}

/// Buildroot's folders after a build.
struct Folders {
    folder: tempfile::TempDir,
}

impl Folders {
    const ARCHIVE: &'static [u8] = b"source archive of the kernel";

    fn new() -> Result<Self> {
        let output = Self { folder: tempfile::tempdir()? };
        output.write(
            "config",
            b"BR2_ARCH=\"x86_64\"\nBR2_LINUX_KERNEL_VERSION=\"6.12.107\"\nBR2_PACKAGE_PORTCULLIS=y\n",
        )?;
        let kernel = "build/linux-6.12.107";
        for (name, text) in [
            ("include/config/kernel.release", "6.12.107\n"),
            (".config", "CONFIG_64BIT=y\n"),
            ("System.map", "ffffffff81000000 T _text\n"),
            ("modules.builtin", "kernel/fs/erofs/erofs.ko\n"),
            ("modules.builtin.modinfo", "erofs.license=GPL\0"),
        ] {
            output.write(&format!("{kernel}/{name}"), text.as_bytes())?;
        }
        output.write("images/bzImage", b"kernel")?;
        output.write("dl/linux/linux-6.12.107.tar.xz", Self::ARCHIVE)?;
        output.tool("gcc", "echo 14.4.0")?;
        output.tool("ld", "echo 'GNU ld (GNU Binutils) 2.44'")?;
        output.tool("readelf", "exec readelf \"$@\"")?;
        output.program("target/usr/bin/portcullis", &["-static"])?;
        fs::create_dir_all(output.path("target/sbin"))?;
        symlink("../usr/bin/portcullis", output.path("target/sbin/init"))?;
        output.write("target/etc/hostname", b"portcullis\n")?;
        Ok(output)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    }

    fn tool(&self, name: &str, command: &str) -> Result<()> {
        let name = format!("host/bin/x86_64-linux-{name}");
        self.write(&name, format!("#!/bin/sh\n{command}\n").as_bytes())?;
        Ok(fs::set_permissions(self.path(&name), fs::Permissions::from_mode(0o755))?)
    }

    /// Compiles an empty program.
    fn program(&self, name: &str, flags: &[&str]) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        let mut compiler = Command::new("cc")
            .args(["-x", "c", "-", "-o"])
            .arg(&path)
            .args(flags)
            .stdin(Stdio::piped())
            .spawn()
            .context("cc is missing; apt-get install gcc libc6-dev")?;
        compiler.stdin.take().context("no pipe")?.write_all(b"int main(void){return 0;}")?;
        ensure!(compiler.wait()?.success(), "cc failed");
        Ok(())
    }

    fn run(&self, script: &str, argument: &str) -> Result<Output> {
        let script = external()?.join("board/portcullis").join(script);
        Command::new(&script)
            .arg(self.path(argument))
            .env("BR2_CONFIG", self.path("config"))
            .env("BUILD_DIR", self.path("build"))
            .env("HOST_DIR", self.path("host"))
            .env("TARGET_DIR", self.path("target"))
            .env("BR2_DL_DIR", self.path("dl"))
            .output()
            .with_context(|| script.display().to_string())
    }

    fn hand_over(&self) -> Result<Output> {
        self.run("post-image.sh", "images")
    }

    fn described(&self) -> Result<Description> {
        let pinned = pin::read(&external()?)?;
        describe(&self.path("images/portcullis-base"), &X86_64, &pinned.pin)
    }

    fn check_target(&self) -> Result<Output> {
        self.run("post-build.sh", "target")
    }
}

fn succeeds(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn fails_naming(output: &Output, what: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it went through");
    ensure!(said.contains(what), "{what:?} is not named: {said}");
    Ok(())
}

#[test]
fn what_is_handed_over_is_what_is_read() -> Result<()> {
    let output = Folders::new()?;
    succeeds(&output.hand_over()?)?;
    let found = output.described()?;
    assert_eq!(found.kernel_release, "6.12.107");
    assert!(!found.modules);
    assert_eq!(found.toolchain.get("gcc").map(String::as_str), Some("14.4.0"));
    assert_eq!(found.toolchain.get("binutils").map(String::as_str), Some("2.44"));
    let [linux] = found.origins.as_slice() else { anyhow::bail!("{:?}", found.origins) };
    assert_eq!((linux.name.as_str(), linux.version.as_str()), ("linux", "6.12.107"));
    assert_eq!(linux.sha256, Digest::of(Folders::ARCHIVE).to_string());
    let built_in = output.path("images/portcullis-base/modules/modules.builtin");
    assert_eq!(fs::read_to_string(built_in)?, "kernel/fs/erofs/erofs.ko\n");
    Ok(())
}

#[test]
fn a_second_build_replaces_the_first_wholly() -> Result<()> {
    let output = Folders::new()?;
    output.write("target/lib/modules/6.12.107/kernel/net/old.ko", b"module")?;
    succeeds(&output.hand_over()?)?;
    assert!(output.described()?.modules);
    fs::remove_dir_all(output.path("target/lib"))?;
    output.write("images/bzImage", b"another kernel")?;
    succeeds(&output.hand_over()?)?;
    assert!(!output.described()?.modules);
    assert!(!output.path("images/portcullis-base/modules/kernel").exists());
    assert_eq!(fs::read(output.path("images/portcullis-base/kernel"))?, b"another kernel");
    Ok(())
}

#[test]
fn without_a_kernel_nothing_is_handed_over() -> Result<()> {
    let output = Folders::new()?;
    fs::remove_file(output.path("images/bzImage"))?;
    fails_naming(&output.hand_over()?, "bzImage")?;
    assert!(!output.path("images/portcullis-base").exists());
    Ok(())
}

#[test]
fn an_interrupted_handover_leaves_the_last_whole_one() -> Result<()> {
    let output = Folders::new()?;
    succeeds(&output.hand_over()?)?;
    fs::remove_file(output.path("build/linux-6.12.107/modules.builtin.modinfo"))?;
    output.write("images/bzImage", b"another kernel")?;
    fails_naming(&output.hand_over()?, "modules.builtin.modinfo")?;
    output.described()?;
    assert_eq!(fs::read(output.path("images/portcullis-base/kernel"))?, b"kernel");
    Ok(())
}

#[test]
fn a_processor_that_no_image_is_for_is_named() -> Result<()> {
    let output = Folders::new()?;
    output.write("config", b"BR2_ARCH=\"mips64\"\nBR2_LINUX_KERNEL_VERSION=\"6.12.107\"\n")?;
    fails_naming(&output.hand_over()?, "mips64")
}

#[test]
fn our_program_alone_may_be_in_the_target() -> Result<()> {
    succeeds(&Folders::new()?.check_target()?)
}

#[test]
fn a_shell_script_in_the_target_stops_the_build() -> Result<()> {
    let output = Folders::new()?;
    // Whoever is root can run it whatever its mode is.
    output.write("target/etc/network/if-up", b"#!/bin/sh\n")?;
    fails_naming(&output.check_target()?, "etc/network/if-up")
}

#[test]
fn a_second_program_in_the_target_stops_the_build() -> Result<()> {
    let output = Folders::new()?;
    output.program("target/bin/busybox", &["-static"])?;
    fails_naming(&output.check_target()?, "bin/busybox")
}

#[test]
fn a_program_that_asks_for_a_loader_stops_the_build() -> Result<()> {
    let output = Folders::new()?;
    output.program("target/usr/bin/portcullis", &[])?;
    fails_naming(&output.check_target()?, "not static")
}

#[test]
fn without_our_program_the_build_stops() -> Result<()> {
    let output = Folders::new()?;
    fs::remove_file(output.path("target/usr/bin/portcullis"))?;
    fails_naming(&output.check_target()?, "portcullis")
}
