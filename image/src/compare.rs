//! Two images side by side: sizes as the builder reports them, boot times as the benchmark measured them.

use crate::pipeline::SIZE;
use crate::size;
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// A table of two columns with what they have in common in the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// What the columns are.
    pub columns: [String; 2],
    /// The rows.
    pub rows: Vec<Row>,
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The figures; one that only the other has is missing.
    pub values: [Option<f64>; 2],
}

/// A row of a report of the benchmark, as far as it is needed here.
#[derive(Deserialize)]
struct Measured {
    name: String,
    unit: String,
    ours: f64,
}

/// Reads the size reports of two output folders and, below `bench`, each base's `BASE/boot.json`.
///
/// # Errors
/// When a report is missing or cannot be read.
pub fn of(images: [&Path; 2], bench: Option<&Path>) -> Result<Table> {
    let [one, other] = [sizes(images[0])?, sizes(images[1])?];
    let mut table = Table { columns: [one.base.clone(), other.base.clone()], rows: Vec::new() };
    for (column, report) in [one, other].into_iter().enumerate() {
        for component in report.components {
            table.add(column, &component.name, "MiB", component.bytes as f64 / f64::from(1 << 20));
        }
        if let (Some(bench), Some(base)) = (bench, table.columns.get(column).cloned()) {
            for row in read::<Vec<Measured>>(&bench.join(base).join("boot.json"))? {
                table.add(column, &row.name, &row.unit, row.ours);
            }
        }
    }
    Ok(table)
}

fn sizes(image: &Path) -> Result<size::Report> {
    read(&image.join(SIZE))
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a report", path.display()))
}

impl Table {
    fn add(&mut self, column: usize, name: &str, unit: &str, value: f64) {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let (name, unit) = (name.to_owned(), unit.to_owned());
            self.rows.push(Row { name, unit, values: [None; 2] });
            self.rows.len() - 1
        });
        if let Some(place) = self.rows.get_mut(at).and_then(|row| row.values.get_mut(column)) {
            *place = Some(value);
        }
    }

    /// For people; the last column is the second in parts of the first.
    pub fn text(&self) -> String {
        let [one, other] = &self.columns;
        let mut text = format!("{:<44} {one:>12} {other:>12}\n", "");
        for Row { name, unit, values } in &self.rows {
            let shown =
                values.map(|value| value.map_or("-".to_owned(), |value| format!("{value:.2}")));
            let ratio = match values {
                [Some(one), Some(other)] if *one > 0.0 => format!("{:>4.0} %", other / one * 100.0),
                _ => String::new(),
            };
            let label = format!("{name} ({unit})");
            let line = format!("{label:<44} {:>12} {:>12}  {ratio}", shown[0], shown[1]);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// For programs.
    ///
    /// # Errors
    /// When a figure is not finite.
    pub fn json(&self) -> Result<Vec<u8>> {
        let [one, other] = &self.columns;
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({ "name": row.name, "unit": row.unit, one: row.values[0], other: row.values[1] })
            })
            .collect();
        let mut text = serde_json::to_vec_pretty(&json!({ "rows": rows }))?;
        text.push(b'\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::of;
    use std::fs;
    use std::path::Path;

    fn image(folder: &Path, base: &str, slot: u64, extra: &str) {
        fs::create_dir_all(folder.join(base)).unwrap();
        let size = format!(
            r#"{{"version":"1","base":"{base}","components":[{{"name":"slot","bytes":{slot}}}{extra}]}}"#
        );
        fs::write(folder.join(base).join("size.json"), size).unwrap();
        let boot = format!(
            r#"[{{"name":"boot: kernel","unit":"s","ours":{}.5,"peer":null,"ok":true}}]"#,
            slot >> 20
        );
        fs::write(folder.join(base).join("boot.json"), boot).unwrap();
    }

    #[test]
    fn rows_stand_side_by_side_even_if_one_lacks_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        image(path, "debian", 4 << 20, r#",{"name":"modules","bytes":1048576}"#);
        image(path, "buildroot", 2 << 20, "");
        let table = of([&path.join("debian"), &path.join("buildroot")], Some(path)).unwrap();
        let text = table.text();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["debian", "buildroot"]);
        assert_eq!(lines[1], ["slot", "(MiB)", "4.00", "2.00", "50", "%"]);
        assert_eq!(lines[2], ["modules", "(MiB)", "1.00", "-"]);
        assert_eq!(lines[3], ["boot:", "kernel", "(s)", "4.50", "2.50", "56", "%"]);
        let json: serde_json::Value = serde_json::from_slice(&table.json().unwrap()).unwrap();
        assert_eq!(json["rows"][0]["buildroot"], 2.0);
        assert!(json["rows"][1]["buildroot"].is_null());
        fs::remove_file(path.join("buildroot/boot.json")).unwrap();
        assert!(of([&path.join("debian"), &path.join("buildroot")], Some(path)).is_err());
    }
}
