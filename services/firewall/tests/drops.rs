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

use lab::{HOST, Lab, OUTSIDE, WAN};
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

/// RFC 5508 REQ-3, with the sum that the kernel makes: of messages that end at any byte, and that it sums
/// up in one piece and in several.
#[test]
fn icmp_errors_pass_only_with_the_right_checksum() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.send("lan", &lab.link("lan").udp(HOST, 5000, OUTSIDE, 53))?;
    let line = Line { reason: Counter::DropIcmp, from: "wan", to: "", provoke: |_| Ok(()) };
    let quoted = lab.link("wan").udp_of(WAN, 5000, OUTSIDE, 53, 60, 1400);
    for length in [28, 29, 30, 31, 32, 504, 505, 1016, 1017, 1400] {
        let good = lab.link("wan").icmp_error(OUTSIDE, WAN, &quoted[14..14 + length]);
        ensure!(fate(&mut lab, &line, &good)? == (1, 0), "{length}");
        // One bit of the message's last byte, and one of its checksum.
        for at in [good.len() - 1, 14 + 20 + 3] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            ensure!(fate(&mut lab, &line, &bad)? == (0, 1), "{length}, byte {at}");
        }
    }
    Ok(())
}

/// How many errors passed, and how many were dropped, when this one came from outside.
fn fate(lab: &mut Lab, line: &Line, frame: &[u8]) -> Result<(u64, u64)> {
    let counts = |lab: &mut Lab| -> Result<(u64, u64)> {
        let counters = lab.firewall.counters()?;
        let passed = counters.iter().find(|one| one.name == Counter::ForwardedIcmpError.name());
        Ok((passed.map_or(0, |one| one.packets), lab.dropped(line)?))
    };
    let before = counts(lab)?;
    lab.send("wan", frame)?;
    for _ in 0..50 {
        let after = counts(lab)?;
        if after != before {
            return Ok((after.0 - before.0, after.1 - before.1));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("not seen; what was: {}", lab.summary()?)
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
