//! The programs of this build over tables of certain sizes: pinned, so that the next run of this
//! service has them at once; loaded by threads of their own where they are not.

use std::{collections::BTreeMap, sync::Arc};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use aya_obj::programs::XdpAttachType;
use tokio::sync::Notify;

use super::{
    DatapathError, Hook, Result, Sizes,
    folders::Folders,
    loading::Loading,
    object,
    order::{self, Group, Milestone},
};

/// How many programs there are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// That the kernel has.
    pub loaded: usize,
    /// That are wanted.
    pub wanted: usize,
}

/// The programs, as far as they are loaded.
pub(super) struct Programs {
    folders: Folders,
    sizes: Sizes,
    tcx: Arc<Loading>,
    xdp: Option<Arc<Loading>>,
    news: Arc<Notify>,
    /// Those that were asked for.
    handles: BTreeMap<&'static str, Program>,
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.groups().for_each(|loading| loading.cancel());
    }
}

impl Programs {
    /// The programs that are pinned in a folder; none is loaded.
    pub(super) fn pinned(folders: &Folders, sizes: Sizes, news: Arc<Notify>) -> Self {
        let tcx = Loading::new(Group::Tcx, &folders.programs, news.clone());
        let (folders, handles) = (folders.clone(), BTreeMap::new());
        Self { folders, sizes, tcx, xdp: None, news, handles }
    }

    /// Whether programs of tcx are missing, so that an object file is needed.
    pub(super) fn needs_object(&self) -> bool {
        !self.tcx.missing().is_empty()
    }

    /// Begins to load what is missing of tcx; `news` hears of each that is loaded, or refused.
    pub(super) fn begin(&self, object: Ebpf) -> Result<()> {
        self.tcx.begin(&self.folders.programs, || Ok(object)).map_err(DatapathError::Thread)
    }

    /// Begins to load XDP's, if that was not done before.
    pub(super) fn want_xdp(&mut self) -> Result<()> {
        if self.xdp.is_some() {
            return Ok(());
        }
        let loading = Loading::new(Group::Xdp, &self.folders.programs, self.news.clone());
        if !loading.missing().is_empty() {
            let (folders, sizes) = (self.folders.clone(), self.sizes);
            let read = move || object::read(&folders, sizes);
            loading.begin(&self.folders.programs, read).map_err(DatapathError::Thread)?;
        }
        self.xdp = Some(loading);
        Ok(())
    }

    fn groups(&self) -> impl Iterator<Item = &Arc<Loading>> {
        [Some(&self.tcx), self.xdp.as_ref()].into_iter().flatten()
    }

    /// Whether tcx has come that far.
    pub(super) fn tcx_has(&self, milestone: Milestone) -> bool {
        self.tcx.has(&Group::Tcx.needed(milestone))
    }

    /// Whether XDP can be attached.
    pub(super) fn xdp_has(&self, milestone: Milestone) -> bool {
        self.xdp.as_ref().is_some_and(|xdp| xdp.has(&Group::Xdp.needed(milestone)))
    }

    /// Whether everything that is wanted is loaded. Where XDP is refused, tcx does its work.
    pub(super) fn is_complete(&self) -> bool {
        let xdp = self.xdp.as_ref();
        self.tcx.missing().is_empty()
            && xdp.is_none_or(|xdp| xdp.missing().is_empty() || xdp.failure().is_some())
    }

    /// How far loading is.
    pub(super) fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for (group, loading) in [(Group::Tcx, Some(&self.tcx)), (Group::Xdp, self.xdp.as_ref())] {
            if let Some(loading) = loading {
                let wanted = group.programs().len();
                progress.wanted += wanted;
                progress.loaded += wanted.saturating_sub(loading.missing().len());
            }
        }
        progress
    }

    /// What the kernel refused of tcx's programs, if anything.
    pub(super) fn failure(&self) -> Option<DatapathError> {
        self.tcx.failure()
    }

    /// What the kernel refused of XDP's programs, if anything.
    pub(super) fn xdp_failure(&self) -> Option<DatapathError> {
        self.xdp.as_ref()?.failure()
    }

    /// Has what need not be there to attach tcx wait for [`Self::release`], though not for long.
    pub(super) fn hold_back(&self) {
        self.tcx.hold_back();
    }

    /// Goes on with what was held back.
    pub(super) fn release(&self) {
        self.tcx.release();
    }

    /// Waits until all programs of tcx are loaded.
    pub(super) fn wait(&self) -> Result<()> {
        self.release();
        self.tcx.wait(&Group::Tcx.programs())
    }

    /// The same for XDP's, which were wanted.
    pub(super) fn wait_for_xdp(&self) -> Result<()> {
        let xdp = self.xdp.as_ref().ok_or(DatapathError::Missing("XDP"))?;
        xdp.wait(&Group::Xdp.programs())
    }

    /// The program at which a hook of tcx begins.
    pub(super) fn tcx(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        self.program(entry(hook)?)
    }

    /// The program at which XDP begins.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp> {
        self.program(entry(Hook::Xdp)?)
    }

    /// All programs of a hook, the first one first.
    pub(super) fn all(&mut self, hook: Hook) -> Result<Vec<(&'static str, &Program)>> {
        for name in order::names(hook) {
            self.open(name)?;
        }
        let named = |name| Some((name, self.handles.get(name)?));
        Ok(order::names(hook).filter_map(named).collect())
    }

    /// Any program that is loaded.
    pub(super) fn any(&mut self, name: &'static str) -> Result<&Program> {
        self.open(name).map(|program| &*program)
    }

    /// A loaded program by its name.
    pub(super) fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        self.open(name)?.try_into().ok().ok_or(DatapathError::Missing(name))
    }

    fn open(&mut self, name: &'static str) -> Result<&mut Program> {
        if !self.groups().any(|loading| loading.has(&[name])) {
            return Err(self.failure().unwrap_or(DatapathError::NotYet(name)));
        }
        let path = self.folders.programs.join(name);
        let failed =
            |source: ProgramError| DatapathError::Program { name, source: Box::new(source) };
        let is_xdp = Group::Xdp.programs().contains(&name);
        Ok(match self.handles.entry(name) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => place.insert(if is_xdp {
                Program::Xdp(Xdp::from_pin(path, XdpAttachType::Interface).map_err(failed)?)
            } else {
                Program::SchedClassifier(SchedClassifier::from_pin(path).map_err(failed)?)
            }),
        })
    }
}

fn entry(hook: Hook) -> Result<&'static str> {
    order::entry(hook).ok_or(DatapathError::Missing(order::family(hook).table))
}
