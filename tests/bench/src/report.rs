//! What a benchmark found: a table for people and a file for programs.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One measured quantity, beside its peer if there is one.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Unit of `ours` and `peer`.
    pub unit: String,
    /// Our value.
    pub ours: f64,
    /// The peer's value.
    pub peer: Option<f64>,
    /// Who the peer is, or why there is none.
    pub peer_name: String,
    /// How many times better than the peer we are.
    pub ratio: Option<f64>,
    /// Between which ratios half of the rounds were.
    pub spread: Option<[f64; 2]>,
    /// The least ratio, or the largest value, that is acceptable; none for a figure that is only
    /// reported.
    pub bound: Option<f64>,
    /// Whether the bound is kept.
    pub ok: bool,
    /// What else was seen that explains the figures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// All rows of one benchmark.
#[derive(Debug)]
pub struct Report {
    /// Name of the file and the table.
    pub name: &'static str,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Row {
    /// A value without peer that is only reported.
    pub fn figure(name: &str, unit: &str, ours: f64) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), ours, ok: true, ..Self::default() }
    }

    /// Beside a peer's value, of which it is a bound-th part or less.
    pub fn against(self, peer_name: &str, peer: f64, bound: Option<f64>) -> Self {
        let ratio = peer / self.ours;
        Self {
            peer: Some(peer),
            peer_name: peer_name.to_owned(),
            ratio: Some(ratio),
            bound,
            ok: bound.is_none_or(|bound| ratio >= bound),
            ..self
        }
    }

    /// A value without peer that must not be larger than `bound`.
    pub fn at_most(name: &str, unit: &str, ours: f64, bound: f64) -> Self {
        Self { bound: Some(bound), ok: ours <= bound, ..Self::figure(name, unit, ours) }
    }
}

impl Report {
    /// The bounds that are not kept, one in each line.
    pub fn missed(&self) -> impl Iterator<Item = String> {
        self.rows.iter().filter(|row| !row.ok).map(|row| {
            let Row { name, unit, ours, peer_name, ratio, bound, .. } = row;
            let bound = bound.unwrap_or(f64::NAN);
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            match ratio {
                Some(ratio) => {
                    format!(
                        "{}: {name}: {ratio:.3} against {peer_name}, at least {bound}",
                        self.name
                    )
                }
                None => format!("{}: {name}: {ours:.2}{unit}, at most {bound}{unit}", self.name),
            }
        })
    }

    /// Prints the table.
    pub fn print(&self) {
        let number = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        println!("\n{}", self.name);
        println!(
            "{:<44} {:>12} {:>12} {:>7} {:>11} {:>7} {:<5} {:<4} peer",
            "", "ours", "peer", "ratio", "half within", "bound", "unit", "ok"
        );
        for row in &self.rows {
            println!(
                "{:<44} {:>12.2} {:>12} {:>7} {:>11} {:>7} {:<5} {:<4} {}",
                row.name,
                row.ours,
                number(row.peer),
                number(row.ratio),
                row.spread.map_or_else(String::new, |[low, high]| format!("{low:.2}..{high:.2}")),
                number(row.bound),
                row.unit,
                match row.bound {
                    None => "-",
                    Some(_) if row.ok => "yes",
                    Some(_) => "NO",
                },
                row.peer_name
            );
            for note in &row.notes {
                println!("    {note}");
            }
        }
    }

    /// Writes `NAME.json` into `folder`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.json", self.name));
        std::fs::write(&path, serde_json::to_string_pretty(&self.rows)?)
            .with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missed_bound_is_named() {
        let rows = vec![
            Row::figure("memory", "MiB", 1000.0),
            Row::at_most("flows", "MiB", 255.0, 256.0),
            Row::at_most("services", "s", 1.55, 1.5),
            Row::at_most("lost", "", 2.0, 0.0),
            Row::figure("XDP", "ns", 100.0).against("nftables", 600.0, Some(5.5)),
            Row::figure("XDP", "ns", 100.0).against("redirect", 77.0, Some(0.8)),
            Row::figure("tcx", "ns", 100.0).against("plain", 90.0, None),
        ];
        let report = Report { name: "some", rows };
        assert_eq!(
            report.missed().collect::<Vec<_>>(),
            [
                "some: services: 1.55 s, at most 1.5 s",
                "some: lost: 2.00, at most 0",
                "some: XDP: 0.770 against redirect, at least 0.8",
            ]
        );
    }
}
