//! The index against a model, at its load, and from several threads at once.
#![allow(
    clippy::panic,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod load;
mod memory;
mod model;
mod threads;
