//! The other datapath: the kernel's nftables and connection tracking, with the same policy
//! (`firewall.datapath = "nftables"`). The ruleset is made by `portcullis-nftables`; this keeps it
//! in force.

mod accounts;
mod flows;
mod place;

use std::collections::BTreeSet;

use ipnet::IpNet;
use portcullis_bus::{
    firewall::{
        Attachment, Counter as CounterRecord, DatapathStatus, DropCount, Explanation, FlowPage,
        FlowQuery, RuleFinding,
    },
    network::InterfaceStatus,
};
use portcullis_model::part::FirewallPart;
use portcullis_nftables::{
    compile::{Compiled, Site, TABLE, compile},
    conntrack::{Flow, settings},
    kernel::{KernelError, Netfilter, write_setting},
    text,
};
use portcullis_policy::{Surroundings, resolve, schedule::Steady};
use portcullis_runtime::unix_now_s;

use crate::{
    explain::{findings, in_bus_terms},
    listing::net,
    reevaluate::Judge,
};

/// nftables with our ruleset.
pub struct Nftables {
    netfilter: Netfilter,
    part: FirewallPart,
    /// What the network service last reported; `None` before it did, and then the ruleset of an
    /// earlier run stays.
    interfaces: Option<Vec<InterfaceStatus>>,
    /// What is in force; `None` if it is not known what is.
    compiled: Option<Compiled>,
    /// How long the schedules say the same.
    steady: Steady,
}

impl Nftables {
    /// Opens the kernel's netfilter for a part; nothing is changed yet. The kernel's modules must
    /// be there.
    ///
    /// # Errors
    /// The kernel has no nfnetlink.
    pub fn open(part: FirewallPart) -> Result<Self, KernelError> {
        let netfilter = Netfilter::open()?;
        Ok(Self { netfilter, part, interfaces: None, compiled: None, steady: Steady::default() })
    }

