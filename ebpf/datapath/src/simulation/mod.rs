//! The core's surroundings in ordinary memory: tables as maps, a routing table of a few routes, a
//! clock that the test sets, frames as byte vectors. One file for each concern.

pub mod answer;
pub mod flows;
pub mod fragments;
pub mod frame;
pub mod guard;
pub mod nat;
pub mod policy;
pub mod telemetry;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use portcullis_datapath_abi::{
    Config, Interface, Zone,
    policy::{FRAGMENT_TICKS, fragment_flags},
};

use crate::{
    Arrival, Candidate, CandidateTables, Departure, Hook, PATHS, Path, Route, RouteQuery, Stage,
    Tables, Verdict, hold::Held,
};

pub use frame::Bytes;

/// Flows that there is room for if a test says nothing else.
const FLOWS: u32 = 4096;

/// Stages that a packet goes through at most: as many as the kernel lets programs call each other.
const STAGES: usize = 33;

/// Tables of a router.
pub struct Simulation {
    /// Settings.
    pub config: Config,
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Zones by id.
    pub zones: BTreeMap<u8, Zone>,
    /// The router's IPv4 addresses.
    pub addresses: BTreeSet<u32>,
    /// Broadcast addresses of its subnets.
    pub broadcasts: BTreeSet<u32>,
    /// The router's IPv6 addresses.
    pub addresses6: BTreeSet<[u32; 4]>,
    /// What routes are answered with, by the first three words of the destination and three bytes of
    /// the last one: a /24 of IPv4, a /120 of IPv6.
    pub routes: BTreeMap<([u32; 3], [u8; 3]), Route>,
    /// What all others of IPv4 are answered with.
    pub default_route: Option<Route>,
    /// What all others of IPv6 are answered with.
    pub default_route6: Option<Route>,
    /// MTUs of interfaces that are not 1500.
    pub mtus: BTreeMap<u32, u16>,
    /// The time in ticks.
    pub now: Cell<u32>,
    /// State of the random numbers.
    pub seed: Cell<u32>,
    /// Flow table.
    pub flows: flows::FlowMaps,
    /// Flow that may come to be.
    pub candidate: Candidate,
    /// Ways that were found before.
    pub paths: Vec<Path>,
    /// Translation.
    pub nat: nat::NatMaps,
    /// Policy.
    pub policy: policy::PolicyState,
    /// Fragments.
    pub fragments: fragments::FragmentMaps,
    /// Answers.
    pub answers: answer::AnswerMaps,
    /// Protection.
    pub guard: guard::GuardState,
    /// What was told.
    pub telemetry: telemetry::TelemetryState,
}

impl Default for Simulation {
    fn default() -> Self {
        Self::with_flows(FLOWS)
    }
}

impl Simulation {
    /// With room for so many flows.
    pub fn with_flows(flows: u32) -> Self {
        let table = flows::FlowMaps::new(flows);
        Self {
            config: Config {
                // Independent of each other, as random ones are: the hash adds two products.
                seed: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
                generation: 1,
                bank: 0,
                buckets: table.buckets(),
                flows,
                mappings: flows,
                flags: fragment_flags(FRAGMENT_TICKS),
            },
            interfaces: BTreeMap::new(),
            zones: BTreeMap::new(),
            addresses: BTreeSet::new(),
            broadcasts: BTreeSet::new(),
            addresses6: BTreeSet::new(),
            routes: BTreeMap::new(),
            default_route: None,
            default_route6: None,
            mtus: BTreeMap::new(),
            now: Cell::new(1000),
            seed: Cell::new(1),
            flows: table,
            candidate: Candidate::default(),
            paths: (0..PATHS).map(|_| Path::default()).collect(),
            nat: Default::default(),
            policy: Default::default(),
            fragments: Default::default(),
            answers: Default::default(),
            guard: Default::default(),
            telemetry: Default::default(),
        }
    }

