//! What is counted in the guest.

use anyhow::Result;

use super::{
    clock::Meter,
    compare::{Effort, Lane, in_turns},
    frame::{Content, PORTS},
    generator::Order,
    guest::{Figure, Profile, profile},
    mode::Mode,
    router::{Downlink, Plan, Router, Uplink, Way},
};

/// Few turns of few packets: nothing disturbs them.
const ESTABLISHED: Effort = Effort { rounds: 3, packets: 12_288 };
/// Flows that are established.
const FLOWS: u32 = 1024;
/// New flows take the ports that are left, in all turns together.
const NEW: Effort = Effort { rounds: 3, packets: (PORTS - FLOWS) / 4 };
/// What is profiled.
const PROFILED: Effort = Effort { rounds: 1, packets: 98_304 };

/// Sizes of policies that are compared.
const RULES: [(u32, &str); 2] = [(10, "10 rules"), (10_000, "10,000 rules")];

/// Counts all.
///
/// # Errors
/// If something cannot be measured; here no peer may be missing.
pub fn measure(meter: Meter) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for mode in [Mode::Redirect, Mode::Flowtable, Mode::Masquerade, Mode::Xdp] {
        let mut router = router(mode)?;
        let mut circumstances = Circumstances { meter, policy: None, figures: &mut figures };
        router = circumstances.established(router)?;
        if matches!(mode, Mode::Masquerade | Mode::Xdp) {
            router = circumstances.new_flows(router)?;
        }
        if mode == Mode::Xdp {
            for (rules, policy) in RULES {
                router.forget()?;
                router.set_rules(rules)?;
                circumstances.policy = Some(policy);
                router = circumstances.established(router)?;
                router = circumstances.new_flows(router)?;
            }
        }
    }
    Ok(figures)
}

/// Says where the instructions go: of established packets, of new flows, and of new flows with rules.
///
/// # Errors
/// As [`measure`].
pub fn profile(meter: Meter) -> Result<Vec<Profile>> {
    let mut profiles = Vec::new();
    for mode in [Mode::Redirect, Mode::Xdp, Mode::Masquerade] {
        let mut router = router(mode)?;
        router.establish(FLOWS)?;
        let frames = router.frames(Content::Udp, Way::Out, Order::Random, FLOWS)?;
        let instructions = router.forward(&frames, PROFILED.packets, meter)?;
        let shares =
            profile::profile(|| router.forward(&frames, PROFILED.packets, meter).map(drop))?;
        let figure = Figure { scene: "established".to_owned(), mode, instructions };
        profiles.push(Profile { figure, shares });
        if mode == Mode::Redirect {
            continue;
        }
        profiles.push(profile_new(&mut router, "new flows".to_owned(), meter)?);
        if mode == Mode::Xdp {
            for (rules, policy) in RULES {
                router.forget()?;
                router.set_rules(rules)?;
                profiles.push(profile_new(&mut router, format!("new flows, {policy}"), meter)?);
            }
        }
    }
    Ok(profiles)
}

/// The same of first packets, each of another flow.
fn profile_new(router: &mut Router, scene: String, meter: Meter) -> Result<Profile> {
    let frames = router.frames(Content::Udp, Way::Out, Order::InTurn, PORTS)?;
    frames.start_at(FLOWS)?;
    // Sampling costs instructions of its own, so it counts half of the flows and samples the other.
    let half = (PORTS - FLOWS) / 2;
    let instructions = router.forward(&frames, half, meter)?;
    let shares = profile::profile(|| router.forward(&frames, half, meter).map(drop))?;
    Ok(Profile { figure: Figure { scene, mode: router.mode(), instructions }, shares })
}

fn router(mode: Mode) -> Result<Router> {
    Router::new(Plan {
        mode,
        uplink: Uplink::Veth,
        downlink: Downlink::Direct,
        capacity: 65_536,
        rules: 0,
    })
}

struct Circumstances<'a> {
    meter: Meter,
    policy: Option<&'static str>,
    figures: &'a mut Vec<Figure>,
}

impl Circumstances<'_> {
    fn established(&mut self, router: Router) -> Result<Router> {
        router.establish(FLOWS)?;
        self.count("established", router, Order::Random, FLOWS, ESTABLISHED)
    }

    fn new_flows(&mut self, router: Router) -> Result<Router> {
        self.count("new flows", router, Order::InTurn, PORTS, NEW)
    }

    fn count(
        &mut self,
        name: &str,
        router: Router,
        order: Order,
        flows: u32,
        effort: Effort,
    ) -> Result<Router> {
        let frames = router.frames(Content::Udp, Way::Out, order, flows)?;
        frames.start_at(FLOWS)?;
        let mut lane = [Lane { router, frames }];
        let costs = in_turns(&mut lane, effort, self.meter)?;
        let scene = self.policy.map_or(name.to_owned(), |policy| format!("{name}, {policy}"));
        self.figures.extend(costs.into_iter().map(|cost| Figure {
            scene: scene.clone(),
            mode: cost.mode,
            instructions: cost.median(),
        }));
        let [Lane { router, .. }] = lane;
        Ok(router)
    }
}
