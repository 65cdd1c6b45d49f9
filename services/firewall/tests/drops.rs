//! Every reason to drop a packet, provoked: a table with one line for each, and the programs that
//! the service attaches to real devices see real frames. Needs root and iproute2.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

#[path = "drops/frames.rs"]
mod frames;
#[path = "drops/lab.rs"]
mod lab;
#[path = "drops/table.rs"]
mod table;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use portcullis_datapath_abi::Counter;

use lab::Lab;
use table::{LINES, Line};

fn is_drop(counter: &Counter) -> bool {
    counter.name().starts_with("drop.")
}

#[test]
fn every_reason_has_a_line() {
    let lines: BTreeSet<&str> = LINES.iter().map(|line| line.reason.name()).collect();
    let reasons: BTreeSet<&str> =
        Counter::ALL.iter().filter(|counter| is_drop(counter)).map(|c| c.name()).collect();
    assert_eq!(lines, reasons);
    assert_eq!(lines.len(), LINES.len(), "one line each");
}

#[test]
fn every_reason_is_counted_between_its_zones() -> Result<()> {
    let mut lab = Lab::new()?;
    let mut failures = Vec::new();
    for line in LINES {
        if let Err(error) = check(&mut lab, line) {
            failures.push(format!("{}: {error:#}", line.reason.name()));
        }
    }
    ensure!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

fn check(lab: &mut Lab, line: &Line) -> Result<()> {
    let before = lab.dropped(line)?;
    (line.provoke)(lab)?;
    // Devices hand frames over at once, but the kernel may take a moment over them.
    for _ in 0..50 {
        if lab.dropped(line)? > before {
            println!("{:<24} {} > {}", line.reason.name(), or_dash(line.from), or_dash(line.to));
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("not counted from `{}` to `{}`; what was: {}", line.from, line.to, lab.summary()?)
}

fn or_dash(zone: &str) -> &str {
    if zone.is_empty() { "-" } else { zone }
}
