//! Another datapath in the place of the one in force: with another size of the flow table, or room for
//! more rules. Its programs are loaded behind, while packets go by those of before; the change is one
//! step when all of them are there.

use std::{path::Path, sync::Arc};

use portcullis_datapath_abi::classifier::LINES;
use portcullis_model::{firewall::Firewall as FirewallConfiguration, part::FirewallPart};
use portcullis_runtime::unix_now_s;
use tokio::sync::Notify;

use super::Firewall;
use crate::{
    compile::{Desired, Standing, compile},
    datapath::{Datapath, DatapathError, Milestone, Result, Sizes},
    sweep::Sweeper,
};

/// What is to come.
pub(super) struct Replacement {
    /// Notified when programs are loaded.
    news: Arc<Notify>,
    /// It is waited for.
    pub(super) patient: bool,
    next: Option<Next>,
    /// Why the last one did not come about.
    failure: Option<DatapathError>,
}

struct Next {
    datapath: Datapath,
    /// What is in force with it.
    part: FirewallPart,
    /// The part, compiled to know the sizes.
    prepared: Option<Desired>,
}

impl Replacement {
    pub(super) fn new(news: Arc<Notify>) -> Self {
        Self { news, patient: false, next: None, failure: None }
    }
}

/// Lines that a policy takes.
fn lines(desired: &Desired) -> u32 {
    let lines = desired.policy.as_ref().map_or(0, |policy| policy.lines.len());
    u32::try_from(lines).unwrap_or(u32::MAX)
}

const fn rounded(lines: u32) -> u32 {
    match lines.checked_next_power_of_two() {
        Some(rounded) => rounded,
        None => u32::MAX,
    }
}

/// Sizes that most parts need.
pub(super) fn usual_sizes() -> Sizes {
    Sizes { flows: FirewallConfiguration::default().max_flows, lines: LINES }
}

/// Sizes for a part before the interfaces are known: their addresses hardly change what rules take.
pub(super) fn sizes_at_start(pins: &Path, part: &FirewallPart) -> Sizes {
    let in_use = Datapath::lines_in_use(pins);
    let standing = Standing { unix_s: unix_now_s(), ..Standing::default() };
    let needed = if part.firewall.rules.is_empty() {
        LINES
    } else {
        rounded(lines(&compile(part, &[], &standing)))
    };
    Sizes { flows: part.firewall.max_flows, lines: in_use.max(needed) }
}

impl Firewall {
    /// Takes a new part. Returns whether anything changed. If it needs other tables, that is so only
    /// when their programs are loaded: [`Self::is_changing`], [`Self::advance`].
    ///
    /// # Errors
    /// If the new flow table cannot be made, or what the kernel says; all stays as it was then, as far as
    /// the kernel lets it.
    pub fn apply(&mut self, part: FirewallPart) -> Result<bool> {
        self.replacement.failure = None;
        let mut prepared = None;
        let mut sizes = Sizes { flows: part.firewall.max_flows, ..self.datapath.sizes() };
        if let Some(interfaces) = &self.interfaces {
            let zones = self.datapath.maps().zones()?;
            let standing =
                Standing { zones: &zones, unix_s: unix_now_s(), before: Some(&self.desired) };
            let desired = compile(&part, interfaces, &standing);
            sizes.lines = self.larger(&desired).unwrap_or(sizes).lines;
            prepared = Some(desired);
        }
        if sizes != self.datapath.sizes() {
            return self.replace(part, sizes, prepared);
        }
        self.replacement.next = None;
        self.bring_into_force(part, prepared)
    }

    /// Takes a part; the one of before again if the kernel refuses what it needs.
    fn bring_into_force(&mut self, part: FirewallPart, prepared: Option<Desired>) -> Result<bool> {
        let before = std::mem::replace(&mut self.part, part);
        self.prepared = prepared;
        let changed = self.reconcile()?;
        let Some(refused) = self.unwritten.take() else {
            return Ok(changed);
        };
        self.part = before;
        self.reconcile()?;
        Err(refused)
    }

