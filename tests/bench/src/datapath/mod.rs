//! Forwarding with NAT: our datapath on XDP and tcx, nftables masquerade, nftables flowtable, plain
//! kernel forwarding, a bare XDP redirect; in one run.
//!
//! - `clock`, `compare`, `scene`: what a packet costs, measured in turns, medians of each;
//! - `frame`, `generator`, `bpf`: live frames of BPF test runs;
//! - `router`, `mode`, `ours`: a router in a network namespace;
//! - `pump`, `witness`: bulk TCP between real stacks, and what may have disturbed it;
//! - `instructions`, `guest`: the same in an emulated machine that counts instructions.

mod bpf;
mod clock;
mod compare;
mod conntrack;
mod frame;
mod generator;
pub mod guest;
mod instructions;
mod mode;
mod ours;
mod pump;
mod reload;
mod router;
mod scene;
mod witness;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clock::Meter;
use compare::{Cost, Effort};
use guest::{Figure, Profile, Task, bounds::Bounds, profile::Share};
use mode::Mode;
use router::{Downlink, Uplink};
use scene::{Outcome, Scene, Traffic};

use crate::report::{Report, Row};

/// Turns of many packets: other processes disturb some of them.
const REAL: Effort = Effort { rounds: 21, packets: 192_000 };

/// Ours, a peer, and how many times cheaper we must be.
type Comparison = (Mode, Mode, Option<f64>);

/// What is measured in CPU time.
const SCENES: &[(Scene, &[Comparison])] = &[
    (
        Scene {
            name: "64 B UDP, device to device",
            modes: &[Mode::Xdp, Mode::Masquerade, Mode::Flowtable, Mode::Redirect],
            uplink: Uplink::Veth,
            downlink: Downlink::Wire,
            traffic: Traffic::Established(1024),
            capacity: 65_536,
            rules: 0,
            effort: REAL,
        },
        &[
            (Mode::Xdp, Mode::Masquerade, Some(5.5)),
            (Mode::Xdp, Mode::Flowtable, None),
            (Mode::Xdp, Mode::Redirect, Some(0.8)),
        ],
    ),
    (
        // So few that index and records stay in the nearest cache.
        Scene {
            name: "64 B UDP of 64 flows, device to device",
            modes: &[Mode::Xdp, Mode::Masquerade, Mode::Redirect],
            uplink: Uplink::Veth,
            downlink: Downlink::Wire,
            traffic: Traffic::Established(64),
            capacity: 65_536,
            rules: 0,
            effort: REAL,
        },
        &[(Mode::Xdp, Mode::Masquerade, None), (Mode::Xdp, Mode::Redirect, None)],
    ),
    (
        Scene {
            name: "64 B UDP, without a driver's receive path",
            modes: &[Mode::Xdp, Mode::Masquerade, Mode::Redirect],
            uplink: Uplink::Veth,
            downlink: Downlink::Direct,
            traffic: Traffic::Established(1024),
            capacity: 65_536,
            rules: 0,
            effort: REAL,
        },
        &[(Mode::Xdp, Mode::Masquerade, Some(5.5)), (Mode::Xdp, Mode::Redirect, None)],
    ),
    (
        Scene {
            name: "64 B UDP",
            modes: &[Mode::Tcx, Mode::Masquerade, Mode::Flowtable, Mode::Plain],
            uplink: Uplink::Tap,
            downlink: Downlink::Direct,
            traffic: Traffic::Established(1024),
            capacity: 65_536,
            rules: 0,
            effort: REAL,
        },
        &[
            (Mode::Tcx, Mode::Masquerade, Some(1.8)),
            (Mode::Tcx, Mode::Flowtable, None),
            (Mode::Tcx, Mode::Plain, None),
        ],
    ),
    (
        Scene {
            name: "TCP in GRO runs of 16",
            modes: &[Mode::Xdp, Mode::Masquerade, Mode::Flowtable, Mode::Plain, Mode::Redirect],
            uplink: Uplink::Offload,
            downlink: Downlink::Wire,
            traffic: Traffic::Runs(64),
            capacity: 65_536,
            rules: 0,
            effort: REAL,
        },
        &[
            (Mode::Xdp, Mode::Masquerade, Some(1.8)),
            (Mode::Xdp, Mode::Flowtable, None),
            (Mode::Xdp, Mode::Plain, None),
            (Mode::Xdp, Mode::Redirect, None),
        ],
    ),
    (
        Scene {
            name: "64 B UDP, 1,048,576 flows",
            modes: &[Mode::Xdp, Mode::Masquerade],
            uplink: Uplink::Veth,
            downlink: Downlink::Direct,
            traffic: Traffic::Established(MANY),
            capacity: MANY,
            rules: 0,
            effort: REAL,
        },
        &[(Mode::Xdp, Mode::Masquerade, Some(2.7))],
    ),
    (
        Scene {
            name: "new flows, 1,048,576 churned",
            modes: &[Mode::Xdp, Mode::Masquerade],
            uplink: Uplink::Veth,
            downlink: Downlink::Direct,
            traffic: Traffic::Churned(MANY),
            capacity: MANY,
            rules: 0,
            effort: Effort { rounds: 7, packets: MANY / 16 / 8 },
        },
        &[(Mode::Xdp, Mode::Masquerade, Some(1.6))],
    ),
];

