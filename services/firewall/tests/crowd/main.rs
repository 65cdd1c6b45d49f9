//! Many at once: connections that are all open together, and floods beside a download. Namespaces,
//! real sockets. Needs root and iproute2.
#![allow(clippy::print_stdout, reason = "figures that a failed test is read by")]
#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

mod connections;
mod flood;
mod generator;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: what a flood takes of the kernel's queues, which all namespaces share, others
/// would miss.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
