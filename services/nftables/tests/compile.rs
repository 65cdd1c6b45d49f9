//! What configurations compile to: nft takes the text, the kernel takes the messages, and both mean
//! the same. Needs root and nft.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "they fail the test")]

mod loaded;

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context, Result, ensure};
use portcullis_model::Document;
use portcullis_nftables::compile::{Compiled, Interface, Site, compile};

fn site(document: &Document) -> Result<Site> {
    let mut interfaces = Vec::new();
    for (name, addresses) in [
        ("wan", vec!["198.51.100.2/24", "2001:db8:1::2/64"]),
        ("lan", vec!["192.168.77.1/24", "2001:db8:77::1/64", "fe80::1/64"]),
        ("dmz", vec!["192.168.88.1/24"]),
    ] {
        let Some((name, interface)) =
            document.interfaces.iter().find(|(known, _)| known.as_str() == name)
        else {
            continue;
        };
        interfaces.push(Interface {
            name: name.clone(),
            device: format!("dev-{name}"),
            zone: interface.zone.clone(),
            addresses: addresses.into_iter().map(str::parse).collect::<Result<_, _>>()?,
        });
    }
    let bogons = ["10.0.0.0/8", "192.168.0.0/16", "198.51.100.0/24", "240.0.0.0/4", "::/3"];
    Ok(Site {
        interfaces,
        schedules: BTreeSet::from(["office".parse()?]),
        bogons: bogons.into_iter().map(str::parse).collect::<Result<_, _>>()?,
    })
}

fn compiled(text: &str) -> Result<Compiled> {
    let document = Document::parse(text)?;
    let problems = portcullis_model::validate::validate(&document);
    ensure!(problems.is_empty(), "{problems:?}");
    Ok(compile(&document.firewall, &site(&document)?))
}

#[test]
fn the_default_and_the_whole_mean_the_same_as_text_and_as_messages() -> Result<()> {
    for text in ["", include_str!("whole.toml")] {
        let Compiled { table, .. } = compiled(text)?;
        loaded::same_by_text_and_messages(&table)?;
    }
    Ok(())
}

#[test]
fn what_nftables_cannot_do_is_said() -> Result<()> {
    let Compiled { problems, .. } = compiled(include_str!("whole.toml"))?;
    ensure!(problems.len() == 6, "{problems:?}");
    ensure!(problems.iter().any(|problem| problem.contains("rule telephones: full_cone")));
    for what in ["hooks", "syn_cookies", "malformed", "flow_export", "log.flows"] {
        ensure!(problems.iter().any(|problem| problem.contains(what)), "{problems:?}");
    }
    Ok(())
}

/// A set of one entry in the place of another's would give hosts the address of others.
#[test]
fn every_pool_is_for_its_own_sources() -> Result<()> {
    let Compiled { table, .. } = compiled(
        r#"
        [[firewall.source_nat]]
        zone = "wan"
        sources = ["192.168.77.10", "192.168.77.20"]
        addresses = ["198.51.100.60"]
        [[firewall.source_nat]]
        zone = "wan"
        sources = ["192.168.77.30", "192.168.77.40"]
        addresses = ["198.51.100.70"]
        "#,
    )?;
    let text = table.to_string();
    let chain = text.split("chain source {").nth(1).context("the chain")?;
    for (pool, sources) in
        [("60", ["192.168.77.10", "192.168.77.20"]), ("70", ["192.168.77.30", "192.168.77.40"])]
    {
        let line = chain.lines().find(|line| line.contains(&format!("198.51.100.{pool}")));
        let line = line.with_context(|| format!("pool {pool} in {text}"))?;
        let set =
            line.rsplit('@').next().and_then(|rest| rest.split(' ').next()).context("a set")?;
        let set = text.split(&format!("set {set} {{")).nth(1).context("its set")?;
        let members = set.split('}').next().unwrap_or_default();
        ensure!(sources.iter().all(|one| members.contains(one)), "{line}: {members}");
    }
    loaded::same_by_text_and_messages(&table)
}

#[test]
fn what_stands_for_one_host_is_in_no_pool() -> Result<()> {
    let Compiled { table, problems } = compiled(
        r#"
        [[firewall.static_nat]]
        zone = "wan"
        external = "198.51.100.61"
        internal = "192.168.77.101"
        [[firewall.source_nat]]
        zone = "wan"
        addresses = ["198.51.100.60-198.51.100.63"]
        [[firewall.source_nat]]
        zone = "wan"
        addresses = ["198.51.100.61"]
        "#,
    )?;
    let text = table.to_string();
    for pool in ["snat ip to 198.51.100.60", "snat ip to 198.51.100.62-198.51.100.63"] {
        ensure!(text.contains(pool), "{pool} in {text}");
    }
    ensure!(!text.contains("snat ip to 198.51.100.61"), "{text}");
    ensure!(problems == ["source_nat 2: there is no address to take"], "{problems:?}");
    Ok(())
}

#[test]
fn ten_thousand_rules_are_compiled_and_in_force_within_seconds() -> Result<()> {
    use std::fmt::Write;

    let mut text = String::new();
    for number in 0..10_000_u32 {
        let [_, _, c, d] = number.to_be_bytes();
        writeln!(
            text,
            "[[firewall.rules]]\nname = \"r{number}\"\nfrom = \"lan\"\nto = \"wan\"\n\
             destinations = [\"203.{c}.{d}.0/24\"]\nprotocols = [\"tcp\"]\n\
             destination_ports = [\"{}-{}\"]\naction = \"deny\"",
            1000 + number,
            2000 + number
        )?;
    }
    let document = Document::parse(&text)?;
    let site = site(&document)?;
    let started = Instant::now();
    let Compiled { table, .. } = compile(&document.firewall, &site);
    let compiled = started.elapsed();
    let loaded = loaded::time_to_load(&table)?;
    let rules = table.chains.iter().find(|chain| chain.name == "forward.lan.wan");
    let rules = rules.context("the chain of the pair")?.rules.len();
    ensure!(rules > 10_000, "{rules}");
    // A debug build on a busy machine; what matters is that it does not grow with the square.
    ensure!(compiled.as_secs() < 60 && loaded.as_secs() < 60, "{compiled:?} {loaded:?}");
    Ok(())
}
