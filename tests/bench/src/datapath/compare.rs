//! Modes in turns, medians of each.

use anyhow::{Result, bail};

use super::{clock::Meter, generator::Generator, mode::Mode, router::Router};

/// A router and the frames that it is measured with.
pub struct Lane {
    /// The router.
    pub router: Router,
    /// Its frames.
    pub frames: Generator,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Turns of each lane that count; one more comes first and warms up.
    pub rounds: usize,
    /// Packets in one turn.
    pub packets: u32,
}

/// Median cost of a packet, in the order of the lanes.
///
/// # Errors
/// If a router does not forward all of them.
pub fn medians(lanes: &mut [Lane], effort: Effort, meter: Meter) -> Result<Vec<(Mode, f64)>> {
    let mut samples = vec![Vec::new(); lanes.len()];
    for round in 0..=effort.rounds {
        for (lane, samples) in lanes.iter_mut().zip(&mut samples) {
            let cost = forward(lane, effort.packets, meter)?;
            if round > 0 {
                samples.push(cost);
            }
        }
    }
    Ok(lanes.iter().map(|lane| lane.router.mode()).zip(samples.into_iter().map(median)).collect())
}

/// A turn in which all packets came out. When other processes want the CPU, the queue in front of the
/// sink may run over, which is nobody's fault and would make the turn look cheap: it is repeated.
fn forward(lane: &mut Lane, packets: u32, meter: Meter) -> Result<f64> {
    const ATTEMPTS: usize = 20;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match lane.router.forward(&lane.frames, packets, meter) {
            Ok(cost) => return Ok(cost),
            Err(error) => last = Some(error),
        }
    }
    last.map_or_else(|| bail!("no attempt"), Err)
}

/// The median; not a number if there is none.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
