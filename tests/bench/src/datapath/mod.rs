//! Forwarding with NAT: our tcx datapath, nftables masquerade, nftables flowtable, plain kernel
//! forwarding, in one run.
//!
//! 64-byte UDP frames of many established flows enter the stack of a device by BPF test-run live
//! frames and leave by another; what is measured is the CPU time of the thread that drives them,
//! per packet. The device that they leave by is a tap that nobody reads: it takes every frame and
//! drops it at once, which costs the same for all. Modes are interleaved, medians count.

mod live_frames;
mod router;

use anyhow::{Result, ensure};
use router::{Mode, Router};

use crate::report::{Report, Row};

/// Rounds over all modes.
const ROUNDS: usize = 15;
/// Packets of one mode in one round.
const PACKETS: u32 = 200_000;
/// Ratio to nftables masquerade that must be reached.
const BOUND: f64 = 1.5;

/// Measures all modes with 64 and with 1,024 flows.
pub fn measure() -> Result<Report> {
    let mut rows = Vec::new();
    for flows in [64, 1024] {
        measure_with(flows, &mut rows)?;
    }
    Ok(Report { name: "datapath", rows })
}

fn measure_with(flows: u32, rows: &mut Vec<Row>) -> Result<()> {
    let mut routers = Vec::new();
    let mut missing = Vec::new();
    for mode in Mode::ALL {
        match Router::new(mode, flows) {
            Ok(router) => routers.push((mode, router, Vec::new())),
            // Only this peer may be missing: it is a module that this kernel may not have.
            Err(error) if mode == Mode::Flowtable => missing.push((mode, format!("{error:#}"))),
            Err(error) => return Err(error),
        }
    }
    for (_, router, _) in &routers {
        router.establish()?;
    }
    for round in 0..=ROUNDS {
        for (mode, router, samples) in &mut routers {
            let (nanoseconds, passed) = router.forward(PACKETS)?;
            ensure!(
                passed == u64::from(PACKETS),
                "{}: {passed} of {PACKETS} packets were forwarded ({})",
                mode.name(),
                router.explain()
            );
            // The first round warms up.
            if round > 0 {
                samples.push(nanoseconds);
            }
        }
    }
    let median = |wanted: Mode| {
        routers.iter().find(|(mode, ..)| *mode == wanted).map(|(.., samples)| {
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
        })
    };
    let ours = median(Mode::Ours).unwrap_or(f64::NAN);
    for mode in [Mode::Masquerade, Mode::Flowtable, Mode::Plain] {
        let name = format!("tcx NAT, 64 B UDP, {flows} flows");
        let row = Row::figure(&name, "ns", ours);
        rows.push(match median(mode) {
            Some(peer) => {
                let ratio = peer / ours;
                let bound = (mode == Mode::Masquerade).then_some(BOUND);
                Row {
                    peer: Some(peer),
                    peer_name: mode.name().to_owned(),
                    ratio: Some(ratio),
                    bound,
                    ok: bound.is_none_or(|bound| ratio >= bound),
                    ..row
                }
            }
            None => {
                let why = missing.iter().find(|(absent, _)| *absent == mode);
                let why = why.and_then(|(_, error)| {
                    error.lines().find_map(|line| Some(line.split_once("Error: ")?.1))
                });
                Row {
                    peer_name: format!(
                        "{}: peer not available on this kernel ({})",
                        mode.name(),
                        why.unwrap_or_default()
                    ),
                    ..row
                }
            }
        });
    }
    Ok(())
}
