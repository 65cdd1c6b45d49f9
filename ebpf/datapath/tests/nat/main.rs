//! Translation: what first packets are turned into, and that nothing of it ever collides.
#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what is not there fails the test, as it should"
)]

#[path = "../core/frames.rs"]
#[allow(dead_code, reason = "shared with other tests, which need all of it")]
mod frames;

mod lifetimes;
mod mappings;
mod paths;
mod site;
mod stories;
