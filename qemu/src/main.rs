//! `make run` and `make lab`.
#![allow(clippy::print_stdout, reason = "a tool for people")]

mod play;
mod run;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Runs the Portcullis appliance in QEMU.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots the appliance without privileges and opens its page on this machine.
    Run(run::Settings),
    /// Boots the appliance between network namespaces and opens a shell on a LAN host (root).
    Lab {
        /// Disk image.
        #[arg(long, default_value = "target/image/portcullis.raw")]
        image: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run(settings) => run::run(&settings),
        Command::Lab { image } => play::play(&image),
    }
}