/// Not among the scenes: real connections, and what goes on meanwhile.
const PUMP: &str = "TCP between real stacks, a mebibyte";
const RELOADS: &str = "packets lost in reloads of 10,000 rules";

/// The flows of a large site.
const MANY: u32 = 1 << 20;

/// Memory for them at most, in MiB.
const MEMORY: f64 = 256.0;

/// Measures CPU time. `only`: of the scenes whose name contains this.
pub fn measure(only: Option<&str>) -> Result<Report> {
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let meter = Meter::new()?;
    let mut rows = Vec::new();
    for (scene, comparisons) in SCENES.iter().filter(|(scene, _)| wanted(scene.name)) {
        let Outcome { costs, missing, memory } = scene.measure(meter)?;
        compare(scene.name, "ns", &costs, &missing, comparisons, &mut rows)?;
        if let (Traffic::Established(MANY), Some(bytes)) = (scene.traffic, memory) {
            let mebibytes = bytes as f64 / f64::from(1 << 20);
            rows.push(Row::at_most(
                "memory of all maps, 1,048,576 flows",
                "MiB",
                mebibytes,
                MEMORY,
            ));
        }
    }
    if wanted(PUMP) {
        let pumped = pump::measure(&[Mode::Tcx, Mode::Masquerade, Mode::Plain], meter)?;
        let notes = pumped.iter().map(|it| format!("{}: {}", it.cost.mode.name(), it.seen));
        let notes = notes.collect();
        let costs: Vec<_> = pumped.into_iter().map(|it| it.cost).collect();
        let comparisons =
            [(Mode::Tcx, Mode::Masquerade, None), (Mode::Tcx, Mode::Plain, Some(1.0))];
        compare(PUMP, "us", &costs, &[], &comparisons, &mut rows)?;
        if let Some(row) = rows.last_mut() {
            row.notes = notes;
        }
    }
    for mode in [Mode::Xdp, Mode::Tcx].into_iter().filter(|_| wanted(RELOADS)) {
        let outcome = reload::measure(mode)?;
        let name = format!("{}: {RELOADS}", mode.short());
        rows.push(Row {
            peer_name: format!("{} packets, {} reloads", outcome.sent, outcome.reloads),
            ..Row::at_most(&name, "", outcome.lost as f64, 0.0)
        });
    }
    ensure!(!rows.is_empty(), "no table has `{}` in its name", only.unwrap_or_default());
    Ok(Report { name: "datapath", rows })
}

/// Rows of comparisons.
fn compare(
    name: &str,
    unit: &str,
    costs: &[Cost],
    missing: &[(Mode, String)],
    comparisons: &[Comparison],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let find = |wanted| costs.iter().find(|cost| cost.mode == wanted);
    for (ours, peer, bound) in comparisons {
        let own = find(*ours).context("ours was not measured")?;
        let row = Row::figure(&format!("{}: {name}", ours.short()), unit, own.median());
        rows.push(match find(*peer) {
            Some(cost) => Row {
                spread: Some(own.spread(cost)),
                ..row.against(peer.name(), cost.median(), *bound)
            },
            None => {
                let why = missing.iter().find(|(mode, _)| mode == peer);
                let why = why.map(|(_, why)| why.as_str()).unwrap_or_default();
                Row { peer_name: format!("{}: {why}", peer.name()), ..row }
            }
        });
    }
    Ok(())
}

/// Counts instructions and holds them against the bounds in a file.
///
/// # Errors
/// If the guest fails.
pub fn instructions(bounds: &Path) -> Result<Report> {
    let bounds = Bounds::read(bounds)?;
    let figures: Vec<Figure> = guest::run(Task::Count)?;
    Ok(Report { name: "instructions", rows: bounds.judge(&figures)? })
}

/// Where the instructions of the established path go: one report for each mode.
///
/// # Errors
/// If the guest fails.
pub fn profile() -> Result<Report> {
    /// Functions that take less than this of a packet are summed up.
    const LEAST: f64 = 0.01;
    /// What an idle processor does while it waits, which costs no packet anything.
    const IDLE: &str = "pv_native_safe_halt";
    let profiles: Vec<Profile> = guest::run(Task::Profile)?;
    let mut rows = Vec::new();
    for Profile { figure, mut shares } in profiles {
        let name = format!("{}, {}", figure.mode.name(), figure.scene);
        rows.push(Row::figure(&name, "insn", figure.instructions));
        shares.retain(|share| share.function != IDLE);
        let busy: f64 = shares.iter().map(|share| share.share).sum();
        let (large, small): (Vec<_>, Vec<_>) =
            shares.into_iter().partition(|share| share.share >= LEAST);
        let rest = small.iter().map(|share| share.share).sum();
        let rest = Share { function: format!("{} others", small.len()), share: rest };
        for Share { function, share } in large.into_iter().chain([rest]) {
            let part = share / busy * figure.instructions;
            rows.push(Row::figure(&format!("  {function}"), "insn", part));
        }
    }
    Ok(Report { name: "profile", rows })
}
