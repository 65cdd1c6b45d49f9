//! The firewall service: loads the datapath (`ebpf/`), compiles zones and policies into its maps,
//! follows the interfaces, ages flows.
//!
//! ```text
//! config ---part---> compile -> install -> maps <- packets (ebpf/datapath)
//! network --interfaces-^                    ^-- sweep + ageing: flows end, their numbers are free
//!                                           ^-- purge: flows of what is gone
//!                                           ^-- routes: cached next hops are stale
//!                                           ^-- telemetry: drops, log, IPFIX, captures
//! ```
//!
//! `compile` and `ageing` are pure; `datapath` is the kernel's side, with the flow table in mapped
//! memory; `listing` shows it; `service` puts them together. `nftables` is the other datapath, `engine`
//! the one of the two that is in force; `shell` is bus and timers.

pub mod ageing;
mod causes;
pub mod compile;
pub mod connections;
pub mod datapath;
pub mod engine;
mod explain;
pub mod guard;
pub mod install;
pub mod listing;
pub mod nftables;
pub mod purge;
pub mod reevaluate;
pub mod routes;
pub mod service;
mod shell;
pub mod sweep;
pub mod telemetry;

pub use shell::main;