    /// Sizes with room for a policy, if those in force have none.
    pub(super) fn larger(&self, desired: &Desired) -> Option<Sizes> {
        let (sizes, lines) = (self.datapath.sizes(), lines(desired));
        (lines > sizes.lines).then(|| Sizes { lines: rounded(lines), ..sizes })
    }

    /// Begins to change to tables of other sizes, and to a part with them.
    pub(super) fn replace(
        &mut self,
        part: FirewallPart,
        sizes: Sizes,
        prepared: Option<Desired>,
    ) -> Result<bool> {
        if let Some(next) = &mut self.replacement.next
            && next.datapath.sizes() == sizes
        {
            (next.part, next.prepared) = (part, prepared);
            return Ok(false);
        }
        let mut datapath = Datapath::begin(&self.pins, sizes, self.replacement.news.clone())?;
        if self.datapath.choices().values().any(|choice| choice.xdp) {
            datapath.want_xdp()?;
        }
        tracing::info!(flows = sizes.flows, lines = sizes.lines, "tables of another size");
        if self.replacement.patient {
            datapath.wait()?;
        }
        let loaded = datapath.has(Milestone::Complete);
        self.replacement.next = Some(Next { datapath, part, prepared });
        if !loaded {
            return Ok(false);
        }
        let changed = self.advance()?;
        self.take_failure().map_or(Ok(changed), Err)
    }

    /// Whether a change is under way that [`Self::advance`] will complete.
    pub fn is_changing(&self) -> bool {
        self.replacement.next.is_some()
    }

    /// Why the last change did not come about, once.
    pub fn take_failure(&mut self) -> Option<DatapathError> {
        self.replacement.failure.take()
    }

    /// Does what can be done with the programs that are loaded by now. Returns whether anything
    /// changed.
    ///
    /// # Errors
    /// If the kernel refuses a program without which nothing can be attached, or what else it says.
    pub fn advance(&mut self) -> Result<bool> {
        if let Some(error) = self.datapath.failure()
            && !self.datapath.has(Milestone::Filters)
        {
            return Err(error);
        }
        let refused = self.replacement.next.as_ref().and_then(|next| next.datapath.failure());
        if let Some(error) = refused {
            tracing::error!(%error, "the datapath stays as it is");
            (self.replacement.next, self.replacement.failure) = (None, Some(error));
        }
        let loaded = |next: &mut Next| next.datapath.has(Milestone::Complete);
        if let Some(next) = self.replacement.next.take_if(loaded) {
            return self.change_to(next);
        }
        let mut changed = self.milestone_reached();
        if self.waiting && self.datapath.may_go_on() {
            changed |= self.reconcile()?;
        }
        Ok(changed)
    }

    /// Whether packets can do more than when this was asked before.
    fn milestone_reached(&mut self) -> bool {
        let reached = [Milestone::Routes, Milestone::Complete].map(|one| self.datapath.has(one));
        let refused = self.datapath.failure().is_some();
        if refused {
            self.report();
        }
        let now = (reached, refused);
        std::mem::replace(&mut self.reached, now) != now
    }

    /// The programs replace what is attached, with the policy of before; then the new one is installed.
    /// That it is refused is no reason to give up what is in force: [`Self::take_failure`].
    fn change_to(&mut self, next: Next) -> Result<bool> {
        let Next { datapath, part, prepared } = next;
        let mut before = std::mem::replace(&mut self.datapath, datapath);
        self.datapath.take_over()?;
        if self.interfaces.is_some() {
            for error in self.datapath.attach(&self.desired.devices) {
                tracing::warn!(%error, "not attached");
            }
        }
        if before.sizes().flows != self.datapath.sizes().flows {
            // Its numbers are of the new table.
            self.sweeper = Sweeper::default();
            if self.datapath.is_in_force() {
                self.telemetry.moved(before.maps().flows(), self.datapath.maps().flows());
            }
        }
        if let Err(error) = self.bring_into_force(part, prepared) {
            tracing::error!(%error, "the policy stays as it is");
            self.replacement.failure = Some(error);
        }
        Ok(true)
    }
}
