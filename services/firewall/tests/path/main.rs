//! What happens to packets on the way: fragments in any order, links of different sizes, and what the
//! router tells their senders. Namespaces, veth pairs, real sockets and tools. Needs root, ping,
//! traceroute and iperf3.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod errors;
mod fragments;
mod raw;
mod sizes;
