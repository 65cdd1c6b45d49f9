//! The datapath that is in force: eBPF or nftables. Changing from one to the other leaves no moment
//! without a filter: the new one is in force before the old one goes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::maps::{MapData, RingBuf};
use portcullis_bus::{
    firewall::{
        Attachment, CaptureRequest, Counter, DatapathStatus, DropCount, Explanation, FlowPage,
        FlowQuery, RuleFinding,
    },
    network::InterfaceStatus,
};
use portcullis_datapath_abi::event::Event;
use portcullis_model::{firewall::Datapath as Kind, part::FirewallPart};
use portcullis_nftables::kernel::KernelError;
use tokio::sync::Notify;

use crate::{
    datapath::{Datapath as Foreseen, DatapathError},
    nftables::Nftables,
    service::Firewall,
    telemetry::capture::Running,
};

/// What went wrong in either datapath.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// In the eBPF datapath.
    #[error(transparent)]
    Ebpf(#[from] DatapathError),
    /// In nftables.
    #[error(transparent)]
    Nftables(#[from] KernelError),
}

type Result<T> = std::result::Result<T, EngineError>;

/// The datapath in force.
pub struct Engine {
    pins: PathBuf,
    datapath: Datapath,
    /// What the network service last reported.
    interfaces: Option<Vec<InterfaceStatus>>,
    /// The other datapath may be there too, from before.
    leftover: bool,
    /// Notified when programs are loaded.
    news: Arc<Notify>,
    /// Programs are waited for.
    patient: bool,
    /// What takes the place of nftables when its programs are loaded.
    next: Option<Box<Firewall>>,
    /// Why the last change did not come about.
    failure: Option<EngineError>,
}

enum Datapath {
    Ebpf(Box<Firewall>),
    Nftables(Box<Nftables>),
}

impl Datapath {
    const fn kind(&self) -> Kind {
        match self {
            Self::Ebpf(_) => Kind::Ebpf,
            Self::Nftables(_) => Kind::Nftables,
        }
    }

    fn apply(&mut self, part: FirewallPart) -> Result<bool> {
        Ok(match self {
            Self::Ebpf(firewall) => firewall.apply(part)?,
            Self::Nftables(nftables) => nftables.apply(part)?,
        })
    }

    fn set_interfaces(&mut self, interfaces: Vec<InterfaceStatus>) -> Result<bool> {
        Ok(match self {
            Self::Ebpf(firewall) => firewall.set_interfaces(interfaces)?,
            Self::Nftables(nftables) => nftables.set_interfaces(interfaces)?,
        })
    }
}

impl Engine {
    /// Opens the datapath of a part; what filters already is not changed. For nftables the
    /// kernel's modules must be there. This one waits for its programs, now and at each change.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(pins: PathBuf, part: FirewallPart) -> Result<Self> {
        let mut this = Self::begin(pins, part, None, Arc::default())?;
        this.patient = true;
        if let Datapath::Ebpf(firewall) = &mut this.datapath {
            firewall.wait()?;
        }
        Ok(this)
    }

    /// The same, but programs are loaded behind it: `news` is notified when it is time to
    /// [`Self::advance`]. What was foreseen ([`Firewall::foresee`]) is used if it fits.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(
        pins: PathBuf,
        part: FirewallPart,
        foreseen: Option<Foreseen>,
        news: Arc<Notify>,
    ) -> Result<Self> {
        let datapath = match part.firewall.datapath {
            Kind::Ebpf => Datapath::Ebpf(Box::new(Firewall::begin(
                pins.clone(),
                part,
                foreseen,
                news.clone(),
            )?)),
            Kind::Nftables => {
                drop(foreseen);
                let nftables = Nftables::open(part)?;
                nftables.close()?;
                Datapath::Nftables(Box::new(nftables))
            }
        };
        Ok(Self {
            pins,
            datapath,
            interfaces: None,
            leftover: true,
            news,
            patient: false,
            next: None,
            failure: None,
        })
    }

    /// Takes a new part. Returns whether anything changed. What needs programs that are not loaded
    /// changes later: [`Self::is_changing`].
    ///
    /// # Errors
    /// What the kernel says; all stays as it was then.
    pub fn apply(&mut self, part: FirewallPart) -> Result<bool> {
        self.failure = None;
        let next = self.next.take();
        if part.firewall.datapath == self.datapath.kind() {
            if let Some(next) = next {
                self.give_up(next);
            }
            let changed = self.datapath.apply(part)?;
            self.tidy_up();
            return Ok(changed);
        }
        match part.firewall.datapath {
            Kind::Ebpf => {
                // Its maps are used again.
                drop(next);
                let mut next = Firewall::begin(self.pins.clone(), part, None, self.news.clone())?;
                if self.patient {
                    next.wait()?;
                }
                self.next = Some(Box::new(next));
                let changed = self.advance()?;
                self.failure.take_if(|_| self.patient).map_or(Ok(changed), Err)
            }
            Kind::Nftables => {
                let mut next = Nftables::open(part)?;
                if let Some(interfaces) = &self.interfaces {
                    next.set_interfaces(interfaces.clone())?;
                }
                Ok(self.change_to(Datapath::Nftables(Box::new(next))))
            }
        }
    }

    fn change_to(&mut self, next: Datapath) -> bool {
        tracing::info!(from = ?self.datapath.kind(), to = ?next.kind(), "another datapath");
        self.datapath = next;
        self.leftover = true;
        self.tidy_up();
        true
    }

    /// Does what can be done with the programs that are loaded by now. Returns whether anything
    /// changed.
    ///
    /// # Errors
    /// If the kernel refuses a program without which nothing can be attached, or what else it says.
    pub fn advance(&mut self) -> Result<bool> {
        let mut changed = match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.advance()?,
            Datapath::Nftables(_) => false,
        };
        if let Some(next) = self.next.take_if(|next| next.refused().is_some()) {
            let refused = next.refused();
            self.give_up(next);
            self.failure = refused.map(EngineError::from);
            if let Some(error) = &self.failure {
                tracing::error!(%error, "the datapath stays as it is");
            }
        }
        if let Some(next) = self.next.take_if(|next| next.is_complete()) {
            changed |= self.change_to_ebpf(next)?;
        }
        self.tidy_up();
        Ok(changed)
    }

    fn change_to_ebpf(&mut self, mut next: Box<Firewall>) -> Result<bool> {
        let refused = match &self.interfaces {
            Some(interfaces) => {
                next.set_interfaces(interfaces.clone()).err().or_else(|| next.take_unwritten())
            }
            None => None,
        };
        if let Some(error) = refused {
            // Of what was attached before it failed nothing may stay.
            self.give_up(next);
            self.failure = Some(error.into());
            return Ok(false);
        }
        Ok(self.change_to(Datapath::Ebpf(next)))
    }

    /// Gives up what was to take the place of nftables, with its maps: they may be large.
    fn give_up(&self, next: Box<Firewall>) {
        drop(next);
        // What an earlier run has attached goes later: [`Self::tidy_up`].
        if !self.leftover {
            remove_programs(&self.pins);
        }
    }

    /// Which datapath it is.
    pub fn kind(&self) -> Kind {
        self.datapath.kind()
    }

    /// Whether a change is under way that [`Self::advance`] will complete.
    pub fn is_changing(&self) -> bool {
        self.next.is_some()
            || matches!(&self.datapath, Datapath::Ebpf(firewall) if firewall.is_changing())
    }

    /// Why the last change did not come about, once.
    pub fn take_failure(&mut self) -> Option<EngineError> {
        let of_firewall = match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.take_failure().map(EngineError::from),
            Datapath::Nftables(_) => None,
        };
        self.failure.take().or(of_firewall)
    }

    /// Whether packets are filtered as the configuration and the network service's report say.
    pub fn is_in_force(&self) -> bool {
        match &self.datapath {
            Datapath::Ebpf(firewall) => firewall.is_in_force(),
            Datapath::Nftables(_) => self.interfaces.is_some(),
        }
    }

    /// What is still to come of the datapath, for people.
    pub fn pending(&self) -> Option<String> {
        match &self.datapath {
            Datapath::Ebpf(firewall) => firewall.pending(),
            Datapath::Nftables(_) => None,
        }
    }

    /// Kernel indices of the devices that are behind the datapath, so that they may be brought up.
    pub fn guarded(&self) -> Vec<u32> {
        match &self.datapath {
            Datapath::Ebpf(firewall) => firewall.guarded(),
            // The ruleset is for all devices.
            Datapath::Nftables(_) => {
                let interfaces = self.interfaces.iter().flatten();
                interfaces.map(|status| status.index).filter(|index| *index != 0).collect()
            }
        }
    }

    /// Takes a new report of the network service. Returns whether anything changed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_interfaces(&mut self, interfaces: Vec<InterfaceStatus>) -> Result<bool> {
        let changed = self.datapath.set_interfaces(interfaces.clone())?;
        self.interfaces = Some(interfaces);
        self.tidy_up();
        Ok(changed)
    }

    /// Removes the other datapath, once this one is in force everywhere.
    fn tidy_up(&mut self) {
        if !self.leftover || self.interfaces.is_none() {
            return;
        }
        match &self.datapath {
            Datapath::Ebpf(firewall)
                if firewall.is_incomplete()
                    || !firewall.is_in_force()
                    || !firewall.is_complete() => {}
            Datapath::Ebpf(_) => {
                self.leftover = false;
                // Where nftables was never used, there is nobody to ask.
                if let Err(error) = Nftables::remove() {
                    tracing::debug!(%error, "no ruleset to remove");
                }
            }
            Datapath::Nftables(_) => {
                self.leftover = false;
                remove_programs(&self.pins);
            }
        }
    }

    /// Tries again what could not be attached. Returns whether anything changed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn retry(&mut self) -> Result<bool> {
        let changed = match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.retry()?,
            Datapath::Nftables(_) => false,
        };
        self.tidy_up();
        Ok(changed)
    }

    /// Whether [`Self::retry`] has something to do.
    pub fn is_incomplete(&self) -> bool {
        match &self.datapath {
            Datapath::Ebpf(firewall) => firewall.is_incomplete(),
            Datapath::Nftables(_) => false,
        }
    }

    /// Has all cached next hops looked up again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes_changed(&mut self) -> Result<()> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => Ok(firewall.routes_changed()?),
            Datapath::Nftables(_) => Ok(()),
        }
    }

    /// Makes the next slice of a pass over the flow table. After the last one: whether the next pass
    /// is urgent. The kernel ages its own flows; there it is time to look at the schedules.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sweep(&mut self) -> Result<Option<bool>> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => Ok(firewall.sweep()?),
            Datapath::Nftables(nftables) => {
                nftables.follow_schedules()?;
                Ok(Some(false))
            }
        }
    }

    /// Ends the flows with an end in an address or prefix; returns how many.
    ///
    /// # Errors
    /// If it is neither, or what the kernel says.
    pub fn purge(&mut self, addresses: &str) -> std::result::Result<u64, String> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.purge(addresses),
            Datapath::Nftables(nftables) => nftables.purge(addresses),
        }
    }

    /// Ends the flows that the policy would not let in now; returns how many.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reevaluate(&mut self) -> Result<u64> {
        Ok(match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.reevaluate()?,
            Datapath::Nftables(nftables) => nftables.reevaluate()?,
        })
    }

    /// Flows that fit a query.
    ///
    /// # Errors
    /// What of the query cannot be looked for, or what the kernel says.
    pub fn find_flows(&mut self, query: &FlowQuery) -> std::result::Result<FlowPage, String> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.find_flows(query),
            Datapath::Nftables(nftables) => nftables.find_flows(query),
        }
    }

    /// The datapath as a whole.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn status(&mut self) -> Result<DatapathStatus> {
        Ok(match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.status()?,
            Datapath::Nftables(nftables) => nftables.status(),
        })
    }

    /// All counters.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&mut self) -> Result<Vec<Counter>> {
        Ok(match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.counters()?,
            Datapath::Nftables(nftables) => nftables.counters()?,
        })
    }

    /// Drops by reason and zones.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn drops(&mut self) -> Result<Vec<DropCount>> {
        Ok(match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.drops()?,
            Datapath::Nftables(nftables) => nftables.drops()?,
        })
    }

    /// What is attached where, and why.
    pub fn attachments(&self) -> Vec<Attachment> {
        match &self.datapath {
            Datapath::Ebpf(firewall) => firewall.attachments(),
            Datapath::Nftables(nftables) => nftables.attachments(),
        }
    }

    /// The ring of events of the packet path, if there is one; it has one reader.
    ///
    /// # Errors
    /// If it is not there.
    pub fn events(&mut self) -> Result<Option<RingBuf<MapData>>> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => Ok(Some(firewall.events()?)),
            Datapath::Nftables(_) => Ok(None),
        }
    }

    /// An event of the packet path.
    pub fn event(&mut self, event: &Event) {
        if let Datapath::Ebpf(firewall) = &mut self.datapath {
            firewall.event(event);
        }
    }

    /// What would become of a packet.
    ///
    /// # Errors
    /// What of the description is wrong.
    pub fn explain(&mut self, packet: &str) -> std::result::Result<Explanation, String> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.explain(packet),
            Datapath::Nftables(nftables) => nftables.explain(packet),
        }
    }

    /// Rules that can never decide, and rules that were merged.
    pub fn findings(&self) -> Vec<RuleFinding> {
        match &self.datapath {
            Datapath::Ebpf(firewall) => firewall.findings(),
            Datapath::Nftables(nftables) => nftables.findings(),
        }
    }

    /// The policy as text for `nft -f`, whichever datapath runs it.
    pub fn nftables(&self) -> String {
        match &self.datapath {
            Datapath::Ebpf(firewall) => firewall.nftables(),
            Datapath::Nftables(nftables) => nftables.text(),
        }
    }

    /// Begins to copy packets; [`Self::end_capture`] ends it.
    ///
    /// # Errors
    /// What of the request is wrong, that another capture runs, or what the kernel says.
    pub fn begin_capture(
        &mut self,
        request: &CaptureRequest,
    ) -> std::result::Result<Running, String> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => firewall.begin_capture(request),
            Datapath::Nftables(_) => {
                Err("packets are copied by eBPF, and firewall.datapath is nftables".to_owned())
            }
        }
    }

    /// Copies no more packets for this capture ([`Running::session`]); nothing if another one runs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end_capture(&mut self, session: u32) -> Result<()> {
        match &mut self.datapath {
            Datapath::Ebpf(firewall) => Ok(firewall.end_capture(session)?),
            Datapath::Nftables(_) => Ok(()),
        }
    }
}

/// Takes our programs off all devices, and gives up their maps. The folder itself is init's.
fn remove_programs(pins: &Path) {
    let remove = |path: &Path| match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), %error, "programs or maps stay");
        }
        _ => {}
    };
    // A program goes with its link; its maps must not go before.
    remove(&pins.join("links"));
    for entry in std::fs::read_dir(pins).into_iter().flatten().flatten() {
        remove(&entry.path());
    }
}
