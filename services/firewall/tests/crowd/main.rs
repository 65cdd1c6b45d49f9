//! Many at once: connections that are all open together, and floods beside a download. Namespaces,
//! real sockets. Needs root and iproute2.
#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

mod connections;
mod flood;
mod generator;
