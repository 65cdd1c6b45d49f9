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
    /// The least ratio, or the largest value, that is acceptable; none for a figure that is only
    /// reported.
    pub bound: Option<f64>,
    /// Whether the bound is kept.
    pub ok: bool,
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
    /// Whether all bounds are kept.
    pub fn reached(&self) -> bool {
        self.rows.iter().all(|row| row.ok)
    }

    /// Prints the table.
    pub fn print(&self) {
        let number = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        println!("\n{}", self.name);
        println!(
            "{:<44} {:>12} {:>12} {:>7} {:>7} {:<5} {:<4} peer",
            "", "ours", "peer", "ratio", "bound", "unit", "ok"
        );
        for row in &self.rows {
            println!(
                "{:<44} {:>12.2} {:>12} {:>7} {:>7} {:<5} {:<4} {}",
                row.name,
                row.ours,
                number(row.peer),
                number(row.ratio),
                number(row.bound),
                row.unit,
                if row.ok { "yes" } else { "NO" },
                row.peer_name
            );
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
