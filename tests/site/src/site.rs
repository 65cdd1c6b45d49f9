//! A topology with our programs on its router.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
};

use anyhow::{Result, ensure};
use portcullis_bus::firewall::FlowRecord;
use portcullis_datapath_abi::Counter;
use portcullis_firewall::{
    ageing::Pressure,
    compile::{Desired, Standing, compile},
    datapath::Datapath,
    install::{InForce, install},
    listing,
    purge::Gone,
    sweep::{Sweeper, Swept, Terms, now_ticks},
};
use portcullis_model::{Document, Timeouts, firewall::Hook, part::FirewallPart};

use crate::{Pins, Topology};

/// What a site is built with.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Configuration beside the defaults.
    pub document: &'a str,
    /// Hook for an interface, by its name.
    pub hooks: &'a [(&'a str, Hook)],
    /// Whether the LAN is a bridge, as in the appliance, with both hosts; else it is a veth device,
    /// which has XDP, and the other host has no cable.
    pub bridge: bool,
    /// Places in the flow table.
    pub max_flows: u32,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { document: "", hooks: &[], bridge: true, max_flows: 4096 }
    }
}

/// A topology with the datapath on its router.
pub struct Site {
    /// Who is there; what it has is also the site's.
    pub topology: Topology,
    /// What is loaded.
    pub datapath: Datapath,
    /// What is configured.
    pub part: FirewallPart,
    sweeper: Sweeper,
    desired: Desired,
    in_force: InForce,
    pins: Pins,
}

impl Deref for Site {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        &self.topology
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Topology {
        &mut self.topology
    }
}

impl Site {
    /// Everything connected, with this configuration beside the defaults.
    ///
    /// # Errors
    /// Not root, a program is missing, or a wrong document.
    pub fn new(document: &str) -> Result<Self> {
        Self::build(&Plan { document, ..Plan::default() })
    }

    /// Everything connected as planned.
    ///
    /// # Errors
    /// Not root, a program is missing, or a wrong document.
    pub fn build(plan: &Plan<'_>) -> Result<Self> {
        let topology = Topology::new(plan.bridge)?;
        if !plan.hooks.is_empty() {
            // veth hands frames between two stacks of one machine as they are: assembled, and with
            // checksums that nobody made, which XDP cannot translate. A network card does not. And
            // it takes frames from XDP only if its peer polls for them, which with GRO it does.
            for (namespace, device) in [(&topology.host, "eth0"), (&topology.provider, "access")] {
                namespace.run(&format!("ethtool -K {device} tx off gro on"))?;
            }
        }
        let mut part = FirewallPart::of(&Document::parse(plan.document)?);
        for (name, hook) in plan.hooks {
            part.firewall.hooks.insert((*name).to_owned().try_into()?, *hook);
        }
        let pins = Pins::new()?;
        let datapath =
            topology.router.enter(|| Ok(Datapath::open(pins.path(), plan.max_flows)?))?;
        let mut site = Self {
            topology,
            datapath,
            part,
            sweeper: Sweeper::default(),
            desired: Desired::default(),
            in_force: InForce::default(),
            pins,
        };
        site.reconcile()?;
        Ok(site)
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    /// A wrong document; what [`Self::reconcile`] says.
    pub fn configure(&mut self, document: &str) -> Result<()> {
        self.part = FirewallPart::of(&Document::parse(document)?);
        self.reconcile().map(drop)
    }

    /// What the service does when something changed. Returns how many flows were purged.
    ///
    /// # Errors
    /// Problems of the configuration, maps that cannot be written, programs that are not attached.
    pub fn reconcile(&mut self) -> Result<u64> {
        let interfaces = self.interfaces()?;
        let Self { topology, datapath, part, desired, in_force, sweeper, .. } = self;
        topology.router.enter(|| {
            let zones = datapath.maps().zones()?;
            let standing = Standing { zones: &zones, before: Some(desired), unix_s: 0 };
            let wanted = compile(part, &interfaces, &standing);
            *desired = wanted;
            ensure!(desired.problems.is_empty(), "{:?}", desired.problems);
            let mut gone = Gone::default();
            install(datapath.maps(), desired, in_force, &mut gone)?;
            let flows = datapath.maps().flows();
            let purged = sweeper.end_where(flows, |record| gone.concerns(record), &mut |_| {});
            datapath.maps().next_generation()?;
            let failures = datapath.attach(&desired.devices);
            ensure!(failures.is_empty(), "{failures:?}");
            Ok(purged)
        })
    }

    /// Loads the datapath again, as a service that was killed does when it starts.
    ///
    /// # Errors
    /// If it does not load.
    pub fn reopen(&mut self, max_flows: u32) -> Result<()> {
        let Self { topology, pins, .. } = self;
        self.datapath = topology.router.enter(|| Ok(Datapath::open(pins.path(), max_flows)?))?;
        self.in_force = InForce::default();
        self.sweeper = Sweeper::default();
        Ok(())
    }

    /// The same MTU at both ends of the link to the provider.
    ///
    /// # Errors
    /// What `ip` and [`Self::reconcile`] say.
    pub fn narrow_wan(&mut self, mtu: u32) -> Result<()> {
        self.router.run(&format!("ip link set eth0 mtu {mtu}"))?;
        self.provider.run(&format!("ip link set access mtu {mtu}"))?;
        self.reconcile().map(drop)
    }

    /// The same MTU at both ends of the link to the host.
    ///
    /// # Errors
    /// What `ip` and [`Self::reconcile`] say.
    pub fn narrow_lan(&mut self, mtu: u32) -> Result<()> {
        self.router.run(&format!("ip link set eth1 mtu {mtu}"))?;
        self.router.run(&format!("ip link set lan mtu {mtu}"))?;
        self.host.run(&format!("ip link set eth0 mtu {mtu}"))?;
        self.reconcile().map(drop)
    }

    /// Flows in all, and the most recently active of them.
    ///
    /// # Errors
    /// If the names of the zones cannot be read.
    pub fn flows(&mut self, limit: usize) -> Result<(u64, Vec<FlowRecord>)> {
        let maps = self.datapath.maps();
        let zones = maps.zones()?;
        let timeouts = self.part.firewall.timeouts;
        let filter = listing::Filter::default();
        Ok(listing::newest(maps.flows(), &zones, &timeouts, &filter, limit, now_ticks()))
    }

    /// A whole pass over the flow table.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn sweep(&mut self, timeouts: &Timeouts) -> Result<Swept> {
        let terms = Terms { now: now_ticks(), timeouts, pressure: Pressure::NONE };
        self.sweep_on(&terms)
    }

    /// A whole pass at a time and on terms of the caller's.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn sweep_on(&mut self, terms: &Terms<'_>) -> Result<Swept> {
        let flows = self.datapath.maps().flows();
        loop {
            if let Some(swept) = self.sweeper.step(flows, terms, &mut |_| {})? {
                return Ok(swept);
            }
        }
    }

    /// Packets counted so far.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn count(&mut self, counter: Counter) -> Result<u64> {
        Ok(self.datapath.maps().counter(counter)?.packets)
    }

    /// All counters that are not zero, for messages.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&mut self) -> Result<String> {
        let mut text = String::new();
        for counter in Counter::ALL {
            let packets = self.count(*counter)?;
            if packets != 0 {
                text.push_str(&format!("{} {packets}, ", counter.name()));
            }
        }
        Ok(text)
    }

    /// Where the datapath's maps and links are pinned.
    pub fn pins(&self) -> &Path {
        self.pins.path()
    }
}
