//! The packet core: what happens to a packet, as pure functions over a view of it ([`Frame`]) and
//! of the tables ([`Tables`]). Compiled for the kernel's virtual machine by `main.rs`, and for the
//! host, where it is tested and fuzzed without a kernel.
//!
//! The way of a packet:
//! 1. [`Packet::parse`]: headers, bounds, fragments.
//! 2. `ingress` or `egress`: flow lookup; on a miss `open` asks the policy and makes the flow;
//!    ICMP errors go through `icmp_error`.
//! 3. The [`Verdict`] says where it goes. Nothing has been changed so far.
//! 4. [`rewrite`] changes the packet. No lookup follows it.

#![cfg_attr(not(feature = "simulation"), no_std)]

mod checksum;
mod egress;
mod fragments;
#[cfg(feature = "simulation")]
pub mod fuzz;
mod icmp_error;
mod ingress;
mod ipv6;
mod open;
mod packet;
pub mod rewrite;
#[cfg(feature = "simulation")]
pub mod simulation;
mod tables;
mod verdict;

pub use checksum::{add, apply, delta};
pub use egress::{Departure, egress};
pub use ingress::{Arrival, Cast, ingress};
pub use packet::{Fragment, Frame, Kind, L3, L4, Packet};
pub use rewrite::FrameMut;
pub use tables::{FlowRef, InsertError, Route, RouteQuery, Tables};
pub use verdict::{Edit, Hop, Verdict};
