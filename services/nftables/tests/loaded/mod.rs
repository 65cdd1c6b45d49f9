//! Loading a table, and reading back what the kernel made of it.
#![allow(dead_code, reason = "each test uses its part")]

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use portcullis_netns::Namespace;
use portcullis_nftables::{kernel::Netfilter, ruleset::Table, text};
use serde_json::Value as Json;

/// What nft reads back, without the kernel's numbers and in an order of its own: that of elements
/// is by a random hash.
pub fn listed(namespace: &Namespace) -> Result<Json> {
    let mut list: Json = serde_json::from_str(&namespace.run("nft -j list ruleset")?)?;
    tidy(&mut list);
    Ok(list)
}

fn tidy(json: &mut Json) {
    match json {
        Json::Object(object) => {
            object.remove("handle");
            object.remove("metainfo");
            object.values_mut().for_each(tidy);
            if let Some(Json::Array(elements)) = object.get_mut("elem") {
                elements.sort_by_key(ToString::to_string);
            }
        }
        Json::Array(array) => array.iter_mut().for_each(tidy),
        _ => {}
    }
}

pub fn by_text(namespace: &Namespace, table: &Table) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text::script(table).as_bytes())?;
    namespace.run(&format!("nft -f {}", file.path().display())).map(drop)
}

pub fn by_messages(namespace: &Namespace, table: Table) -> Result<()> {
    namespace.enter(|| Ok(Netfilter::open()?.replace(table)?))
}

pub fn same_by_text_and_messages(table: &Table) -> Result<()> {
    let (text, messages) = (Namespace::new("nfttext")?, Namespace::new("nftmsg")?);
    by_text(&text, table)?;
    by_messages(&messages, table.clone())?;
    let (text, messages) = (entries(&listed(&text)?), entries(&listed(&messages)?));
    for (text, messages) in text.iter().zip(&messages) {
        ensure!(text == messages, "by text:\n{text:#}\nby messages:\n{messages:#}");
    }
    let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
    let all = 1 + table.counters.len() + table.sets.len() + table.chains.len() + rules;
    ensure!(text.len() == all && messages.len() == all, "{} {} {all}", text.len(), messages.len());
    Ok(())
}

fn entries(list: &Json) -> Vec<Json> {
    let all = list.get("nftables").and_then(Json::as_array).into_iter().flatten();
    all.filter(|entry| {
        entry.as_object().is_some_and(|entry| !entry.contains_key("metainfo") && !entry.is_empty())
    })
    .cloned()
    .collect()
}

pub fn time_to_load(table: &Table) -> Result<Duration> {
    let namespace = Namespace::new("nfttime")?;
    let table = table.clone();
    let started = Instant::now();
    by_messages(&namespace, table)?;
    Ok(started.elapsed())
}
