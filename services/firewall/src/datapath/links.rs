//! Attachments to devices, pinned.

mod tags;

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::XdpLink,
};

use super::{DatapathError, Result};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hook {
    /// What leaves.
    Egress,
    /// What arrives.
    Ingress,
    /// What arrives, before the kernel has made a socket buffer of it.
    Xdp,
}

impl Hook {
    /// All, in the order in which they are attached: egress first, so that nothing that ingress
    /// lets in is answered past the flow table.
    pub const ALL: [Self; 3] = [Self::Egress, Self::Ingress, Self::Xdp];

    /// Name on the bus.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "tcx-ingress",
            Self::Egress => "tcx-egress",
            Self::Xdp => "xdp",
        }
    }
}

/// A place on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Folder of the pins.
    pub(super) folder: &'a Path,
    /// Kernel index of the device.
    pub(super) index: u32,
    /// Its name.
    pub(super) device: &'a str,
    /// Where on it.
    pub(super) hook: Hook,
}

impl Place<'_> {
    fn pin(&self) -> PathBuf {
        self.folder.join(format!("{}-{}", self.index, self.hook.name()))
    }

    fn failed(&self, error: &dyn std::error::Error) -> DatapathError {
        self.refused(chain(error))
    }

    fn refused(&self, message: String) -> DatapathError {
        DatapathError::Attach { device: self.device.to_owned(), hook: self.hook.name(), message }
    }

    /// The link that is pinned for the place, if there is one.
    fn pinned<L: TryFrom<FdLink>>(&self) -> Option<L> {
        L::try_from(FdLink::from(PinnedLink::from_pin(self.pin()).ok()?)).ok()
    }

    /// Removes a pin whose link is dead, and makes sure that the device is the one meant.
    fn prepare(&self) -> Result<()> {
        let path = self.pin();
        if path.exists() {
            fs::remove_file(&path).map_err(|source| DatapathError::Pin { path, source })?;
        }
        match nix::net::if_::if_nametoindex(self.device) {
            Ok(found) if found == self.index => Ok(()),
            Ok(found) => Err(self.refused(format!("has index {found}, expected {}", self.index))),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn keep(&self, link: FdLink) -> Result<()> {
        link.pin(self.pin()).map(drop).map_err(|error| self.failed(&error))
    }

    /// Puts a tcx program here: into the link that is pinned, or into a new one.
    pub(super) fn attach_tcx(&self, program: &mut SchedClassifier) -> Result<()> {
        if let Some(link) = self.pinned::<SchedClassifierLink>() {
            match program.attach_to_link(link) {
                // Ours to drop: the pin keeps the link.
                Ok(id) => {
                    return program.take_link(id).map(drop).map_err(|error| self.failed(&error));
                }
                // The device of that index is gone, and the link is dead.
                Err(error) => self.note_dead(&error),
            }
        }
        self.prepare()?;
        let direction = match self.hook {
            Hook::Egress => TcAttachType::Egress,
            Hook::Ingress | Hook::Xdp => TcAttachType::Ingress,
        };
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program
            .attach_with_options(self.device, direction, options)
            .map_err(|error| self.failed(&error))?;
        let link = program.take_link(id).map_err(|error| self.failed(&error))?;
        self.keep(FdLink::try_from(link).map_err(|error| self.failed(&error))?)
    }

    /// The same for XDP, in the driver: never in the generic code, which is slower than tcx.
    pub(super) fn attach_xdp(&self, program: &mut Xdp) -> Result<()> {
        tags::leave_in_frames(self.device).map_err(|error| self.failed(&error))?;
        if let Some(link) = self.pinned::<XdpLink>() {
            match program.attach_to_link(link) {
                Ok(id) => {
                    return program.take_link(id).map(drop).map_err(|error| self.failed(&error));
                }
                Err(error) => self.note_dead(&error),
            }
        }
        self.prepare()?;
        let id = program
            .attach_to_if_index(self.index, XdpMode::Driver)
            .map_err(|error| self.failed(&error))?;
        let link = program.take_link(id).map_err(|error| self.failed(&error))?;
        self.keep(FdLink::try_from(link).map_err(|error| self.failed(&error))?)
    }

    fn note_dead(&self, error: &dyn std::error::Error) {
        let (device, hook) = (self.device, self.hook.name());
        tracing::debug!(device, hook, %error, "pinned link is not usable");
    }
}

/// Detaches wherever `wanted` does not say otherwise.
pub(super) fn detach_others(folder: &Path, wanted: impl Fn(u32, Hook) -> bool) {
    for (index, hook, path) in pins(folder) {
        if !wanted(index, hook)
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
    found.sort_by_key(|(index, hook, _)| (*index, *hook));
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
