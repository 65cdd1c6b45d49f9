//! The answers of `docs/kernel.md` to the findings of kernel-hardening-checker.
//!
//! The checker compares a configuration with the recommendations of the Kernel Self Protection Project and others. Where
//! we do otherwise the page says why, in a table whose first column names the option; a finding without an answer, and
//! an answer without a finding, are errors.

use anyhow::{Context, Result};
use portcullis_image::tool::Tool;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PYTHON: Tool = Tool { program: "python3", package: "python3" };

/// A line of the checker's JSON output.
#[derive(Debug, Deserialize)]
struct Line {
    option_name: String,
    check_result: String,
    check_result_bool: bool,
}

/// What the checker said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Number of recommendations that are met.
    pub met: usize,
    /// Options where they are not, without `CONFIG_`, and what the checker says.
    pub failed: BTreeMap<String, String>,
}

/// Runs the checker in the folder `checker` (a checkout of its repository) on a `.config`.
///
/// # Errors
/// When it cannot be run or says something that is not understood.
pub fn examine(checker: &Path, config: &Path) -> Result<Findings> {
    let mut command = PYTHON.command([checker.join("bin/kernel-hardening-checker")]);
    command.args(["-m", "json", "-c"]).arg(config);
    parse(&PYTHON.text(command)?)
}

fn parse(json: &str) -> Result<Findings> {
    let lines: Vec<Line> = serde_json::from_str(json)
        .context("kernel-hardening-checker printed something that is not its JSON")?;
    let mut findings = Findings::default();
    for line in lines {
        if line.check_result_bool {
            findings.met = findings.met.saturating_add(1);
            continue;
        }
        let option = line.option_name.strip_prefix("CONFIG_").unwrap_or(&line.option_name);
        findings.failed.insert(option.to_owned(), line.check_result);
    }
    Ok(findings)
}

/// The options that the page answers for `architecture`: names in backquotes in the first cell of rows of the table
/// below a heading that begins with "Findings". `NAME (aarch64)` counts for that architecture alone.
pub fn answered(page: &str, architecture: &str) -> BTreeSet<String> {
    let section = page.lines().skip_while(|line| !is_heading(line, "Findings")).skip(1);
    let rows = section.take_while(|line| !line.starts_with('#')).filter_map(|line| {
        let (cell, answer) = line.strip_prefix('|')?.split_once('|')?;
        (!answer.trim_matches(['|', ' ']).is_empty()).then_some(cell)
    });
    rows.flat_map(|cell| cell.split(','))
        .filter_map(|name| {
            let (option, rest) = name.trim().strip_prefix('`')?.split_once('`')?;
            let only = rest.trim().trim_matches(['(', ')']);
            (only.is_empty() || only == architecture).then(|| option.to_owned())
        })
        .collect()
}

fn is_heading(line: &str, start: &str) -> bool {
    line.starts_with('#') && line.trim_start_matches('#').trim_start().starts_with(start)
}

/// What is wrong between findings and answers, a line each.
pub fn compare(findings: &Findings, answered: &BTreeSet<String>) -> Vec<String> {
    let unanswered = findings.failed.iter().filter(|(option, _)| !answered.contains(*option));
    let stale = answered.iter().filter(|option| !findings.failed.contains_key(*option));
    unanswered
        .map(|(option, result)| format!("{option} has no answer in docs/kernel.md: {result}"))
        .chain(stale.map(|option| format!("{option} is answered in docs/kernel.md but not found")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{answered, compare, parse};
    use std::collections::BTreeSet;

    const JSON: &str = r#"[
        {"option_name": "CONFIG_BUG", "type": "kconfig", "check_result": "OK", "check_result_bool": true},
        {"option_name": "CONFIG_FB", "check_result": "FAIL: \"y\"", "check_result_bool": false}]"#;
    const PAGE: &str = "# Kernel\n| `NO` | x |\n\n## Findings and answers\n\n| option | why |\n|---|---|\n\
        | `FB`, `VT` | console |\n| `MTE` (aarch64) | slow |\n| `EMPTY` | |\n\n## Else\n| `NO` | x |\n";

    #[test]
    fn findings_and_answers_are_held_against_each_other() {
        let findings = parse(JSON).unwrap();
        assert_eq!((findings.met, findings.failed.len()), (1, 1));
        assert!(parse("Traceback").is_err());

        let answers = answered(PAGE, "x86_64");
        assert_eq!(answers, BTreeSet::from(["FB".to_owned(), "VT".to_owned()]));
        assert_eq!(
            compare(&findings, &answers),
            ["VT is answered in docs/kernel.md but not found"]
        );
        let none = BTreeSet::new();
        assert_eq!(compare(&findings, &none), ["FB has no answer in docs/kernel.md: FAIL: \"y\""]);
        assert!(answered(PAGE, "aarch64").contains("MTE"));
    }
}
