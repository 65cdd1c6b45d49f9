//! The kernel takes our messages, and understands by them what it understands by our text. Needs
//! root and nft.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "they fail the test")]

mod loaded;
mod sample;

use anyhow::{Context, Result, ensure};
use loaded::{by_messages, listed};
use portcullis_netns::Namespace;
use portcullis_nftables::{
    kernel::{KernelError, Netfilter},
    ruleset::{Counter, Element, Set, Statement, Table, Type, Value, Verdict},
};
use serde_json::json;

#[test]
fn text_and_messages_mean_the_same() -> Result<()> {
    loaded::same_by_text_and_messages(&sample::table())
}

#[test]
fn a_table_is_replaced_whole_and_its_counters_go_on() -> Result<()> {
    let namespace = Namespace::new("nftrepl")?;
    by_messages(&namespace, sample::table())?;
    let mut other = Table { name: sample::NAME.to_owned(), ..Table::default() };
    let counter = |name: &str| Counter { name: name.to_owned(), packets: 0, bytes: 0 };
    other.counters = vec![counter("drop.policy.lan.wan"), counter("new")];
    by_messages(&namespace, other)?;
    let counters = namespace.enter(|| Ok(Netfilter::open()?.counters(sample::NAME)?))?;
    let known = counters.iter().find(|one| one.name == "drop.policy.lan.wan");
    ensure!(known.is_some_and(|one| one.packets == 5 && one.bytes == 7), "{counters:?}");
    let list = namespace.run("nft list ruleset")?;
    ensure!(!list.contains("chain") && list.contains("counter new"), "{list}");
    // Also what nothing counts into at the moment.
    ensure!(list.contains("counter forwarded"), "{list}");

    namespace.enter(|| Ok(Netfilter::open()?.delete(sample::NAME)?))?;
    ensure!(namespace.run("nft list ruleset")?.is_empty());
    // Of a table that is not there: nothing to do, nothing to count.
    namespace.enter(|| {
        let netfilter = Netfilter::open()?;
        netfilter.delete(sample::NAME)?;
        ensure!(netfilter.counters(sample::NAME)?.is_empty());
        Ok(())
    })
}

#[test]
fn what_the_kernel_refuses_is_named_and_changes_nothing() -> Result<()> {
    let namespace = Namespace::new("nftbad")?;
    by_messages(&namespace, sample::table())?;
    let before = listed(&namespace)?;
    let mut wrong = sample::table();
    let rules = &mut wrong.chains[0].rules;
    rules[3].0 = vec![Statement::Verdict(Verdict::Jump("nowhere".to_owned()))];
    namespace.enter(|| {
        let netfilter = Netfilter::open()?;
        match netfilter.replace(wrong) {
            Err(KernelError::Refused { what, .. }) => {
                ensure!(what == "rule 4 of the chain forward", "{what}");
            }
            other => ensure!(false, "{other:?}"),
        }
        // The socket is of use afterwards.
        netfilter.replace(sample::table())?;
        Ok(())
    })?;
    ensure!(listed(&namespace)? == before);
    Ok(())
}

#[test]
fn sets_of_a_hundred_thousand_prefixes_are_taken() -> Result<()> {
    let namespace = Namespace::new("nftbig")?;
    let mut table = Table { name: sample::NAME.to_owned(), ..Table::default() };
    let ranges = (0..100_000_u32).map(|number| {
        let first = 0x0100_0000 + number * 512;
        (Value::Ipv4(first.into()), Value::Ipv4((first + 255).into()))
    });
    table.sets.push(Set::intervals("many".to_owned(), Type::Ipv4, ranges));
    by_messages(&namespace, table)?;
    let list = listed(&namespace)?;
    let set = list["nftables"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["set"] != json!(null)));
    let elements = set.and_then(|one| one["set"]["elem"].as_array()).context("elements")?;
    ensure!(elements.len() == 100_000, "{} elements", elements.len());
    Ok(())
}

#[test]
fn elements_are_as_they_were_given() {
    let range = (Value::Port(1), Value::Port(u16::MAX));
    let set = Set::intervals("all".to_owned(), Type::Port, [range.clone()]);
    assert_eq!(set.elements, [Element::Range(range.0, range.1)]);
}
