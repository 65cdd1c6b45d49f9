//! What is counted in the guest.

use anyhow::Result;

use super::{
    clock::Meter,
    compare::Effort,
    guest::{Figure, Profile, profile},
    mode::Mode,
    router::{Downlink, Uplink},
    scene::{Scene, Traffic},
};

/// Few turns of few packets: nothing disturbs them.
const COUNTED: Effort = Effort { rounds: 3, packets: 12_288 };
/// The ports give this many new flows in all turns together.
const COUNTED_NEW: Effort = Effort { rounds: 3, packets: 4080 };

const XDP: Scene = Scene {
    name: "established",
    modes: &[Mode::Xdp, Mode::Masquerade, Mode::Flowtable, Mode::Redirect],
    uplink: Uplink::Veth,
    downlink: Downlink::Direct,
    traffic: Traffic::Established(1024),
    capacity: 65_536,
    rules: 0,
    effort: COUNTED,
};

const TAP: Scene = Scene {
    name: "established, by tap",
    modes: &[Mode::Tcx, Mode::Masquerade, Mode::Flowtable, Mode::Plain],
    uplink: Uplink::Tap,
    ..XDP
};

const NEW: Scene = Scene {
    name: "new flows",
    modes: &[Mode::Xdp, Mode::Masquerade],
    traffic: Traffic::New,
    effort: COUNTED_NEW,
    ..XDP
};

const OURS: &[Mode] = &[Mode::Xdp];

const SCENES: [Scene; 8] = [
    XDP,
    TAP,
    NEW,
    Scene {
        name: "new flows, by tap",
        modes: &[Mode::Tcx, Mode::Masquerade],
        uplink: Uplink::Tap,
        ..NEW
    },
    Scene { name: "established, 10 rules", modes: OURS, rules: 10, ..XDP },
    Scene { name: "established, 10,000 rules", modes: OURS, rules: 10_000, ..XDP },
    Scene { name: "new flows, 10 rules", modes: OURS, rules: 10, ..NEW },
    Scene { name: "new flows, 10,000 rules", modes: OURS, rules: 10_000, ..NEW },
];

/// Says where the instructions of the established path go.
///
/// # Errors
/// As [`measure`].
pub fn profile(meter: Meter) -> Result<Vec<Profile>> {
    let mut profiles = Vec::new();
    let effort = Effort { rounds: 1, packets: 98_304 };
    let scenes = [Scene { effort, ..XDP }, Scene { effort, ..TAP }];
    for scene in &scenes {
        for (mode, mut lane) in scene.lanes()? {
            let instructions = lane.router.forward(&lane.frames, effort.packets, meter)?;
            let shares = profile::profile(|| {
                lane.router.forward(&lane.frames, effort.packets, meter).map(drop)
            })?;
            let figure = Figure { scene: scene.name.to_owned(), mode, instructions };
            profiles.push(Profile { figure, shares });
        }
    }
    Ok(profiles)
}

/// Counts all.
///
/// # Errors
/// If something cannot be measured; here no peer may be missing.
pub fn measure(meter: Meter) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for scene in &SCENES {
        let outcome = scene.measure(meter)?;
        if let Some((mode, why)) = outcome.missing.first() {
            anyhow::bail!("{}: {why}", mode.name());
        }
        figures.extend(outcome.costs.into_iter().map(|(mode, instructions)| Figure {
            scene: scene.name.to_owned(),
            mode,
            instructions,
        }));
    }
    Ok(figures)
}
