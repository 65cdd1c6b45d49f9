//! `config`: show, status, check, apply.

use std::{io::Write, time::Duration};

use portcullis_bus::{
    Result,
    config::{ApplyReport, ConfigBusProxy, Problem},
    peer::{PeerError, call},
};

use super::{Failure, READ_TIMEOUT, print_json};
use crate::{
    args::ConfigCommand,
    text::{Table, clean, time},
};

/// Five services may take 20 s each over their parts.
pub(super) const APPLY_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) async fn run(
    command: &ConfigCommand,
    document: Option<String>,
    json: bool,
    out: &mut dyn Write,
) -> std::result::Result<(), Failure> {
    let document = document.unwrap_or_default();
    match command {
        ConfigCommand::Show => {
            let toml = config(READ_TIMEOUT, async |config| config.document().await).await?;
            if json {
                let document = portcullis_model::Document::parse(&toml).map_err(|error| {
                    PeerError::Refused { service: "config", message: error.to_string() }
                })?;
                print_json(out, &document)
            } else {
                Ok(write!(out, "{toml}")?)
            }
        }
        ConfigCommand::Status => {
            let status = config(READ_TIMEOUT, async |config| config.status().await).await?;
            if json {
                return print_json(out, &status);
            }
            writeln!(out, "Generation  {}", status.generation)?;
            writeln!(out, "Source      {}", clean(&status.source))?;
            writeln!(out, "Since       {} UTC", time(status.since_unix_s))?;
            if !status.problem.is_empty() {
                writeln!(out, "Problem     {}", clean(&status.problem))?;
            }
            Ok(())
        }
        ConfigCommand::Check { .. } => {
            let problems =
                config(READ_TIMEOUT, async |config| config.check(document).await).await?;
            if json {
                print_json(out, &problems)?;
            } else if problems.is_empty() {
                writeln!(out, "valid")?;
            }
            refuse(&problems, json, out)
        }
        ConfigCommand::Apply { .. } => {
            let report = config(APPLY_TIMEOUT, async |config| config.apply(document).await).await?;
            if json {
                print_json(out, &report)?;
            }
            applied(&report, json, out)
        }
    }
}

pub(super) fn applied(
    report: &ApplyReport,
    json: bool,
    out: &mut dyn Write,
) -> std::result::Result<(), Failure> {
    if !report.accepted {
        return refuse(&report.problems, json, out);
    }
    let refused: Vec<_> =
        report.services.iter().filter(|s| !s.applied).map(|s| s.service.clone()).collect();
    if !json {
        writeln!(out, "in force as generation {}", report.generation)?;
        if report.services.is_empty() {
            writeln!(out, "no service is concerned")?;
        } else {
            let mut table = Table::new(&["SERVICE", "APPLIED", "REMARK"]);
            for outcome in &report.services {
                let applied = if outcome.applied { "yes" } else { "NO" };
                table.row([outcome.service.as_str(), applied, outcome.message.as_str()]);
            }
            write!(out, "{}", table.render())?;
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Failure::NotEverywhere(refused)) }
}

pub(super) fn refuse(
    problems: &[Problem],
    json: bool,
    out: &mut dyn Write,
) -> std::result::Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    if !json {
        for problem in problems {
            let path = if problem.path.is_empty() { "document" } else { &problem.path };
            writeln!(out, "{}: {}", clean(path), clean(&problem.message))?;
        }
    }
    Err(Failure::Invalid(problems.len()))
}

pub(super) async fn config<T, F>(limit: Duration, ask: F) -> std::result::Result<T, PeerError>
where
    F: AsyncFnOnce(ConfigBusProxy<'static>) -> Result<T>,
{
    call("config", limit, async |connection| ask(ConfigBusProxy::new(&connection).await?).await)
        .await
}
