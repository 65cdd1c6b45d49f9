//! `firewall`: show, import, explain, check, reevaluate, purge.

use std::{io::Write, time::Duration};

use portcullis_bus::{config::Problem, peer::PeerError};
use portcullis_model::{Document, Firewall};
use portcullis_policy::import as policy;
use serde::Serialize;

use super::{
    Failure, READ_TIMEOUT,
    config::{APPLY_TIMEOUT, applied, config, refuse},
    done, firewall, print_json,
};
use crate::{
    args::{FirewallCommand, Format, Source},
    text::clean,
};

/// A pass over a million flows takes this long at most.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn run(
    command: &FirewallCommand,
    document: Option<String>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        FirewallCommand::Show { format } => show(*format, json, out).await,
        FirewallCommand::Import { file, check, replace } => {
            let format = match file {
                Source::StandardInput => policy::Format::Yaml,
                Source::File(path) => policy::Format::of(&path.to_string_lossy()),
            };
            let mode = if *replace { policy::Mode::Replace } else { policy::Mode::Merge };
            let text = document.unwrap_or_default();
            import(&text, format, mode, *check, json, out).await
        }
        FirewallCommand::Explain { packet } => explain(packet.join(" "), json, out).await,
        FirewallCommand::Check => check(json, out).await,
        FirewallCommand::Reevaluate => {
            let ended =
                firewall(PASS_TIMEOUT, async |firewall| firewall.reevaluate().await).await?;
            done(json, out, &format!("{} ended", flows(ended)))
        }
        FirewallCommand::Purge { addresses } => {
            let what = addresses.clone();
            let ended = firewall(PASS_TIMEOUT, async |firewall| firewall.purge(what).await).await?;
            done(json, out, &format!("{} of {addresses} ended", flows(ended)))
        }
    }
}

/// `1 flow`, `3 flows`
fn flows(count: u64) -> String {
    format!("{count} flow{}", if count == 1 { "" } else { "s" })
}

/// The table of the document, with its name.
#[derive(Serialize)]
struct Section<'a> {
    firewall: &'a Firewall,
}

async fn show(format: Format, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if format == Format::Nft {
        let ruleset = firewall(READ_TIMEOUT, async |firewall| firewall.nftables().await).await?;
        return if json {
            print_json(out, &serde_json::json!({ "nft": ruleset }))
        } else {
            Ok(write!(out, "{ruleset}")?)
        };
    }
    let document = document().await?;
    if format == Format::Yaml && !json {
        let text = policy::export(&document.firewall, policy::Format::Yaml)
            .map_err(|error| refused(error.to_string()))?;
        return Ok(write!(out, "{text}")?);
    }
    let section = Section { firewall: &document.firewall };
    if json || format == Format::Json {
        return print_json(out, &section);
    }
    let text = toml::to_string(&section).map_err(|error| refused(error.to_string()))?;
    Ok(write!(out, "{text}")?)
}

/// The document in force.
async fn document() -> Result<Document, Failure> {
    let text = config(READ_TIMEOUT, async |config| config.document().await).await?;
    Ok(Document::parse(&text).map_err(|error| refused(error.to_string()))?)
}

fn refused(message: String) -> PeerError {
    PeerError::Refused { service: "config", message }
}

async fn import(
    text: &str,
    format: policy::Format,
    mode: policy::Mode,
    check: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let imported = match policy::import(text, format, mode, &document().await?) {
        Ok(document) => document,
        Err(errors) => {
            let problem =
                |error: policy::ImportError| Problem { path: error.path, message: error.message };
            let problems: Vec<_> = errors.into_iter().map(problem).collect();
            if json {
                print_json(out, &problems)?;
            }
            return refuse(&problems, json, out);
        }
    };
    let document = imported.to_toml().map_err(|error| refused(error.to_string()))?;
    if check {
        let problems = config(READ_TIMEOUT, async |config| config.check(document).await).await?;
        if json {
            print_json(out, &problems)?;
        } else if problems.is_empty() {
            writeln!(out, "valid; nothing was changed")?;
        }
        return refuse(&problems, json, out);
    }
    let report = config(APPLY_TIMEOUT, async |config| config.apply(document).await).await?;
    if json {
        print_json(out, &report)?;
    }
    applied(&report, json, out)
}

async fn check(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let found = firewall(READ_TIMEOUT, async |firewall| firewall.findings().await).await?;
    if json {
        return print_json(out, &found);
    }
    for finding in &found {
        writeln!(out, "{}", clean(&finding.message))?;
    }
    if found.iter().all(|finding| finding.kind == "merged") {
        writeln!(out, "Every rule decides about something.")?;
    }
    Ok(())
}

async fn explain(packet: String, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let answer = firewall(READ_TIMEOUT, async |firewall| firewall.explain(packet).await).await?;
    if json {
        return print_json(out, &answer);
    }
    for step in &answer.steps {
        writeln!(out, "{}", clean(step))?;
    }
    let zones = if answer.to_zone.is_empty() {
        format!("from {}", answer.from_zone)
    } else {
        format!("from {} to {}", answer.from_zone, answer.to_zone)
    };
    let rule = if answer.rule.is_empty() {
        "no rule fits".to_owned()
    } else {
        format!("rule `{}`", answer.rule)
    };
    Ok(writeln!(out, "{}: {} ({})", clean(&answer.verdict), clean(&zones), clean(&rule))?)
}
