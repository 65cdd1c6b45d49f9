//! Sizes of the slot blob and its parts.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::{Report, Row};

/// Most MiB of the slot blob.
const BLOB_BOUND_MIB: f64 = 48.0;
/// Most MiB of the multi-call binary.
const BINARY_BOUND_MIB: f64 = 16.0;

/// Reads the builder's size report.
pub fn measure(image: &Path) -> Result<Report> {
    let path = image.join("size.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: run `make image` first", path.display()))?;
    let sizes: Value = serde_json::from_str(&text)?;
    let mut rows = Vec::new();
    for part in sizes.as_array().context("size.json is not a list")? {
        let name = part.get("name").and_then(Value::as_str).context("name")?;
        let mib = part.get("bytes").and_then(Value::as_f64).context("bytes")? / f64::from(1 << 20);
        rows.push(match name {
            "slot blob" => Row::at_most(name, "MiB", mib, BLOB_BOUND_MIB),
            "multi-call binary" => Row::at_most(name, "MiB", mib, BINARY_BOUND_MIB),
            _ => Row::figure(name, "MiB", mib),
        });
    }
    Ok(Report { name: "size", rows })
}
