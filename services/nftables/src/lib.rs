//! The policy as a ruleset of nftables, for kernels and hardware where the datapath cannot run.
//!
//! ```text
//! policy -> ruleset::Table -+-> netlink -> kernel: one transaction
//!                           +-> text -> people (`pctl firewall show --as nft`)
//! ```
//! `ruleset`, `text` and `netlink` are pure.

pub mod compile;
pub mod conntrack;
pub mod kernel;
pub mod netlink;
pub mod ruleset;
pub mod text;
