//! Modes in turns, medians of each, and how far the turns differ.

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

/// What a mode cost in each of its turns.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Whose.
    pub mode: Mode,
    turns: Vec<f64>,
}

impl Cost {
    /// In the order of the turns.
    pub const fn new(mode: Mode, turns: Vec<f64>) -> Self {
        Self { mode, turns }
    }

    /// The median; not a number if there were no turns.
    pub fn median(&self) -> f64 {
        let [_, median, _] = quartiles(self.turns.clone());
        median
    }

    /// The first and third quartile of how many times more a peer cost in each round: what disturbs a
    /// whole round disturbs both.
    pub fn spread(&self, peer: &Self) -> [f64; 2] {
        let rounds = self.turns.iter().zip(&peer.turns);
        let [low, _, high] = quartiles(rounds.map(|(ours, peer)| peer / ours).collect());
        [low, high]
    }
}

/// What a packet costs, in the order of the lanes.
///
/// # Errors
/// If a router does not forward all of them.
pub fn in_turns(lanes: &mut [Lane], effort: Effort, meter: Meter) -> Result<Vec<Cost>> {
    let mut samples = vec![Vec::new(); lanes.len()];
    for round in 0..=effort.rounds {
        for (lane, samples) in lanes.iter_mut().zip(&mut samples) {
            let cost = forward(lane, effort.packets, meter)?;
            if round > 0 {
                samples.push(cost);
            }
        }
    }
    let modes = lanes.iter().map(|lane| lane.router.mode());
    Ok(modes.zip(samples).map(|(mode, turns)| Cost::new(mode, turns)).collect())
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

/// First quartile, median, third quartile; not numbers if there is nothing.
fn quartiles(mut samples: Vec<f64>) -> [f64; 3] {
    samples.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| samples.get(samples.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_rounds() {
        // Everything takes twice as long in one round and ten times in another.
        let ours = Cost::new(Mode::Xdp, vec![10.0, 20.0, 10.0, 100.0, 10.0]);
        let peer = Cost::new(Mode::Plain, vec![20.0, 40.0, 20.0, 200.0, 30.0]);
        assert_eq!(ours.median(), 10.0);
        assert_eq!(peer.median(), 30.0);
        assert_eq!(ours.spread(&peer), [2.0, 2.0]);
        let disturbed = Cost::new(Mode::Plain, vec![20.0, 20.0, 30.0, 300.0, 40.0]);
        assert_eq!(ours.spread(&disturbed), [2.0, 3.0]);
    }

    #[test]
    fn nothing_measured_is_not_a_number() {
        assert!(Cost::new(Mode::Xdp, Vec::new()).median().is_nan());
    }
}
