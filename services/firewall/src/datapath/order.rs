//! Which programs there are, and in which order they are loaded: the verifier takes up to half a
//! second for one of them in an emulated machine, and packets wait for the first few only. Pure.

use portcullis_datapath_abi::stage::{self, Family, TCX_CAPTURE, XDP_CAPTURE};

use super::Hook;

/// Programs that are loaded together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Group {
    /// Both hooks of tcx, which are always used.
    Tcx,
    /// XDP, if a device has it.
    Xdp,
}

/// How much packets can do with the programs that are loaded.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Milestone {
    /// Both hooks of tcx can be attached: known flows pass, and what the router's own services are
    /// asked and answer by IPv4.
    Filters,
    /// New flows of IPv4 are made, those of the router too.
    Routes,
    /// Nothing is missing.
    Complete,
}

impl Milestone {
    /// All of them, the first one first.
    pub(super) const ALL: [Self; 3] = [Self::Filters, Self::Routes, Self::Complete];

    /// The programs of tcx that it takes.
    pub fn programs(self) -> Vec<&'static str> {
        Group::Tcx.needed(self)
    }
}

/// For [`Milestone::Filters`], the longest first.
const FILTERS: [&str; 3] = ["tcx_egress", "tcx_open4", "tcx_ingress"];
/// Then for [`Milestone::Routes`]: first packets of the router, which asks for its address; of
/// hosts; and what comes after the first packet.
const ROUTES: [&str; 6] =
    ["tcx_depart", "egress_create4", "tcx_create4", "tcx_rule", "tcx_flow4", "tcx_refresh4"];
/// Then what most sites meet within seconds. All others after that, as in the tables.
const SOON: [&str; 7] = [
    "tcx_icmp_error",
    "tcx_open6",
    "tcx_flow6",
    "tcx_create6",
    "egress_create6",
    "tcx_refresh6",
    "tcx_answer",
];

/// The programs of a hook.
pub(super) const fn family(hook: Hook) -> &'static Family {
    match hook {
        Hook::Egress => &stage::EGRESS,
        Hook::Ingress => &stage::TCX,
        Hook::Xdp => &stage::XDP,
    }
}

/// Names of the tables of stages.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    Hook::ALL.into_iter().map(|hook| family(hook).table)
}

/// Where a program stands: tables and places in them. Programs of captures stand in none.
pub(super) fn places(name: &str) -> impl Iterator<Item = (&'static str, u32)> {
    Hook::ALL.into_iter().flat_map(move |hook| {
        let Family { table, programs } = family(hook);
        let here = programs.iter().filter(move |(_, known)| *known == name);
        here.map(|(number, _)| (*table, *number))
    })
}

/// Names of a hook's programs, the one that it begins with first.
pub(super) fn names(hook: Hook) -> impl Iterator<Item = &'static str> {
    family(hook).programs.iter().map(|(_, name)| *name)
}

/// Name of the program that a hook begins with.
pub(super) fn entry(hook: Hook) -> Option<&'static str> {
    let entry = family(hook).programs.iter().find(|(number, _)| *number == stage::ENTRY);
    entry.map(|(_, name)| *name)
}

impl Group {
    /// Its programs in the order of their importance, each once.
    pub(super) fn programs(self) -> Vec<&'static str> {
        let mut order: Vec<&'static str> = Vec::new();
        let mut add = |name| {
            if !order.contains(&name) {
                order.push(name);
            }
        };
        match self {
            Self::Tcx => {
                FILTERS.into_iter().chain(ROUTES).chain(SOON).for_each(&mut add);
                names(Hook::Egress).chain(names(Hook::Ingress)).for_each(&mut add);
                TCX_CAPTURE.into_iter().for_each(&mut add);
            }
            Self::Xdp => {
                names(Hook::Xdp).for_each(&mut add);
                add(XDP_CAPTURE);
            }
        }
        order
    }

    /// Which of its programs must be there for a milestone.
    pub(super) fn needed(self, milestone: Milestone) -> Vec<&'static str> {
        match (self, milestone) {
            (Self::Tcx, Milestone::Filters) => FILTERS.to_vec(),
            (Self::Tcx, Milestone::Routes) => FILTERS.into_iter().chain(ROUTES).collect(),
            // What XDP has not, it leaves to tcx.
            (Self::Xdp, Milestone::Filters | Milestone::Routes) => {
                entry(Hook::Xdp).into_iter().collect()
            }
            (_, Milestone::Complete) => self.programs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_program_of_the_tables_is_loaded_once() {
        let tcx = Group::Tcx.programs();
        let xdp = Group::Xdp.programs();
        let all: BTreeSet<_> = tcx.iter().chain(&xdp).collect();
        assert_eq!(all.len(), tcx.len() + xdp.len());
        for name in Hook::ALL.into_iter().flat_map(names) {
            assert!(all.contains(&name), "{name}");
            assert!(places(name).next().is_some(), "{name}");
        }
        for name in TCX_CAPTURE.into_iter().chain([XDP_CAPTURE]) {
            assert!(all.contains(&name) && places(name).next().is_none(), "{name}");
        }
    }

    #[test]
    fn what_comes_first_is_in_the_tables_and_begins_with_the_hooks() {
        let tables: BTreeSet<_> =
            [Hook::Egress, Hook::Ingress].into_iter().flat_map(names).collect();
        for name in FILTERS.into_iter().chain(ROUTES).chain(SOON) {
            assert!(tables.contains(name), "{name} is no program");
        }
        for hook in [Hook::Egress, Hook::Ingress] {
            assert!(entry(hook).is_some_and(|name| FILTERS.contains(&name)), "{hook:?}");
        }
        assert_eq!(Group::Xdp.needed(Milestone::Filters), ["xdp_ingress"]);
    }

    #[test]
    fn milestones_are_beginnings_of_the_order() {
        for group in [Group::Tcx, Group::Xdp] {
            for milestone in Milestone::ALL {
                let needed = group.needed(milestone);
                assert_eq!(needed, group.programs()[..needed.len()], "{group:?} {milestone:?}");
            }
        }
    }
}
