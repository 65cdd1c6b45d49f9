//! From the configuration to the table. Pure.
//!
//! ```text
//! arriving   guard         blocklist; bogons, floods     (these: first packets only)
//!            destination   port forwards, 1:1             (first packets only)
//! forward    segment-size  MSS
//!            forward       known connections | forward.FROM | forward.FROM.TO: rules, default
//! input      input         known connections | input.FROM: rules, services of the router
//! leaving    source        1:1, pools, masquerade         (first packets only)
//! ```
//! What no chain accepts is dropped. Rules for several pairs of zones stand once, in a chain
//! `rules.N` that the pairs jump to.

mod accounts;
mod bodies;
mod forward;
mod guard;
mod input;
mod matches;
mod nat;
mod pools;
mod rules;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use portcullis_model::{
    Name,
    firewall::{Firewall, SynCookies},
};

pub use accounts::{counter_name, reason_and_pair};

use self::sets::Pool;
use crate::ruleset::{Chain, Counter, Rule, Set, Statement, Table, Type, Value, Verdict};

/// Name of the table.
pub const TABLE: &str = "portcullis";

/// What the ruleset depends on beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Interfaces that are there now.
    pub interfaces: Vec<Interface>,
    /// Schedules that hold now.
    pub schedules: BTreeSet<Name>,
    /// Networks that are not on the internet (RFC 6890).
    pub bogons: Vec<IpNet>,
}

/// An interface as it is now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Name in the configuration.
    pub name: Name,
    /// Kernel device.
    pub device: String,
    /// Zone.
    pub zone: Name,
    /// The router's addresses on it, with the prefix length.
    pub addresses: Vec<IpNet>,
}

/// A compiled ruleset.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compiled {
    /// The table.
    pub table: Table,
    /// What of the configuration nftables cannot do, one sentence each.
    pub problems: Vec<String>,
}

/// Compiles.
pub fn compile(firewall: &Firewall, site: &Site) -> Compiled {
    let mut compiler = Compiler::new(firewall, site);
    compiler.say_what_is_missing();
    let groups = rules::groups(&mut compiler);
    compiler.guard();
    compiler.port_forwards_and_static();
    compiler.segment_sizes();
    compiler.input(&groups);
    compiler.forward(&groups);
    compiler.sources();
    compiler.finish()
}

/// The table while it is made.
struct Compiler<'a> {
    firewall: &'a Firewall,
    site: &'a Site,
    /// Zones that have a device now, with their devices.
    zones: BTreeMap<&'a Name, BTreeSet<&'a str>>,
    /// The configuration's sets, resolved.
    resolved: portcullis_model::firewall::Sets,
    counters: BTreeSet<String>,
    pool: Pool,
    chains: Vec<Chain>,
    problems: Vec<String>,
}

impl<'a> Compiler<'a> {
    fn new(firewall: &'a Firewall, site: &'a Site) -> Self {
        let mut zones: BTreeMap<&Name, BTreeSet<&str>> = BTreeMap::new();
        for interface in &site.interfaces {
            if firewall.zones.contains_key(&interface.zone) && !interface.device.is_empty() {
                zones.entry(&interface.zone).or_default().insert(&interface.device);
            }
        }
        Self {
            firewall,
            site,
            zones,
            resolved: portcullis_model::firewall::Sets::of(firewall),
            counters: BTreeSet::new(),
            pool: Pool::default(),
            chains: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// What of the configuration has no counterpart here; single rules say it themselves.
    fn say_what_is_missing(&mut self) {
        let firewall = self.firewall;
        for (missing, what) in [
            (
                firewall.protection.syn_cookies == SynCookies::Always,
                "protection.syn_cookies: no SYN for hosts inside is answered with a cookie",
            ),
            (!firewall.protection.malformed, "protection.malformed: what is malformed is dropped"),
            (!firewall.flow_export.collectors.is_empty(), "flow_export: no flow records are sent"),
            (!firewall.hooks.is_empty(), "hooks: there is no hook to choose"),
            (firewall.log.flows, "log.flows: start and end of flows are not logged"),
        ] {
            if missing {
                self.problems.push(format!("{what} while firewall.datapath is nftables"));
            }
        }
    }

    fn finish(self) -> Compiled {
        let counters =
            self.counters.into_iter().map(|name| Counter { name, packets: 0, bytes: 0 }).collect();
        let sets = self.pool.into_sets();
        let table = Table { name: TABLE.to_owned(), counters, sets, chains: self.chains };
        Compiled { table, problems: self.problems }
    }

    fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        self.chains.push(Chain { name: name.to_owned(), base: None, rules });
    }

    /// Counts for a reason, of a pair of zones if it is known.
    fn count(&mut self, reason: &str, pair: Option<(&str, &str)>) -> Statement {
        let name = counter_name(reason, pair);
        self.counters.insert(name.clone());
        Statement::Counter(name)
    }

    /// The set of a zone's devices; none if it has no device now.
    fn devices(&mut self, zone: &Name) -> Option<String> {
        let devices = self.zones.get(zone)?;
        let names = devices.iter().map(|device| Value::Name((*device).to_owned()));
        let set = Set::values(format!("zone.{zone}"), Type::InterfaceName, names);
        Some(self.pool.named(set))
    }

    /// The set of all devices of zones.
    fn all_devices(&mut self) -> String {
        let names = self.zones.values().flatten();
        let names: Vec<Value> = names.map(|device| Value::Name((*device).to_owned())).collect();
        self.pool.named(Set::values("zones.all".to_owned(), Type::InterfaceName, names))
    }

    /// All that a zone's devices are looked up in, each with `verdict(zone)`.
    fn by_device(&self, verdict: impl Fn(&Name) -> Verdict) -> Vec<(Value, Verdict)> {
        let mut entries = Vec::new();
        for (zone, devices) in &self.zones {
            for device in devices {
                entries.push((Value::Name((*device).to_owned()), verdict(zone)));
            }
        }
        entries
    }
}
