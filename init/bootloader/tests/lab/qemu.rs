//! Runs disks under OVMF in QEMU, without acceleration and without root.
use crate::lab::{DiskImage, MIB, trusted_public_key};
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// One boot takes about 5 seconds on an idle computer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Firmware of the Debian package `ovmf`; the first that exists is used.
const FIRMWARE: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// The programs under test, built for UEFI once per run.
pub struct Programs {
    pub boot_manager: Vec<u8>,
    pub test_kernel: Vec<u8>,
}

pub static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| build().expect("building for UEFI"));

/// The build command of docs/slots.md, with the test key and the test kernel, into a folder of its
/// own: a boot manager that trusts the test key must not lie where images are built from.
fn build() -> Result<Programs> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let keys = folder.join("slot-keys");
    fs::write(&keys, format!("# test key\n\n{}\n", hex::encode(trusted_public_key())))?;
    let target = folder.join("efi");
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PORTCULLIS_SLOT_KEYS", &keys)
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["build", "--profile", "efi", "--target", "x86_64-unknown-uefi"])
        .args(["-Z", "build-std=core,alloc,compiler_builtins"])
        .args(["-Z", "build-std-features=compiler-builtins-mem"])
        .args(["--package", "portcullis-bootloader", "--bins", "--features", "test-kernel"])
        .arg("--target-dir")
        .arg(&target)
        .output()?;
    ensure!(
        output.status.success(),
        "cargo build failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let program = |name: &str| {
        let path = target.join("x86_64-unknown-uefi/efi").join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(Programs {
        boot_manager: program("portcullis-bootloader.efi")?,
        test_kernel: program("test-kernel.efi")?,
    })
}

/// The test kernel in another mode, see `src/bin/test-kernel.rs`.
pub fn test_kernel(mode: u8) -> Vec<u8> {
    let mut program = PROGRAMS.test_kernel.clone();
    let marker = b"portcullis-test-mode=";
    let at = program.windows(marker.len()).position(|window| window == marker).expect("the mode");
    program[at + marker.len()] = mode;
    program
}

/// A disk with the boot manager in its EFI system partition and empty slots.
pub fn disk() -> DiskImage {
    DiskImage::new(&esp(&PROGRAMS.boot_manager).expect("making the EFI system partition (mtools)"))
}

fn esp(boot_manager: &[u8]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("esp");
    let program = folder.path().join("program");
    fs::write(&image, vec![0; 4 * MIB])?;
    fs::write(&program, boot_manager)?;
    let mtools = |command: &str, arguments: &[&str]| {
        let output = Command::new(command)
            .arg("-i")
            .arg(&image)
            .args(arguments)
            .output()
            .with_context(|| format!("{command} (Debian package mtools) is needed"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command}: {error}");
        Ok(())
    };
    mtools("mformat", &["-T", "8192", "::"])?;
    mtools("mmd", &["::/EFI", "::/EFI/BOOT"])?;
    mtools("mcopy", &[program.to_str().context("path")?, "::/EFI/BOOT/BOOTX64.EFI"])?;
    Ok(fs::read(&image)?)
}

/// A running computer. Ends when dropped.
pub struct Computer {
    child: Child,
    output: mpsc::Receiver<Vec<u8>>,
    console: String,
    folder: tempfile::TempDir,
}

impl Computer {
    /// Powers a computer on with `disk`.
    pub fn start(disk: &DiskImage) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (code, variables) = FIRMWARE
            .into_iter()
            .find(|(code, _)| Path::new(code).exists())
            .context("no OVMF firmware: Debian package ovmf is needed")?;
        let path = |name: &str| folder.path().join(name);
        fs::copy(variables, path("variables"))?;
        fs::write(path("disk"), &disk.bytes)?;
        let mut child = Command::new("qemu-system-x86_64")
            .args([
                "-machine", "q35", "-accel", "tcg", "-m", "256", "-display", "none", "-nic", "none",
            ])
            .args([
                "-serial",
                "stdio",
                "-monitor",
                "none",
                "-no-reboot",
                "-no-user-config",
                "-nodefaults",
            ])
            .arg("-drive")
            .arg(format!("if=pflash,format=raw,readonly=on,file={code}"))
            .arg("-drive")
            .arg(format!("if=pflash,format=raw,file={}", path("variables").display()))
            .arg("-drive")
            .arg(format!("if=virtio,format=raw,file={}", path("disk").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("qemu-system-x86_64 (Debian package qemu-system-x86) is needed")?;
        let mut stdout = child.stdout.take().context("no output")?;
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, output, console: String::new(), folder })
    }

    /// Waits until the console has shown `text`.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !self.console.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.console.push_str(&plain(&String::from_utf8_lossy(&bytes))),
                Err(_) => bail!("the console never showed {text:?}:\n{}", self.console),
            }
        }
        Ok(())
    }

    /// Types on the console.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no input")?;
        stdin.write_all(keys.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Waits until the computer is off, and gives what the console has shown; `disk` is then what is
    /// on the disk.
    pub fn finish(mut self, disk: &mut DiskImage) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.console.push_str(&plain(&String::from_utf8_lossy(&bytes))),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("still running:\n{}", self.console),
            }
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "QEMU ended with {status}:\n{}", self.console);
        let disk_file: PathBuf = self.folder.path().join("disk");
        disk.bytes = fs::read(disk_file)?;
        Ok(std::mem::take(&mut self.console))
    }
}

impl Drop for Computer {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boots `disk` until the computer is off; the answer is what the console has shown.
pub fn boot(disk: &mut DiskImage) -> String {
    Computer::start(disk).and_then(|computer| computer.finish(disk)).expect("boot")
}

/// Console output without the terminal's control sequences.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => {
                if chars.next() == Some('[') {
                    let _ = chars.find(char::is_ascii_alphabetic);
                }
            }
            '\r' => {}
            char => plain.push(char),
        }
    }
    plain
}
