//! TCP tracking: honest connections over a bad network are never disturbed, and what does not belong
//! to a connection never passes.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what is not there fails the test, as it should"
)]

mod clamp;
mod connections;
mod gate;
mod parallel;
mod stories;
