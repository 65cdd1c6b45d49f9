//! Hardware virtualisation if it works, software emulation otherwise.

use std::{
    io::Read,
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accelerator {
    /// The processor, by Linux KVM.
    Kvm,
    /// QEMU's translator: 10 to 20 times slower, works everywhere.
    Tcg,
}

impl Accelerator {
    /// What `PORTCULLIS_ACCEL` (`kvm` or `tcg`) says; otherwise KVM if a guest really starts
    /// with it (/dev/kvm alone proves nothing inside another virtual machine).
    ///
    /// # Errors
    /// If the variable has another value.
    pub fn choose() -> Result<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        match std::env::var("PORTCULLIS_ACCEL").as_deref() {
            Ok("kvm") => Ok(Self::Kvm),
            Ok("tcg") => Ok(Self::Tcg),
            Ok(other) => bail!("PORTCULLIS_ACCEL is `{other}`; allowed are kvm and tcg"),
            Err(_) if *USABLE.get_or_init(kvm_starts_a_guest) => Ok(Self::Kvm),
            Err(_) => Ok(Self::Tcg),
        }
    }

    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
        }
    }
}

/// Starts the legacy firmware for a moment: its first debug output proves that the processor
/// executes guest code.
fn kvm_starts_a_guest() -> bool {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let spawned = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-m", "32", "-display", "none", "-nodefaults"])
        .args(["-chardev", "stdio,id=debug", "-device", "isa-debugcon,iobase=0x402,chardev=debug"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = spawned else { return false };
    let Some(mut output) = child.stdout.take() else { return false };
    let reader = std::thread::spawn(move || {
        let mut byte = [0; 1];
        matches!(output.read(&mut byte), Ok(1))
    });
    let end = Instant::now() + Duration::from_secs(3);
    while !reader.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let started = reader.is_finished();
    let _ = child.kill();
    let _ = child.wait();
    started && reader.join().unwrap_or(false)
}
