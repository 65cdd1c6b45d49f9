//! Sizes of the slot blob and its parts, with the bounds that the image builder states.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::{Report, Row};

/// Reads the builder's size report.
pub fn measure(image: &Path) -> Result<Report> {
    let path = image.join("size.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: run `make image` first", path.display()))?;
    let sizes: Value = serde_json::from_str(&text)?;
    let mib = |part: &Value, key: &str| {
        part.get(key).and_then(Value::as_f64).map(|bytes| bytes / f64::from(1 << 20))
    };
    let components = sizes.pointer("/components").and_then(Value::as_array);
    let mut rows = Vec::new();
    for part in components.with_context(|| format!("{}: no components", path.display()))? {
        let name = part.get("name").and_then(Value::as_str).context("component without name")?;
        let size = mib(part, "bytes").context("component without size")?;
        rows.push(match mib(part, "bound") {
            Some(bound) => Row::at_most(name, "MiB", size, bound),
            None => Row::figure(name, "MiB", size),
        });
    }
    Ok(Report { name: "size", rows })
}
