//! The service's state: the datapath, and what it shall do. All decisions are in `compile`,
//! `install`, `ageing` and `hooks`; this puts them together. `replacement` changes to another
//! datapath when its programs are loaded; `telling` is what is told of packets and flows.

mod replacement;
mod telling;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_bus::{
    firewall::{Attachment, Counter as CounterRecord, DatapathStatus, FlowPage, FlowQuery},
    network::InterfaceStatus,
};
use portcullis_datapath_abi::{Counter, FlowRecord, guard::BLOCKED};
use portcullis_model::{Label, firewall::Hook as Wish, part::FirewallPart};
use portcullis_policy::{compile::name_hash, schedule::Steady};
use portcullis_runtime::unix_now_s;
use tokio::sync::Notify;

use crate::{
    ageing::Pressure,
    causes::with_causes,
    compile::{Desired, Standing, compile},
    connections,
    datapath::{Datapath, DatapathError, Hook, Milestone, Result},
    guard::{self, DesiredGuard},
    install::{self, InForce, guard::InstalledGuard, install},
    listing::{self, Filter},
    purge::{Gone, ends, touches},
    reevaluate::Judge,
    sweep::{Ended, Sweeper, Swept, Terms, now_ticks},
    telemetry::{Telemetry, events::LogNames},
};

use replacement::Replacement;
use telling::Capture;

/// The firewall.
pub struct Firewall {
    pins: PathBuf,
    datapath: Datapath,
    part: FirewallPart,
    /// What the network service last reported; `None` before it did, and then nothing that is
    /// attached from an earlier run is touched.
    interfaces: Option<Vec<InterfaceStatus>>,
    desired: Desired,
    in_force: InForce,
    guard: DesiredGuard,
    guarded: InstalledGuard,
    problems: Vec<String>,
    /// Something could not be attached.
    incomplete: bool,
    /// Why the maps are not what they should be.
    unwritten: Option<DatapathError>,
    /// Programs must be loaded before it goes on.
    waiting: bool,
    /// What was compiled to know how large the tables must be: it need not be done again.
    prepared: Option<Desired>,
    replacement: Replacement,
    /// What was loaded, and whether a program was refused, when it was last told.
    reached: ([bool; 2], bool),
    /// How long the schedules say the same.
    steady: Steady,
    sweeper: Sweeper,
    swept: Swept,
    pressure: Pressure,
    /// Flows that had found no room when that was last asked.
    refused: u64,
    telemetry: Telemetry,
    capture: Option<Capture>,
}

impl Firewall {
    /// Loads the datapath for a part; nothing that runs already is changed. This one waits for its
    /// programs, now and at each change.
    ///
    /// # Errors
    /// See [`Datapath::open`].
    pub fn open(pins: PathBuf, part: FirewallPart) -> Result<Self> {
        let mut this = Self::begin(pins, part, None, Arc::default())?;
        this.wait()?;
        Ok(this)
    }

