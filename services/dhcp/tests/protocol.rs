//! The protocol core: what RFC 2131 says, by its sections, and what must hold whatever comes in.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy.toml lifts these for #[test] functions only, not for what they call"
)]

#[path = "protocol/allocation.rs"]
mod allocation;
#[path = "protocol/configuration.rs"]
mod configuration;
#[path = "protocol/corpus.rs"]
mod corpus;
#[path = "protocol/lab.rs"]
mod lab;
#[path = "protocol/names.rs"]
mod names;
#[path = "protocol/options.rs"]
mod options;
#[path = "protocol/probes.rs"]
mod probes;
#[path = "protocol/properties.rs"]
mod properties;
#[path = "protocol/requests.rs"]
mod requests;
#[path = "protocol/script.rs"]
mod script;
#[path = "protocol/time.rs"]
mod time;
#[path = "protocol/witness.rs"]
mod witness;
