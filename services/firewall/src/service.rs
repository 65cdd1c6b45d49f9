//! The service's state: the datapath, and what it shall do. All decisions are in `compile`,
//! `install` and `ageing`; this puts them together.

use std::path::PathBuf;

use portcullis_bus::{
    firewall::{Attachment, Counter as CounterRecord, FlowPage},
    network::InterfaceStatus,
};
use portcullis_datapath_abi::{Config, Counter};
use portcullis_model::part::FirewallPart;

use crate::{
    ageing::Pressure,
    compile::{Desired, compile},
    datapath::{Datapath, Result, Walk},
    install::{install, purge},
    sweep::{self, Swept},
};

/// The firewall.
pub struct Firewall {
    pins: PathBuf,
    datapath: Datapath,
    part: FirewallPart,
    /// What the network service last reported; `None` before it did, and then nothing that is
    /// attached from an earlier run is touched.
    interfaces: Option<Vec<InterfaceStatus>>,
    problems: Vec<String>,
    pressure: Pressure,
    refused: u64,
}

impl Firewall {
    /// Loads the datapath for a part; nothing that runs already is changed.
    ///
    /// # Errors
    /// See [`Datapath::open`].
    pub fn open(pins: PathBuf, part: FirewallPart) -> Result<Self> {
        let datapath = Datapath::open(&pins, part.firewall.max_flows)?;
        Ok(Self {
            pins,
            datapath,
            part,
            interfaces: None,
            problems: Vec::new(),
            pressure: Pressure::NONE,
            refused: 0,
        })
    }

    /// Takes a new part. Returns whether anything changed.
    ///
    /// # Errors
    /// If the new flow table cannot be made; all stays as it was then.
    pub fn apply(&mut self, part: FirewallPart) -> Result<bool> {
        if part.firewall.max_flows != self.datapath.max_flows() {
            self.datapath = Datapath::open(&self.pins, part.firewall.max_flows)?;
        }
        self.part = part;
        self.reconcile()
    }

    /// Takes a new report of the network service. Returns whether anything changed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_interfaces(&mut self, interfaces: Vec<InterfaceStatus>) -> Result<bool> {
        self.interfaces = Some(interfaces);
        self.reconcile()
    }

    fn reconcile(&mut self) -> Result<bool> {
        let Some(interfaces) = &self.interfaces else {
            return Ok(false);
        };
        let zones = self.datapath.maps().zones()?;
        let desired = compile(&self.part, interfaces, &zones);
        self.report(&desired);
        let (mut changed, gone) = install(self.datapath.maps(), &desired)?;
        let purged = purge(self.datapath.maps(), &gone)?;
        if purged != 0 {
            tracing::info!(purged, "flows of vanished addresses or zones removed");
        }
        let before = self.datapath.attachments();
        for error in self.datapath.attach(&desired.devices) {
            // The network service reports again when its devices settle.
            tracing::warn!(%error, "not attached");
        }
        changed |= before != self.datapath.attachments();
        if changed {
            self.routes_changed()?;
        }
        Ok(changed)
    }

    fn report(&mut self, desired: &Desired) {
        for problem in desired.problems.iter().filter(|text| !self.problems.contains(text)) {
            tracing::warn!(problem, "policy");
        }
        self.problems.clone_from(&desired.problems);
    }

    /// Has all cached next hops looked up again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes_changed(&mut self) -> Result<()> {
        let maps = self.datapath.maps();
        // 0 means "never looked up".
        let generation = maps.config()?.generation.wrapping_add(1).max(1);
        maps.set_config(&Config { generation, reserved: 0 })
    }

    /// Ages the next part of the flow table; `None` at its end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sweep(&mut self, walk: &mut Walk) -> Result<Option<Swept>> {
        sweep::sweep(self.datapath.maps(), walk, &self.part.firewall.timeouts, self.pressure)
    }

    /// Draws the conclusions of a whole pass over the table. Returns whether the next one is urgent.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn swept(&mut self, total: Swept) -> Result<bool> {
        let refused = self.datapath.maps().counter(Counter::DropFull)?.packets;
        let capacity = u64::from(self.datapath.max_flows());
        self.pressure = Pressure::of(total.kept, capacity, refused != self.refused);
        self.refused = refused;
        Ok(!self.pressure.is_none())
    }

    /// At most `limit` flows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flows(&mut self, limit: usize) -> Result<FlowPage> {
        let capacity = u64::from(self.datapath.max_flows());
        let (total, flows) = sweep::newest(self.datapath.maps(), &self.part.firewall.timeouts, limit)?;
        Ok(FlowPage { total, capacity, flows })
    }

    /// All counters.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&mut self) -> Result<Vec<CounterRecord>> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let count = self.datapath.maps().counter(*counter)?;
                Ok(CounterRecord {
                    name: counter.name().to_owned(),
                    description: counter.description().to_owned(),
                    packets: count.packets,
                    bytes: count.bytes,
                })
            })
            .collect()
    }

    /// What is attached where.
    pub fn attachments(&self) -> Vec<Attachment> {
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        self.datapath
            .attachments()
            .into_iter()
            .map(|(index, hook, program_id)| {
                let known = interfaces.iter().find(|status| status.index == index);
                Attachment {
                    interface: known.map(|status| status.name.clone()).unwrap_or_default(),
                    device: known
                        .map_or_else(|| format!("index {index}"), |status| status.device.clone()),
                    hook: hook.name().to_owned(),
                    program_id,
                }
            })
            .collect()
    }
}
