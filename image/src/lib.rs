//! Builds the appliance: from a kernel package and our own binaries to a signed slot blob and a disk image.
//!
//! The way of the data, one module per step:
//!
//! 1. [`base`] gives kernel, modules and EFI stub, after [`buildroot`] has built them if it is the base of that name; [`modules`] picks the modules of `modules.list` with all that they
//!    depend on and writes their tables;
//! 2. [`compile`] builds the multi-call binary, stage one and the boot manager, or takes them from the [`cache`];
//! 3. [`initrd`] and [`root`] lay out the two file [`tree`]s and pack them as compressed cpio and erofs;
//! 4. [`slot`] hashes the root (dm-verity), puts the [`uki`] together and signs the manifest;
//! 5. [`esp`] and [`disk`] make the disk around the slot; [`qcow2`] converts it;
//! 6. [`sbom`] and [`size`] tell what is inside and what it weighs, [`legal`] under which licences;
//! 7. [`release`] puts all of a version together and signs it.
//!
//! [`assemble`] is steps 3 to 5 without any look at the machine: the same parts give the same bytes. [`pipeline`] is
//! everything. No step needs root or a loop device. What is specific to x86_64 is in [`architecture`].

pub mod architecture;
pub mod assemble;
pub mod base;
pub mod buildroot;
pub mod cache;
pub mod compare;
pub mod compile;
pub mod data;
pub mod debian;
pub mod digest;
pub mod disk;
pub mod erofs;
pub mod esp;
pub mod initrd;
pub mod inspect;
pub mod key;
pub mod legal;
pub mod licenses;
pub mod linked;
pub mod modules;
pub mod output;
pub mod pipeline;
pub mod progress;
pub mod qcow2;
pub mod release;
pub mod root;
pub mod sbom;
pub mod size;
pub mod slot;
pub mod sources;
pub mod tool;
pub mod tree;
pub mod uki;
pub mod version;