    /// Lets nothing in and nothing through, if there is no ruleset of an earlier run: until the
    /// interfaces are known, and if they never are.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close(&self) -> Result<(), KernelError> {
        if self.netfilter.counters(TABLE)?.is_empty() {
            let nowhere = Site::default();
            self.netfilter.replace(compile(&self.part.firewall, &nowhere).table)?;
        }
        Ok(())
    }

    /// Removes the ruleset, if there is one; for when another datapath is in force.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove() -> Result<(), KernelError> {
        Netfilter::open()?.delete(TABLE)
    }

    /// Takes a new part. Returns whether anything changed.
    ///
    /// # Errors
    /// What the kernel says; the ruleset stays as it was then.
    pub fn apply(&mut self, part: FirewallPart) -> Result<bool, KernelError> {
        let before = std::mem::replace(&mut self.part, part);
        self.reconcile().inspect_err(|_| self.part = before)
    }

    /// Takes a new report of the network service. Returns whether anything changed.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn set_interfaces(
        &mut self,
        interfaces: Vec<InterfaceStatus>,
    ) -> Result<bool, KernelError> {
        let before = self.interfaces.replace(interfaces);
        let outcome = self.reconcile().and_then(|changed| {
            self.forget_vanished(before.as_deref().unwrap_or_default())?;
            Ok(changed)
        });
        if outcome.is_err() {
            // The next report is to be compared with this one again: flows of what has vanished are
            // still there.
            self.interfaces = before;
        }
        outcome
    }

    /// Compiles again if a schedule has begun or ended. Returns whether anything changed.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn follow_schedules(&mut self) -> Result<bool, KernelError> {
        if self.steady.holds(unix_now_s()) { Ok(false) } else { self.reconcile() }
    }

    fn reconcile(&mut self) -> Result<bool, KernelError> {
        let Some(interfaces) = &self.interfaces else {
            return Ok(false);
        };
        let firewall = &self.part.firewall;
        let now = unix_now_s();
        let site = place::site(&self.part, interfaces, now);
        let compiled = compile(firewall, &site);
        for setting in settings(firewall) {
            write_setting(&setting)?;
        }
        self.steady = Steady::from(&firewall.schedules, now);
        if self.compiled.as_ref() == Some(&compiled) {
            return Ok(false);
        }
        self.netfilter.replace(compiled.table.clone())?;
        let known = self.compiled.as_ref().map(|before| before.problems.as_slice());
        for problem in &compiled.problems {
            if known.is_none_or(|known| !known.contains(problem)) {
                tracing::warn!(problem, "policy");
            }
        }
        self.compiled = Some(compiled);
        Ok(true)
    }

    /// Ends the flows that are bound to addresses of the router, or networks, that are gone.
    fn forget_vanished(&self, before: &[InterfaceStatus]) -> Result<(), KernelError> {
        let now = place::addresses(self.interfaces.as_deref().unwrap_or_default());
        let gone: BTreeSet<IpNet> = place::addresses(before)
            .difference(&now)
            // Of IPv4 the address itself; IPv6 is not translated, but the hosts lose the network.
            .map(|net| match net {
                IpNet::V4(net) => IpNet::from(std::net::IpAddr::V4(net.addr())),
                IpNet::V6(net) => IpNet::V6(net.trunc()),
            })
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let ended = self.netfilter.forget(|flow| gone.iter().any(|net| touches(flow, net)))?;
        tracing::info!(ended, "flows of vanished addresses removed");
        Ok(())
    }

    /// Ends the flows with an end in an address or prefix; returns how many.
    ///
    /// # Errors
    /// If it is neither, or what the kernel says.
    pub fn purge(&self, addresses: &str) -> Result<u64, String> {
        let net = net(addresses).ok_or_else(|| {
            format!("{addresses} is not an address or prefix like 192.168.1.0/24")
        })?;
        self.netfilter.forget(|flow| touches(flow, &net)).map_err(|error| error.to_string())
    }

    /// Flows that fit a query, most recently active first.
    ///
    /// # Errors
    /// What of the query cannot be looked for, or what the kernel says.
    pub fn find_flows(&self, query: &FlowQuery) -> Result<FlowPage, String> {
        let capacity = self.part.firewall.max_flows.into();
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        let mut newest = flows::Newest::of(query, interfaces, &self.part.firewall)?;
        self.netfilter.each_flow(|flow| newest.add(flow)).map_err(|error| error.to_string())?;
        let (total, flows) = newest.finish();
        Ok(FlowPage { total, capacity, flows })
    }

    /// What would become of a packet.
    ///
    /// # Errors
    /// If it is none, or says too little.
    pub fn explain(&self, packet: &str) -> Result<Explanation, String> {
        let surroundings = self.surroundings();
        let told = portcullis_policy::explain(packet, &self.part, &surroundings);
        told.map(in_bus_terms).map_err(|error| error.to_string())
    }

    /// Rules that can never decide. None is merged here.
    pub fn findings(&self) -> Vec<RuleFinding> {
        let mut found = findings(&resolve(&self.part, &self.surroundings()));
        found.retain(|finding| finding.kind != "merged");
        found
    }

    fn surroundings(&self) -> Surroundings {
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        place::surroundings(&self.part, interfaces, unix_now_s())
    }

    /// Ends the flows that the policy would not let in now; returns how many. Hardware addresses
    /// are not known of flows, so rules that name them fit none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reevaluate(&self) -> Result<u64, KernelError> {
        let surroundings = self.surroundings();
        let resolved = resolve(&self.part, &surroundings);
        let ids = &surroundings.zones;
        let zone_name =
            |id| ids.iter().find(|(_, known)| **known == id).map(|(name, _)| name.to_string());
        let judge = Judge::new(&resolved, &self.part.firewall, &zone_name);
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        self.netfilter.forget(|flow| match flows::first_packet(flow, interfaces, ids) {
            Some((packet, outside)) => !judge.allows_packet(&packet, outside.as_ref()),
            // The router's own, or of a zone that is gone.
            None => false,
        })
    }

    /// The policy as text for `nft -f`.
    pub fn text(&self) -> String {
        show(&self.part, self.interfaces.as_deref().unwrap_or_default())
    }

    /// The datapath as a whole.
    pub fn status(&self) -> DatapathStatus {
        let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        DatapathStatus {
            kind: "nftables".to_owned(),
            flows: count.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
            flow_capacity: self.part.firewall.max_flows.into(),
            rules: self.part.firewall.rules.len() as u64,
            problems: self.compiled.as_ref().map(|one| one.problems.clone()).unwrap_or_default(),
            ..DatapathStatus::default()
        }
    }

    /// All counters, with the names that they have in the eBPF datapath.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self) -> Result<Vec<CounterRecord>, KernelError> {
        Ok(accounts::counters(&self.netfilter.counters(TABLE)?))
    }

    /// Drops by reason and zones.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn drops(&self) -> Result<Vec<DropCount>, KernelError> {
        Ok(accounts::drops(&self.netfilter.counters(TABLE)?))
    }

    /// The devices that the ruleset knows.
    pub fn attachments(&self) -> Vec<Attachment> {
        let interfaces = self.interfaces.iter().flatten().filter(|status| status.index != 0);
        interfaces
            .map(|status| Attachment {
                interface: status.name.clone(),
                device: status.device.clone(),
                hook: "nftables".to_owned(),
                program_id: 0,
                wanted: "nftables".to_owned(),
                reason: "firewall.datapath is nftables".to_owned(),
            })
            .collect()
    }
}

/// The policy as text for `nft -f`, whichever datapath runs it.
pub fn show(part: &FirewallPart, interfaces: &[InterfaceStatus]) -> String {
    let site = place::site(part, interfaces, unix_now_s());
    text::script(&compile(&part.firewall, &site).table)
}

/// Whether either end of a flow is in `net`, before or after translation.
fn touches(flow: &Flow, net: &IpNet) -> bool {
    [flow.source, flow.destination, flow.translated_source, flow.translated_destination]
        .iter()
        .any(|end| net.contains(&end.ip()))
}
