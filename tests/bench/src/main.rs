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

impl Bench {
    /// Whether it is this one, or all and so this one too.
    fn includes(self, one: Self) -> bool {
        self == one || self == Self::All && one != Self::Profile
    }

    /// As on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

fn main() -> Result<ExitCode> {
    if portcullis_guest::is_init() {
        portcullis_guest::init(datapath::guest::inside::perform);
    }
    let Arguments { bench, image, bounds, only, out } = Arguments::parse();
    portcullis_qemu::clean_up_at_signals()?;
    let benches: [(Bench, &dyn Fn() -> Result<Report>); 5] = [
        (Bench::Size, &|| size::measure(&image)),
        (Bench::Boot, &|| boot::measure(&image)),
        (Bench::Datapath, &|| datapath::measure(only.as_deref())),
        (Bench::Instructions, &|| datapath::instructions(&bounds)),
        (Bench::Profile, &|| datapath::profile()),
    ];
    let mut missed = Vec::new();
    for (one, measure) in benches {
        if !bench.includes(one) {
            continue;
        }
        // What one of them cannot measure keeps nobody from seeing the others.
        match measure().and_then(|report| report.write(&out).map(|()| report)) {
            Ok(report) => {
                report.print();
                missed.extend(report.missed());
            }
            Err(error) => {
                println!("\n{}: {error:#}", one.name());
                missed.push(format!("{}: could not be measured", one.name()));
            }
        }
    }
    if missed.is_empty() {
        println!("\nAll bounds are kept.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nMissed:");
    for what in missed {
        println!("  {what}");
    }
    Ok(ExitCode::FAILURE)
}
