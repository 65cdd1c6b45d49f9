//! The rules of the firewall, as pure functions.
//!
//! ```text
//! document --resolve--> rules without names --examine--> findings: shadowed, unreachable, merged
//!                              |    \
//!                              |     --compile (merge)--> tables of the datapath
//!                              |
//!                              --evaluate--> what becomes of a packet <-- explain
//! ```
//!
//! [`resolve()`] fills in zones, sets, prefixes and schedules; [`compile()`] makes the tables that
//! `portcullis-datapath` classifies first packets with; [`evaluate()`] asks the rules one after the
//! other and is what these tables are tested against; [`examine()`] says which rules can never
//! decide, and why; [`explain()`] tells in words what would become of a packet; [`import()`] reads
//! rules and translations from YAML and JSON; [`schedule::next_boundary`] says when to compile again.

pub mod compile;
pub mod evaluate;
pub mod examine;
pub mod explain;
pub mod fuzz;
pub mod import;
pub mod intervals;
pub mod merge;
pub mod nat;
pub mod resolve;
pub mod schedule;
mod vector;

pub use compile::{CompileError, Compiled, compile};
pub use evaluate::{Decision, Packet, evaluate};
pub use examine::{Finding, FindingKind, Findings, examine};
pub use explain::{ExplainError, Explanation, Question, explain};
pub use import::{Format, ImportError, Mode, export, import};
pub use intervals::Intervals;
pub use nat::{Nat, NatInterface, compile_nat};
pub use resolve::{Resolved, ResolvedRule, Surroundings, resolve};
