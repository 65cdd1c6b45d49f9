//! `firewall`: show, explain, reevaluate, purge.

use std::{io::Write, time::Duration};

use portcullis_bus::{
    config::ConfigBusProxy,
    peer::{PeerError, call},
};
use portcullis_model::{Document, Firewall};
use serde::Serialize;

use super::{Failure, READ_TIMEOUT, done, firewall, print_json};
use crate::{
    args::{FirewallCommand, Format},
    text::clean,
};

/// A pass over a million flows takes this long at most.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn run(
    command: &FirewallCommand,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        FirewallCommand::Show { format } => show(*format, json, out).await,
        FirewallCommand::Explain { packet } => explain(packet.join(" "), json, out).await,
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
    let document = call("config", READ_TIMEOUT, async |connection| {
        ConfigBusProxy::new(&connection).await?.document().await
    })
    .await?;
    let refused = |message: String| PeerError::Refused { service: "config", message };
    let document = Document::parse(&document).map_err(|error| refused(error.to_string()))?;
    let section = Section { firewall: &document.firewall };
    if json || format == Format::Json {
        return print_json(out, &section);
    }
    let text = toml::to_string(&section).map_err(|error| refused(error.to_string()))?;
    Ok(write!(out, "{text}")?)
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
