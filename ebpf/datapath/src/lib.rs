//! The packet core: what happens to a packet, as pure functions over a view of it ([`Frame`]) and
//! of the tables ([`Tables`]). Compiled for the kernel's virtual machine by `main.rs`, and for the
//! host, where it is tested and fuzzed without a kernel.
//!
//! The way of a packet:
//! 1. `ingress`: a packet of a known flow has its answer here.
//! 2. Everything rarer is a [`Stage`] of its own: more about known flows ([`flow4`], [`flow6`]), ICMP
//!    errors (`icmp_error`), fragments ([`fragment4`], [`fragment6`]), first packets ([`open4`], [`open6`]), which
//!    ask the policy, translate, make the flow and let the packet start over.
//! 3. The [`Verdict`] says where it goes. Nothing has been changed so far.
//! 4. [`rewrite`] changes the packet. No lookup follows it.
//!
//! The router's own packets pass `egress` and [`depart`] when they leave.

#![cfg_attr(not(feature = "simulation"), no_std)]

pub mod answer;
mod checksum;
pub mod classify;
pub mod cut;
mod egress;
pub mod flow;
mod fragment_stage;
pub mod fragments;
mod frame;
#[cfg(feature = "simulation")]
pub mod fuzz;
pub mod guard;
pub mod hold;
mod icmp_error;
mod ingress;
mod known;
pub mod limits;
pub mod nat;
mod open;
mod packet;
mod packet6;
mod refresh;
pub mod rewrite;
#[cfg(feature = "simulation")]
pub mod simulation;
mod tables;
pub mod tcp;
pub mod telemetry;
mod verdict;

pub use checksum::{add, apply, apply_udp, delta};
pub use egress::{Departure, depart, egress};
pub use flow::{FlowRef, FlowTables, NextHop};
pub use fragment_stage::{fragment4, fragment6};
pub use frame::{Frame, FrameMut, Head, HeadMut, IPV4, IPV6, L3, L4, L4_V6};
pub use icmp_error::{LONGEST, NO_SUM, Summed, icmp_error};
pub use ingress::{Arrival, Cast, Hook, ingress};
pub use known::{flow4, flow6};
pub use open::{Candidate, CandidateTables, PATHS, Path, create4, create6, open4, open6, rule};
pub use packet::{Fragment, Kind, Packet};
pub use packet6::Packet6;
pub use refresh::{refresh4, refresh6};
pub use tables::{Route, RouteQuery, Tables, mapped};
pub use verdict::{Answer, AnswerKind, Drop, Edit, Hop, Stage, Verdict};
