//! Flow records for collectors: IPFIX (RFC 7011) over UDP, one biflow record (RFC 5103) for both
//! directions of a flow.
//!
//! ```text
//! sweep: flow lives / has ended -> exporter -> template + encoder -> datagrams -> collectors
//! ```
//!
//! All of it is pure; `super::collectors` sends.

mod encoder;
mod exporter;
mod report;
mod template;
#[cfg(test)]
mod tests;

pub use encoder::{Encoder, MAX_MESSAGE};
pub use exporter::{Exporter, Settings};
pub use report::{Clock, EndReason, Ends, FlowReport};
pub use template::{Field, TEMPLATES, Template};
