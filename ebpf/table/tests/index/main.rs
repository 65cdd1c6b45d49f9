//! The index against a model, at its load, and from several threads at once.

mod load;
mod memory;
mod model;
mod threads;