    /// Decides about an arriving frame, through all stages.
    ///
    /// # Panics
    /// If the stages call each other without end.
    pub fn arrive(&self, frame: &Bytes, arrival: &Arrival) -> Verdict<'_> {
        let mut verdict = crate::ingress(self, frame, arrival);
        let mut arrival = *arrival;
        for _ in 0..STAGES {
            arrival.ends = None;
            let mut held = Held::default();
            if let Verdict::Located(stage, ends) = verdict {
                arrival.ends = Some(ends);
                verdict = Verdict::Next(stage);
            }
            let arrival = &arrival;
            verdict = match verdict {
                Verdict::Next(Stage::Entry) => crate::ingress(self, frame, arrival),
                Verdict::Next(Stage::Flow4) => crate::flow4(self, frame, arrival),
                Verdict::Next(Stage::Flow6) => crate::flow6(self, frame, arrival),
                Verdict::Next(Stage::Refresh4) => crate::refresh4(self, frame, arrival),
                Verdict::Next(Stage::Refresh6) => crate::refresh6(self, frame, arrival),
                Verdict::Next(Stage::Open4) => crate::open4(self, frame, arrival),
                Verdict::Next(Stage::Open6) => crate::open6(self, frame, arrival),
                Verdict::Next(Stage::Rule) => crate::rule(self, arrival.hook),
                Verdict::Next(Stage::Create4) => crate::create4(self, arrival.hook),
                Verdict::Next(Stage::Create6) => crate::create6(self),
                Verdict::Next(Stage::IcmpError) => crate::icmp_error(self, frame, arrival),
                Verdict::Next(Stage::Fragment4) => {
                    crate::fragment4(self, frame, arrival, &mut held)
                }
                Verdict::Next(Stage::Fragment6) => {
                    crate::fragment6(self, frame, arrival, &mut held)
                }
                last => return last,
            };
            self.fragments.requeue(held);
        }
        unreachable!("stages without end: {verdict:?}")
    }

    /// Decides about a leaving frame, through all stages.
    ///
    /// # Panics
    /// If the stages call each other without end.
    pub fn leave(&self, frame: &Bytes, departure: &Departure) -> Verdict<'_> {
        let mut verdict = crate::egress(self, frame, departure);
        for _ in 0..STAGES {
            verdict = match verdict {
                Verdict::Next(Stage::Entry) => crate::egress(self, frame, departure),
                Verdict::Next(Stage::Depart) => crate::depart(self, frame, departure),
                Verdict::Next(Stage::Create4) => crate::create4(self, Hook::Tcx),
                Verdict::Next(Stage::Create6) => crate::create6(self),
                last => return last,
            };
        }
        unreachable!("stages without end: {verdict:?}")
    }

    /// Xorshift (Marsaglia 2003).
    fn random_number(&self) -> u32 {
        let mut x = self.seed.get().max(1);
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.seed.set(x);
        x
    }
}

impl CandidateTables for Simulation {
    fn candidate(&self) -> Option<&Candidate> {
        Some(&self.candidate)
    }

    fn path(&self, slot: u32) -> Option<&Path> {
        self.paths.get(slot as usize)
    }
}

impl Tables for Simulation {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(&index)
    }

    fn zone(&self, id: u8) -> Option<&Zone> {
        self.zones.get(&id)
    }

    fn is_local(&self, address: u32) -> bool {
        self.addresses.contains(&address) || self.is_broadcast(address)
    }

    fn is_broadcast(&self, address: u32) -> bool {
        self.broadcasts.contains(&address)
    }

    fn is_local6(&self, address: &[u32; 4]) -> bool {
        self.addresses6.contains(address)
    }

    fn route(&self, query: &RouteQuery) -> Option<Route> {
        let [a, b, c, d] = query.destination;
        let [e, f, g, _] = d.to_ne_bytes();
        let default = if query.ipv6 { self.default_route6 } else { self.default_route };
        self.routes.get(&([a, b, c], [e, f, g])).copied().or(default)
    }

    fn device_mtu(&self, interface: u32) -> u16 {
        self.mtus.get(&interface).copied().unwrap_or(1500)
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        self.random_number()
    }
}
