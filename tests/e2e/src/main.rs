//! The image in QEMU with real clients. Each story is told by name; `--list` shows them, a word on
//! the command line selects those whose name contains it.
#![allow(clippy::print_stdout, reason = "a test runner reports to people")]

mod runner;
mod scene;
mod stories;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

/// End-to-end tests of the Portcullis image (root).
#[derive(Parser)]
struct Arguments {
    /// Only stories whose name contains this.
    filter: Option<String>,
    /// Shows the stories.
    #[arg(long)]
    list: bool,
    /// Also what takes too long for every change.
    #[arg(long)]
    long: bool,
    /// Base that the image was built on.
    #[arg(long, default_value = "debian")]
    base: String,
    /// Disk image (raw).
    #[arg(long, default_value = "target/image/portcullis.raw")]
    image: PathBuf,
    /// Folder for console logs of failed stories.
    #[arg(long, default_value = "target/e2e")]
    out: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let chosen: Vec<_> = stories::all(arguments.long, &arguments.base)
        .into_iter()
        .filter(|story| arguments.filter.as_ref().is_none_or(|word| story.name.contains(word)))
        .collect();
    if arguments.list {
        for story in &chosen {
            println!("{}", story.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    portcullis_qemu::clean_up_at_signals()?;
    let stage = scene::Stage::new(&arguments.image, &arguments.base)?;
    runner::run(&chosen, &stage, &arguments.out)
}
