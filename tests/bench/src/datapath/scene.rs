//! A comparison: modes that forward the same frames under the same circumstances.

use anyhow::Result;

use super::{
    clock::Meter,
    compare::{Cost, Effort, Lane, in_turns},
    conntrack::ConntrackRoom,
    frame::Content,
    generator::Order,
    mode::Mode,
    router::{Downlink, Plan, Router, Uplink, Way},
};

/// Which frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Traffic {
    /// The smallest UDP frames of this many established flows, in random order.
    Established(u32),
    /// UDP frames each of which opens a flow, when this many flows have been opened and have ended,
    /// and 15 of 16 of them have been opened again.
    Churned(u32),
    /// TCP segments of 64 open connections, 16 of each in a row, with this many bytes of payload.
    Runs(u16),
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// For tables.
    pub name: &'static str,
    /// Who takes part.
    pub modes: &'static [Mode],
    /// What the WAN is.
    pub uplink: Uplink,
    /// How frames come in.
    pub downlink: Downlink,
    /// Which frames.
    pub traffic: Traffic,
    /// Flows that our table holds.
    pub capacity: u32,
    /// Rules of our policy.
    pub rules: u32,
    /// How much is measured.
    pub effort: Effort,
}

/// Who could not be measured, and why.
pub type Missing = Vec<(Mode, String)>;

/// What a packet cost, in units of the meter, and who could not be measured, with the reason.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of the scene's modes.
    pub costs: Vec<Cost>,
    /// Peers that this kernel does not have.
    pub missing: Missing,
    /// Memory of our maps in bytes.
    pub memory: Option<u64>,
}

impl Scene {
    /// Builds the routers and measures them in turns. A peer that this kernel does not have is left
    /// out, with the reason; ours never is.
    ///
    /// # Errors
    /// If a router cannot be built or does not forward.
    pub fn measure(&self, meter: Meter) -> Result<Outcome> {
        let (routers, missing) = self.routers()?;
        let room = match self.traffic {
            Traffic::Established(flows) | Traffic::Churned(flows) => ConntrackRoom::new(flows)?,
            Traffic::Runs(_) => None,
        };
        let lanes: Result<Vec<_>> = routers.into_iter().map(|router| self.lane(router)).collect();
        let mut lanes = lanes?;
        let costs = in_turns(&mut lanes, self.effort, meter)?;
        // Their flows go before the room for them.
        let ours = lanes.iter().find_map(|lane| lane.router.ours());
        let memory = ours.map(|ours| ours.memory()).transpose()?;
        drop(lanes);
        drop(room);
        Ok(Outcome { costs, missing, memory })
    }

    /// The routers, and which peers are missing why.
    fn routers(&self) -> Result<(Vec<Router>, Missing)> {
        let mut routers = Vec::new();
        let mut missing = Vec::new();
        for mode in self.modes {
            let Self { uplink, downlink, capacity, rules, .. } = *self;
            match Router::new(Plan { mode: *mode, uplink, downlink, capacity, rules }) {
                Ok(router) => routers.push(router),
                // Only this peer may be missing: it is a module that a kernel may not have.
                Err(error) if *mode == Mode::Flowtable => missing.push((*mode, reason(&error))),
                Err(error) => return Err(error),
            }
        }
        Ok((routers, missing))
    }

    fn lane(&self, mut router: Router) -> Result<Lane> {
        let frames = match self.traffic {
            Traffic::Established(flows) => {
                router.establish(flows)?;
                router.frames(Content::Udp, Way::Out, Order::Random, flows)?
            }
            Traffic::Churned(flows) => {
                let frames = router.frames(Content::Udp, Way::Out, Order::Scattered, flows)?;
                router.send(&frames, Way::Out, flows)?;
                router.forget()?;
                frames.start_at(0)?;
                router.send(&frames, Way::Out, flows / 16 * 15)?;
                frames
            }
            Traffic::Runs(payload) => {
                const CONNECTIONS: u32 = 64;
                router.connect(CONNECTIONS)?;
                let order = Order::Runs(16);
                router.frames(Content::Segment(payload), Way::Out, order, CONNECTIONS)?
            }
        };
        Ok(Lane { router, frames })
    }
}

/// The line of a tool's error that says what is wrong.
fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let said = text.lines().find_map(|line| Some(line.split_once("Error: ")?.1));
    format!("not on this kernel ({})", said.unwrap_or(text.lines().next().unwrap_or_default()))
}
