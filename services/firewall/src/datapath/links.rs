//! Attachments to devices, pinned.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};

use super::{DatapathError, Result};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// What arrives.
    Ingress,
    /// What leaves.
    Egress,
}

impl Hook {
    /// Both, in the order in which they are attached: egress first, so that nothing that ingress
    /// lets in is answered past the flow table.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// Name of its program in the object file.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ingress => "tcx_ingress",
            Self::Egress => "tcx_egress",
        }
    }

    /// Name on the bus.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "tcx-ingress",
            Self::Egress => "tcx-egress",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// Puts `program` on a device: into the link that is pinned for it, or into a new one.
pub(super) fn attach(
    folder: &Path,
    program: &mut SchedClassifier,
    index: u32,
    device: &str,
    hook: Hook,
) -> Result<()> {
    let failed = |message: String| DatapathError::Attach {
        device: device.to_owned(),
        hook: hook.name(),
        message,
    };
    let path = pin(folder, index, hook);
    if let Ok(pinned) = PinnedLink::from_pin(&path)
        && let Ok(link) = SchedClassifierLink::try_from(FdLink::from(pinned))
    {
        match program.attach_to_link(link) {
            // Ours to drop: the pin keeps the link.
            Ok(id) => {
                return program.take_link(id).map(drop).map_err(|error| failed(error.to_string()));
            }
            // The device of that index is gone, and the link is dead.
            Err(error) => {
                tracing::debug!(device, hook = hook.name(), %error, "pinned link is not usable");
            }
        }
    }
    if path.exists() {
        fs::remove_file(&path)
            .map_err(|source| DatapathError::Pin { path: path.clone(), source })?;
    }
    match nix::net::if_::if_nametoindex(device) {
        Ok(found) if found == index => {}
        Ok(found) => return Err(failed(format!("has index {found}, expected {index}"))),
        Err(error) => return Err(failed(error.to_string())),
    }
    let id = program
        .attach_with_options(
            device,
            hook.direction(),
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )
        .map_err(|error| failed(chain(&error)))?;
    let link = program.take_link(id).map_err(|error| failed(error.to_string()))?;
    let link = FdLink::try_from(link).map_err(|error| failed(error.to_string()))?;
    link.pin(&path).map(drop).map_err(|error| failed(chain(&error)))
}

/// Detaches from all devices but these.
pub(super) fn detach_others(folder: &Path, wanted: &BTreeMap<u32, String>) {
    for (index, _, path) in pins(folder) {
        if !wanted.contains_key(&index)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "link stays attached");
        }
    }
}

/// Device index, hook and program id of each link.
pub(super) fn list(folder: &Path) -> Vec<(u32, Hook, u32)> {
    pins(folder)
        .into_iter()
        .filter_map(|(index, hook, path)| {
            let info = FdLink::from(PinnedLink::from_pin(path).ok()?).info().ok()?;
            Some((index, hook, info.program_id()))
        })
        .collect()
}

fn pin(folder: &Path, index: u32, hook: Hook) -> PathBuf {
    folder.join(format!("{index}-{}", hook.name()))
}

fn pins(folder: &Path) -> Vec<(u32, Hook, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (index, hook) = name.to_str()?.split_once('-')?;
            let hook = Hook::ALL.into_iter().find(|candidate| candidate.name() == hook)?;
            Some((index.parse().ok()?, hook, entry.path()))
        })
        .collect();
    found.sort_by_key(|(index, hook, _)| (*index, hook.name()));
    found
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