    /// Waits for its programs, now and at each change from now on.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub fn wait(&mut self) -> Result<()> {
        self.replacement.patient = true;
        self.datapath.wait()
    }

    /// Begins to load the datapath for a part that is not known yet, for [`Self::begin`]: the kernel
    /// takes longer to verify the first programs than all else takes until packets are filtered, and
    /// they depend on the part by the sizes of two tables only, which few change. `None` where tables
    /// are left from before: what is filtered by them need not be in a hurry.
    ///
    /// # Errors
    /// See [`Datapath::begin`].
    pub fn foresee(pins: &Path, news: Arc<Notify>) -> Result<Option<Datapath>> {
        if Datapath::has_tables(pins) {
            return Ok(None);
        }
        let datapath = Datapath::begin(pins, replacement::usual_sizes(), news)?;
        // The other services start now too, and all wait for the filters.
        datapath.hold_back();
        Ok(Some(datapath))
    }

    /// The same as [`Self::open`], but programs are loaded behind it: `news` is notified when it is time
    /// to [`Self::advance`]. What was foreseen is given up if the part needs other sizes.
    ///
    /// # Errors
    /// See [`Datapath::begin`].
    pub fn begin(
        pins: PathBuf,
        part: FirewallPart,
        foreseen: Option<Datapath>,
        news: Arc<Notify>,
    ) -> Result<Self> {
        let sizes = replacement::sizes_at_start(&pins, &part);
        let mut datapath = match foreseen.filter(|datapath| datapath.sizes() == sizes) {
            Some(datapath) => datapath,
            None => Datapath::begin(&pins, sizes, news.clone())?,
        };
        datapath.take_over()?;
        // The counter outlives the processes of this service.
        let refused = datapath.maps().counter(Counter::DropFull)?.packets;
        let telemetry = Telemetry::new(&part.firewall, LogNames::default());
        Ok(Self {
            pins,
            datapath,
            part,
            interfaces: None,
            desired: Desired::default(),
            in_force: InForce::default(),
            guard: DesiredGuard::default(),
            guarded: InstalledGuard::default(),
            problems: Vec::new(),
            incomplete: false,
            unwritten: None,
            waiting: false,
            prepared: None,
            replacement: Replacement::new(news),
            reached: Default::default(),
            steady: Steady::default(),
            sweeper: Sweeper::default(),
            swept: Swept::default(),
            pressure: Pressure::NONE,
            refused,
            telemetry,
            capture: None,
        })
    }

    /// Takes a new report of the network service. Returns whether anything changed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_interfaces(&mut self, interfaces: Vec<InterfaceStatus>) -> Result<bool> {
        self.interfaces = Some(interfaces);
        self.reconcile()
    }

    /// Tries again what could not be attached or written. Returns whether anything changed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn retry(&mut self) -> Result<bool> {
        if self.is_incomplete() { self.reconcile() } else { Ok(false) }
    }

    /// Whether [`Self::retry`] has something to do.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete || self.unwritten.is_some()
    }

    /// Why the maps are not what they should be, once.
    pub fn take_unwritten(&mut self) -> Option<DatapathError> {
        self.unwritten.take()
    }

    /// Kernel indices of the devices that are behind the datapath, so that they may be brought up. One
    /// without an address asks for it first, and so needs that flows of the router are made.
    pub fn guarded(&self) -> Vec<u32> {
        if !self.datapath.is_in_force() {
            return Vec::new();
        }
        let attachments = self.datapath.attachments();
        let attached = |index, hook| attachments.iter().any(|at| (at.0, at.1) == (index, hook));
        let routes = self.datapath.has(Milestone::Routes);
        let interfaces = self.interfaces.iter().flatten();
        interfaces
            .filter(|status| routes || !status.addresses.is_empty())
            .map(|status| status.index)
            .filter(|index| attached(*index, Hook::Egress) && attached(*index, Hook::Ingress))
            .collect()
    }

    /// Brings everything to what is wanted; whether anything changed. That a table has no room for it
    /// keeps nothing from being filtered: what is in force there stays, [`Self::retry`] tries again, and
    /// it is a problem in [`Self::status`].
    fn reconcile(&mut self) -> Result<bool> {
        if self.desired.numbers.is_empty() {
            self.desired.numbers = self.numbers_in_force()?;
        }
        let Some(interfaces) = &self.interfaces else {
            return Ok(false);
        };
        self.waiting = self.datapath.replaces_others() && !self.datapath.has(Milestone::Complete);
        if self.waiting {
            // What filters now goes by the same tables of zones and interfaces.
            return Ok(false);
        }
        let zones = self.datapath.maps().zones()?;
        let prepared = self.prepared.take();
        let before = prepared.as_ref().unwrap_or(&self.desired);
        let unix_s = unix_now_s();
        let standing = Standing { zones: &zones, unix_s, before: Some(before) };
        let desired = compile(&self.part, interfaces, &standing);
        if let Some(sizes) = self.larger(&desired) {
            return self.replace(self.part.clone(), sizes, Some(desired));
        }
        self.desired = desired;
        let mut gone = Gone::default();
        let installed = install(self.datapath.maps(), &self.desired, &mut self.in_force, &mut gone);
        // What first packets have found out so far is of the tables of before; also if the kernel refused
        // one of them halfway. No flow comes of it after the purge.
        let renewed = match &installed {
            Ok(false) => Ok(()),
            _ => self.datapath.maps().next_generation(),
        };
        if !gone.is_empty() {
            let purged = self.end_where(|record| gone.concerns(record));
            tracing::info!(purged, "flows of vanished addresses or zones removed");
        }
        renewed?;
        let guarded = self.guard();
        // In part, if it failed.
        let mut changed = *installed.as_ref().unwrap_or(&true) | *guarded.as_ref().unwrap_or(&true);
        self.unwritten = installed.err().or(guarded.err());
        let before = self.datapath.attachments();
        let failures = self.datapath.attach(&self.desired.devices);
        self.incomplete = !failures.is_empty();
        self.waiting = self.datapath.is_waiting();
        for error in &failures {
            tracing::warn!(%error, "not attached");
        }
        let schedules = &self.part.firewall.schedules;
        self.steady = Steady::from(schedules, unix_s);
        self.report();
        self.configure_telemetry()?;
        changed |= before != self.datapath.attachments();
        if changed {
            self.routes_changed()?;
        }
        Ok(changed)
    }

    /// Brings the guard to what the configuration wants. Flows of an address that is blocked now end.
    fn guard(&mut self) -> Result<bool> {
        let ids = self.zone_names()?.into_iter();
        let ids = ids.filter_map(|(id, name)| Some((name.parse().ok()?, id))).collect();
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        self.guard = guard::compile(&self.part, interfaces, &ids);
        let attacked = !self.pressure.is_none();
        let (changed, prefixes) =
            self.guarded.install(self.datapath.maps(), &self.guard, attacked)?;
        if prefixes && !self.guard.sources.blocked.is_empty() {
            let trie = self.guard.prefixes();
            let blocked = |end: IpAddr| trie.flags_of(end) & BLOCKED != 0;
            let ended = self.end_where(|record| ends(record).any(blocked));
            if ended != 0 {
                tracing::info!(ended, "flows of blocked addresses removed");
            }
        }
        Ok(changed)
    }

    /// Numbers that an earlier run of the service gave to rules: flows of that time have them.
    fn numbers_in_force(&mut self) -> Result<BTreeMap<Label, u16>> {
        let maps = self.datapath.maps();
        let numbers = maps.policy().numbers(maps.config()?.bank);
        let rules = self.part.firewall.rules.iter();
        Ok(rules
            .filter_map(|rule| {
                let number = numbers.get(&name_hash(rule.name.as_str()))?;
                Some((rule.name.clone(), *number))
            })
            .collect())
    }

    /// Logs problems that are new.
    fn report(&mut self) {
        let mut problems = self.desired.problems.clone();
        let refused = self.datapath.failure();
        problems.extend(refused.map(|error| format!("what needs it is dropped: {error}")));
        let unwritten = self.unwritten.as_ref();
        problems.extend(unwritten.map(|error| format!("not in force: {}", with_causes(error))));
        for (index, choice) in self.datapath.choices().iter().filter(|(_, choice)| choice.refused) {
            let device = self.desired.devices.get(index).map_or("", |device| device.name.as_str());
            problems
                .push(format!("{device}: not xdp as firewall.hooks says, but {}", choice.reason));
        }
        for problem in problems.iter().filter(|text| !self.problems.contains(text)) {
            tracing::warn!(problem, "policy");
        }
        self.problems = problems;
    }

    /// Has all cached next hops looked up again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes_changed(&mut self) -> Result<()> {
        self.datapath.confirm_transmission(&self.desired.devices)?;
        self.datapath.maps().next_generation()
    }

    /// Makes the next slice of a pass over the flow table. After the last one: whether the next pass
    /// is urgent. Then it is also time to look at the schedules.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sweep(&mut self) -> Result<Option<bool>> {
        let terms = Terms {
            now: now_ticks(),
            timeouts: &self.part.firewall.timeouts,
            pressure: self.pressure,
        };
        let flows = self.datapath.maps().flows();
        let telemetry = &mut self.telemetry;
        let swept = self.sweeper.step(flows, &terms, &mut |ended| telemetry.flow_ended(ended))?;
        self.telemetry.survey(flows);
        let Some(swept) = swept else {
            return Ok(None);
        };
        self.swept = swept;
        let refused = self.datapath.maps().counter(Counter::DropFull)?.packets;
        let capacity = u64::from(self.datapath.max_flows());
        self.pressure = Pressure::of(swept.kept, capacity, refused != self.refused);
        self.refused = refused;
        if self.interfaces.is_some() && self.unwritten.is_none() {
            let attacked = !self.pressure.is_none();
            self.guarded.install(self.datapath.maps(), &self.guard, attacked)?;
        }
        let limited =
            self.part.firewall.rules.iter().any(|rule| rule.connections_per_source.is_some());
        if limited {
            connections::recount(self.datapath.maps())?;
        }
        install::clear_idle(self.datapath.maps(), &mut self.in_force)?;
        if !self.steady.holds(unix_now_s()) {
            self.reconcile()?;
        }
        Ok(Some(!self.pressure.is_none()))
    }

    fn end_where(&mut self, concerned: impl FnMut(&FlowRecord) -> bool) -> u64 {
        let flows = self.datapath.maps().flows();
        let telemetry = &mut self.telemetry;
        self.sweeper.end_where(flows, concerned, &mut |ended| telemetry.flow_ended(ended))
    }

    /// Ends the flows with an end in an address or prefix; returns how many.
    ///
    /// # Errors
    /// If it is neither.
    pub fn purge(&mut self, addresses: &str) -> std::result::Result<u64, String> {
        let net = listing::net(addresses).ok_or_else(|| {
            format!("{addresses} is not an address or prefix like 192.168.1.0/24")
        })?;
        Ok(self.end_where(|record| touches(record, &net)))
    }

    /// Ends the flows that the policy would not let in now; returns how many.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reevaluate(&mut self) -> Result<u64> {
        let zones = self.zone_names()?;
        let zone_name = |id| zones.get(&id).cloned();
        let judge = Judge::new(&self.desired.resolved, &self.part.firewall, &zone_name);
        let flows = self.datapath.maps().flows();
        let denied = |record: &FlowRecord| !judge.allows(record);
        let telemetry = &mut self.telemetry;
        let mut on_end = |ended: &Ended<'_>| telemetry.flow_ended(ended);
        Ok(self.sweeper.end_where(flows, denied, &mut on_end))
    }

    /// Flows that fit a query.
    ///
    /// # Errors
    /// What of the query cannot be looked for, or what the kernel says.
    pub fn find_flows(&mut self, query: &FlowQuery) -> std::result::Result<FlowPage, String> {
        let capacity = u64::from(self.datapath.max_flows());
        let zones = self.datapath.maps().zones().map_err(|error| error.to_string())?;
        let filter = Filter::of(query, &zones)?;
        let (total, flows) = listing::newest(
            self.datapath.maps().flows(),
            &zones,
            &self.part.firewall.timeouts,
            &filter,
            query.limit as usize,
            now_ticks(),
        );
        Ok(FlowPage { total, capacity, flows })
    }

    /// Whether the datapath is in force as far as it is loaded.
    pub fn is_in_force(&self) -> bool {
        self.interfaces.is_some() && self.datapath.is_in_force()
    }

    /// What is still to come of the datapath, for people.
    pub fn pending(&self) -> Option<String> {
        let progress = self.datapath.progress();
        match self.datapath.failure() {
            Some(error) => Some(error.to_string()),
            None if self.datapath.has(Milestone::Complete) => None,
            None => Some(format!(
                "{} of {} programs of the datapath are loaded",
                progress.loaded, progress.wanted
            )),
        }
    }

    /// Whether all programs are loaded.
    pub fn is_complete(&self) -> bool {
        self.datapath.has(Milestone::Complete)
    }

    /// What the kernel refused of the programs.
    pub fn refused(&self) -> Option<DatapathError> {
        self.datapath.failure()
    }

    /// The datapath as a whole.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn status(&mut self) -> Result<DatapathStatus> {
        let config = self.datapath.maps().config()?;
        let flows = self.datapath.maps().flows().count();
        let mappings = self.swept.mappings;
        let progress = self.datapath.progress();
        Ok(DatapathStatus {
            kind: "ebpf".to_owned(),
            flows,
            flow_capacity: config.flows.into(),
            mappings,
            mapping_capacity: config.mappings.into(),
            index_entries: 2 * (flows + mappings),
            index_capacity: u64::from(config.buckets) * portcullis_flow_table::SLOTS as u64,
            route_generation: config.generation.into(),
            bank: config.bank,
            rules: self.part.firewall.rules.len() as u64,
            programs: progress.loaded as u64,
            programs_wanted: progress.wanted as u64,
            problems: self.problems.clone(),
        })
    }

    /// All counters.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&mut self) -> Result<Vec<CounterRecord>> {
        let counts = self.datapath.maps().counters()?;
        let record =
            |(counter, count): (&Counter, portcullis_datapath_abi::counter::Count)| CounterRecord {
                name: counter.name().to_owned(),
                description: counter.description().to_owned(),
                packets: count.packets,
                bytes: count.bytes,
            };
        Ok(Counter::ALL.iter().zip(counts).map(record).collect())
    }

    /// What is attached where, and why.
    pub fn attachments(&self) -> Vec<Attachment> {
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        let attachment = |(index, hook, program_id): (u32, Hook, u32)| {
            let known = interfaces.iter().find(|status| status.index == index);
            let wish = self.desired.devices.get(&index).map(|device| device.wish);
            let choice = self.datapath.choices().get(&index);
            Attachment {
                interface: known.map(|status| status.name.clone()).unwrap_or_default(),
                device: known
                    .map_or_else(|| format!("index {index}"), |status| status.device.clone()),
                hook: hook.name().to_owned(),
                program_id,
                wanted: match wish.unwrap_or_default() {
                    Wish::Auto => "auto",
                    Wish::Xdp => "xdp",
                    Wish::Tcx => "tcx",
                }
                .to_owned(),
                reason: choice.map(|choice| choice.reason.clone()).unwrap_or_default(),
            }
        };
        self.datapath.attachments().into_iter().map(attachment).collect()
    }
}
