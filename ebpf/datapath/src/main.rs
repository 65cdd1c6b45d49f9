//! Entry points of the packet core in the kernel: tcx ingress and egress, XDP. They read the
//! context, call the core and carry out its verdict; decisions are in the library.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel;

/// The programs exist for the kernel only; on the host there is the library.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
