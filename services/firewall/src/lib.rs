//! The firewall service: loads the datapath (`ebpf/`), compiles zones and policies into its maps,
//! follows the interfaces, ages flows.

pub mod compile;
pub mod datapath;
pub mod install;
