//! Hardware virtualisation if it works, software emulation otherwise.

use std::{
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{firmware, qmp::Qmp};

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
            // Without what QEMU 7 emulates slowly: five levels of page tables, and `rep stosb`,
            // which it does byte by byte and Linux clears pages with if the processor offers it.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,erms=off"],
        }
    }
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "software emulation",
        })
    }
}

/// Starts the firmware for a moment. Inside some virtual machines /dev/kvm is there and stops at
/// the first instruction that it does not know, which QEMU reports as an internal error.
fn kvm_starts_a_guest() -> bool {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let Ok(folder) = tempfile::tempdir() else { return false };
    let Ok(code) = firmware::prepare(&folder.path().join("variables.fd")) else { return false };
    let socket = folder.path().join("qmp.sock");
    let spawned = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "256"])
        .args(["-nodefaults", "-display", "none"])
        .arg("-drive")
        .arg(format!("if=pflash,format=raw,readonly=on,file={}", code.display()))
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = spawned else { return false };
    let mut running = || -> Result<bool> {
        let mut qmp = Qmp::connect(&socket, &mut child)?;
        std::thread::sleep(Duration::from_secs(1));
        let status = qmp.command("query-status", serde_json::json!({}))?;
        Ok(status.get("status").and_then(serde_json::Value::as_str) == Some("running"))
    };
    let running = running().unwrap_or(false);
    let _ = child.kill();
    let _ = child.wait();
    running
}
