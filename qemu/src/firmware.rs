//! UEFI firmware (Debian's `ovmf`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Code and variable store, in the order of preference.
const FIRMWARE: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// The read-only code, and a writable copy of the variables at `variables` (kept if it exists).
pub fn prepare(variables: &Path) -> Result<PathBuf> {
    let Some((code, template)) = FIRMWARE.iter().find(|(code, _)| Path::new(code).exists()) else {
        bail!("no UEFI firmware found at {}: install the package ovmf (make setup)", FIRMWARE[0].0);
    };
    if !variables.exists() {
        // Kept if it exists, so it must be whole when it does.
        let new = variables.with_extension("new");
        std::fs::copy(template, &new)
            .and_then(|_| std::fs::rename(&new, variables))
            .with_context(|| format!("copy {template} to {}", variables.display()))?;
    }
    Ok(PathBuf::from(code))
}
