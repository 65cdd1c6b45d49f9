//! Replacing a large policy while packets flow: every packet is counted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    bpf::BATCH,
    frame::Content,
    generator::Order,
    mode::Mode,
    router::{Downlink, Plan, Router, Uplink, Way},
};

/// Rules of the policy.
const RULES: u32 = 10_000;
/// How often it is replaced.
const RELOADS: u32 = 8;
/// Flows; those of the first round see the policy, which may be any edition of it.
const FLOWS: u32 = 1 << 17;
/// Packets sent at once.
const PACKETS: u32 = 100 * BATCH;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Packets sent while the policy was replaced.
    pub sent: u64,
    /// Those that did not come out.
    pub lost: u64,
    /// Replacements.
    pub reloads: u32,
}

/// Replaces policies under traffic: packets of established flows, and of new ones that each edition
/// of the policy allows by its last rule.
///
/// # Errors
/// If the router cannot be built or the policy not be replaced.
pub fn measure(mode: Mode) -> Result<Outcome> {
    let mut router = Router::new(Plan {
        mode,
        uplink: Uplink::Veth,
        downlink: Downlink::Direct,
        capacity: FLOWS * 2,
        rules: RULES,
    })?;
    let frames = router.frames(Content::Udp, Way::Out, Order::InTurn, FLOWS)?;
    let mut ours = router.take_ours().context("ours")?;
    let before = router.arrived()?;
    let done = AtomicBool::new(false);
    let (sent, replaced) = thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            let replaced = any_cpu().and_then(|()| {
                router.enter(|| (1..=RELOADS).try_for_each(|edition| ours.replace_rules(edition)))
            });
            done.store(true, Ordering::Relaxed);
            replaced
        });
        let mut sent = 0;
        let outcome = loop {
            if let Err(error) = router.send(&frames, Way::Out, PACKETS) {
                break Err(error);
            }
            sent += u64::from(PACKETS);
            if done.load(Ordering::Relaxed) {
                break Ok(sent);
            }
        };
        (outcome, reloads.join())
    });
    let sent = sent?;
    replaced.map_err(|_| anyhow::anyhow!("the thread that replaces rules panicked"))??;
    let arrived = router.arrived()? - before;
    ensure!(arrived <= sent, "{arrived} of {sent} packets came out");
    Ok(Outcome { sent, lost: sent - arrived, reloads: RELOADS })
}

/// The traffic has its CPU for itself.
fn any_cpu() -> Result<()> {
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        all.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &all)?)
}
