//! Benchmarks: each prints a table and writes `target/bench/NAME.json`. Peers are measured in the
//! same run; what is gated is a ratio or a size, never a time on the wall.
#![allow(clippy::print_stdout, reason = "a tool for people")]

mod boot;
mod datapath;
mod report;
mod size;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use report::Report;

/// Measures Portcullis against its peers (root).
#[derive(Parser)]
struct Arguments {
    /// Which benchmark.
    #[arg(value_enum)]
    bench: Bench,
    /// Folder of the image that `make image` built.
    #[arg(long, default_value = "target/image")]
    image: PathBuf,
    /// Bounds of the instruction gate.
    #[arg(long, default_value = "tests/bench/instructions.toml")]
    bounds: PathBuf,
    /// Of the datapath's tables in CPU time, only those whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Folder for the results.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Bench {
    /// All of them.
    All,
    /// Sizes of the image's parts.
    Size,
    /// Boot by phase, time to the first lease, idle memory.
    Boot,
    /// Forwarding with NAT against nftables and the plain kernel.
    Datapath,
    /// Instructions for each packet, in an emulated machine.
    Instructions,
    /// Where those instructions go, by function; not among all.
    Profile,
}

fn main() -> Result<ExitCode> {
    if portcullis_guest::is_init() {
        portcullis_guest::init(datapath::guest::inside::perform);
    }
    let Arguments { bench, image, bounds, only, out } = Arguments::parse();
    let chosen = |one| bench == Bench::All || bench == one;
    let mut reports: Vec<Report> = Vec::new();
    if chosen(Bench::Size) {
        reports.push(size::measure(&image)?);
    }
    if chosen(Bench::Boot) {
        reports.push(boot::measure(&image)?);
    }
    if chosen(Bench::Datapath) {
        reports.push(datapath::measure(only.as_deref())?);
    }
    if chosen(Bench::Instructions) {
        reports.push(datapath::instructions(&bounds)?);
    }
    if bench == Bench::Profile {
        reports.push(datapath::profile()?);
    }
    let mut reached = true;
    for report in &reports {
        report.print();
        report.write(&out)?;
        reached &= report.reached();
    }
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
