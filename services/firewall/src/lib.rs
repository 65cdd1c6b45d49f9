//! The firewall service: loads the datapath (`ebpf/`), compiles zones and policies into its maps,
//! follows the interfaces, ages flows.
//!
//! ```text
//! config ---part---> compile -> install -> maps <- packets (ebpf/datapath)
//! network --interfaces-^                    ^-- sweep + ageing: forget old flows
//!                                           ^-- routes: cached next hops are stale
//! ```
//!
//! `compile` and `ageing` are pure; `datapath` is the kernel's side; `service` puts them together;
//! `shell` is bus and timers.

pub mod ageing;
pub mod compile;
pub mod datapath;
pub mod install;
pub mod routes;
pub mod service;
mod shell;
pub mod sweep;

pub use shell::main;
