//! The verifier of the image's kernel takes all programs, and does not take longer than it used to:
//! what it walks is paid at each start of the machine. This program is the first process of a machine
//! with that kernel. Needs QEMU.
#![allow(clippy::print_stdout, reason = "a test harness of its own")]

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::Program;
use portcullis_datapath_abi::{classifier::LINES, stage};
use portcullis_firewall::datapath::{Datapath, Hook, Milestone, Sizes};
use portcullis_guest::Guest;

/// Most instructions that the verifier may walk, some percent more than it does: until the router
/// filters, until it routes IPv4, and for all programs of tcx. A tenth of a million takes half a second
/// in an emulated machine.
const BOUNDS: [(Milestone, u64); 3] =
    [(Milestone::Filters, 82_000), (Milestone::Routes, 335_000), (Milestone::Complete, 850_000)];

const TEST: &str = "the_kernel_of_the_image_takes_all_programs";

/// The smallest flow table will do: the verifier does not look at its size.
const SIZES: Sizes = Sizes { flows: 1024, lines: LINES };

/// Name and instructions that the verifier walked.
type Verified = (String, u64);

fn main() -> ExitCode {
    if portcullis_guest::is_init() {
        portcullis_guest::init(load_all);
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("{TEST}: test");
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    match on_the_host() {
        Ok(()) => {
            println!("test {TEST} ... ok ({:.1?})", started.elapsed());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("test {TEST} ... FAILED\n{}", format!("{error:#}").replace(" | ", "\n"));
            ExitCode::FAILURE
        }
    }
}

/// Hands the programs to the verifier of the guest.
fn load_all() -> Result<(String, Vec<Verified>)> {
    let mut datapath = Datapath::with_sizes(Path::new("/sys/fs/bpf/portcullis"), SIZES)?;
    datapath.xdp()?;
    let mut verified = Vec::new();
    for hook in Hook::ALL {
        for (name, program) in datapath.programs(hook)? {
            verified.push((name.to_owned(), walked(program)?));
        }
    }
    for name in stage::TCX_CAPTURE.into_iter().chain([stage::XDP_CAPTURE]) {
        verified.push((name.to_owned(), walked(datapath.program(name)?)?));
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok((release.trim().to_owned(), verified))
}

fn walked(program: &Program) -> Result<u64> {
    let info = program.info()?;
    ensure!(info.size_jitted() > 0, "not compiled for this CPU");
    Ok(info.verified_instruction_count().context("the kernel does not tell")?.into())
}

fn on_the_host() -> Result<()> {
    let guest = Guest {
        modules: "boot crc32c_generic?\n",
        tools: &[],
        machine: &["-cpu", "max,la57=off,erms=off", "-smp", "1"],
        parameters: "",
        memory_mib: 1024,
        patience: Duration::from_secs(600),
    };
    let (release, mut verified): (String, Vec<Verified>) = guest.run()?;
    verified.sort_by_key(|(_, walked)| std::cmp::Reverse(*walked));
    println!("instructions verified by Linux {release}:");
    for (name, walked) in &verified {
        println!("{walked:>9}  {name}");
    }
    for (milestone, bound) in BOUNDS {
        let needed = milestone.programs();
        let walked: u64 = verified
            .iter()
            .filter(|(name, _)| needed.contains(&name.as_str()))
            .map(|it| it.1)
            .sum();
        println!("{walked:>9}  {milestone:?}: {} programs, at most {bound}", needed.len());
        ensure!(walked <= bound, "{walked} instructions for {milestone:?}, bound {bound}");
    }
    Ok(())
}
