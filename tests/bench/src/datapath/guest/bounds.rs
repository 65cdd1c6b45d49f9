//! The committed bounds of the instruction gate.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Figure;
use crate::{datapath::mode::Mode, report::Row};

/// What `instructions.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Against peers.
    ratio: Vec<Ratio>,
    /// Against ourselves under other circumstances.
    growth: Vec<Growth>,
    /// Against what was reached before.
    ceiling: Vec<Ceiling>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    scene: String,
    ours: Mode,
    peer: Mode,
    at_least: Option<f64>,
    /// What it shall come to one day, where that is not reached: `at_least` is then what is.
    wanted: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Growth {
    ours: Mode,
    from: String,
    to: String,
    at_most_percent: f64,
    /// As in [`Ratio`].
    wanted: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ceiling {
    scene: String,
    ours: Mode,
    at_most: f64,
}

impl Bounds {
    /// Reads the file.
    ///
    /// # Errors
    /// If it is not as it should be.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Holds figures against the bounds.
    ///
    /// # Errors
    /// If a bound is about something that was not measured.
    pub fn judge(&self, figures: &[Figure]) -> Result<Vec<Row>> {
        let find = |scene: &str, mode: Mode| {
            let figure = figures.iter().find(|figure| figure.scene == scene && figure.mode == mode);
            figure
                .map(|figure| figure.instructions)
                .with_context(|| format!("the guest did not measure {} in `{scene}`", mode.name()))
        };
        let mut rows = Vec::new();
        for Ratio { scene, ours, peer, at_least, wanted } in &self.ratio {
            let wanted = wanted.map(|ratio| format!(" (wanted: {ratio}x)")).unwrap_or_default();
            let name = format!("{}: {scene}{wanted}", ours.short());
            let row = Row::figure(&name, "insn", find(scene, *ours)?);
            rows.push(row.against(peer.name(), find(scene, *peer)?, *at_least));
        }
        for Growth { ours, from, to, at_most_percent, wanted } in &self.growth {
            let percent = (find(to, *ours)? / find(from, *ours)? - 1.0) * 100.0;
            let wanted = wanted.map(|most| format!(" (wanted: {most} %)")).unwrap_or_default();
            let name = format!("{}: {to}, more than with {from}{wanted}", ours.short());
            rows.push(Row::at_most(&name, "%", percent, *at_most_percent));
        }
        for Ceiling { scene, ours, at_most } in &self.ceiling {
            let name = format!("{}: {scene}, ceiling", ours.short());
            rows.push(Row::at_most(&name, "insn", find(scene, *ours)?, *at_most));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[ratio]]
        scene = "established"
        ours = "xdp"
        peer = "masquerade"
        at_least = 4.0

        [[growth]]
        ours = "xdp"
        from = "established"
        to = "more"
        at_most_percent = 2

        [[ceiling]]
        scene = "established"
        ours = "xdp"
        at_most = 1000
    "#;

    fn judge(ours: f64, more: f64) -> Result<Vec<bool>> {
        let figure = |scene: &str, mode, instructions| Figure {
            scene: scene.to_owned(),
            mode,
            instructions,
        };
        let figures = [
            figure("established", Mode::Xdp, ours),
            figure("established", Mode::Masquerade, 4000.0),
            figure("more", Mode::Xdp, more),
        ];
        let rows = toml::from_str::<Bounds>(TEXT)?.judge(&figures)?;
        Ok(rows.iter().map(|row| row.ok).collect())
    }

    #[test]
    fn each_bound_can_be_kept_and_missed() -> Result<()> {
        assert_eq!(judge(1000.0, 1019.0)?, [true, true, true]);
        assert_eq!(judge(1000.0, 1021.0)?, [true, false, true]);
        assert_eq!(judge(1001.0, 1001.0)?, [false, true, false]);
        Ok(())
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        let bounds: Bounds = toml::from_str(TEXT).unwrap();
        assert!(bounds.judge(&[]).is_err());
    }

    #[test]
    fn the_committed_bounds_are_readable() {
        Bounds::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml")).unwrap();
    }
}
