//! The configuration of our own kernel: fragments with a reason for each option, checked against a kernel's sources.
//!
//! Buildroot merges the fragments of `board/portcullis/linux` that a defconfig names and lets Kconfig answer what is
//! left with its defaults. Two things can go wrong silently: an option is dropped because something that it depends on
//! is missing, and something that nobody asked for comes in by default. Both are errors here, found without Buildroot
//! and in seconds:
//!
//! 1. [`plan`] reads from the defconfig which fragments there are, [`fragment`] reads them: options and reasons;
//! 2. [`source`] takes the Kconfig files out of Debian's kernel source package;
//! 3. [`kconfig`] lets the kernel's own Kconfig answer twice: with "no" to all that the fragments leave open, and with
//!    its defaults, as Buildroot does;
//! 4. [`check`] compares: what is wanted must be there, and both answers must be the same, which is what the last
//!    fragment of each architecture (`off-ARCH.config`, written by the command `off`) is for;
//! 5. [`explain`] looks up what a dropped option depends on.
//!
//! [`hardening`] holds the answers of `docs/kernel.md` against the findings of kernel-hardening-checker.

pub mod check;
pub mod config;
pub mod explain;
pub mod fragment;
pub mod hardening;
pub mod kconfig;
pub mod plan;
pub mod source;
