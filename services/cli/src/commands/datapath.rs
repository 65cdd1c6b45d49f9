//! `datapath`, `drops`: the packet path from outside.

use std::{collections::BTreeMap, io::Write, time::Duration};

use portcullis_bus::firewall::{Attachment, Counter, DatapathStatus, DropCount};
use serde::Serialize;

use super::{Failure, READ_TIMEOUT, firewall, print_json, print_json_line};
use crate::text::{Table, bytes, clean, or_dash};

/// Time between two looks of `drops --watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// What `datapath` shows.
#[derive(Debug, Serialize)]
struct Page {
    status: DatapathStatus,
    attachments: Vec<Attachment>,
    /// Counters of dropped packets that are not zero.
    drops: Vec<Counter>,
}

pub(super) async fn show(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let mut page = firewall(READ_TIMEOUT, async |firewall| {
        Ok(Page {
            status: firewall.datapath().await?,
            attachments: firewall.attachments().await?,
            drops: firewall.counters().await?,
        })
    })
    .await?;
    page.drops.retain(|counter| counter.name.starts_with("drop.") && counter.packets != 0);
    page.drops.sort_by_key(|counter| std::cmp::Reverse(counter.packets));
    if json { print_json(out, &page) } else { Ok(write!(out, "{}", render(&page))?) }
}

fn render(page: &Page) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        text.push_str(format!("{label:<12}{}", clean(value)).trim_end());
        text.push('\n');
    };
    let status = &page.status;
    line("Datapath", &status.kind);
    line("Flows", &used(status.flows, status.flow_capacity));
    line("Mappings", &used(status.mappings, status.mapping_capacity));
    line("Index", &used(status.index_entries, status.index_capacity));
    line(
        "Policy",
        &format!(
            "{} rules in bank {}, routes {}",
            status.rules, status.bank, status.route_generation
        ),
    );
    if status.programs < status.programs_wanted {
        line(
            "Programs",
            &format!(
                "{} of {} loaded; what needs the others is dropped until they are",
                status.programs, status.programs_wanted
            ),
        );
    }
    let dropped: u64 = page.drops.iter().map(|counter| counter.packets).sum();
    let most: Vec<_> =
        page.drops.iter().take(3).map(|c| format!("{} {}", c.name, c.packets)).collect();
    if most.is_empty() {
        line("Dropped", "nothing");
    } else {
        line("Dropped", &format!("{dropped} packets: {}", most.join(", ")));
    }
    for problem in &status.problems {
        line("Problem", problem);
    }
    text.push('\n');
    let mut table =
        Table::new(&["INTERFACE", "DEVICE", "HOOK", "WANTED", ">PROGRAM", "WHY THIS HOOK"]);
    for attachment in &page.attachments {
        table.row([
            or_dash(Some(&attachment.interface)),
            attachment.device.as_str(),
            attachment.hook.as_str(),
            or_dash(Some(&attachment.wanted)),
            &attachment.program_id.to_string(),
            attachment.reason.as_str(),
        ]);
    }
    text.push_str(&table.render());
    text
}

/// `214 of 65536 (0 %)`
fn used(count: u64, capacity: u64) -> String {
    let percent = (count.saturating_mul(100)).checked_div(capacity).unwrap_or_default();
    format!("{count} of {capacity} ({percent} %)")
}

pub(super) async fn drops(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let drops = firewall(READ_TIMEOUT, async |firewall| firewall.drops().await).await?;
    if json {
        return print_json(out, &drops);
    }
    if drops.is_empty() {
        return Ok(writeln!(out, "nothing was dropped")?);
    }
    Ok(write!(out, "{}", table(&drops))?)
}

fn table(drops: &[DropCount]) -> String {
    let mut table = Table::new(&["REASON", "FROM", "TO", ">PACKETS", ">BYTES", "WHAT IT MEANS"]);
    for drop in drops {
        table.row([
            drop.reason.as_str(),
            or_dash(Some(&drop.from_zone)),
            or_dash(Some(&drop.to_zone)),
            &drop.packets.to_string(),
            &bytes(drop.bytes),
            drop.description.as_str(),
        ]);
    }
    table.render()
}

/// Prints what is new, for ever; as JSON one array in a line for each period with news.
pub(super) async fn watch_drops(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let mut before: Option<Vec<DropCount>> = None;
    loop {
        let now = firewall(READ_TIMEOUT, async |firewall| firewall.drops().await).await?;
        if let Some(before) = &before {
            let news = increase(before, &now);
            if json && !news.is_empty() {
                print_json_line(out, &news)?;
            } else if !news.is_empty() {
                writeln!(out, "{}", table(&news))?;
            }
            out.flush()?;
        }
        before = Some(now);
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}

/// What of `now` was not there `before`.
fn increase(before: &[DropCount], now: &[DropCount]) -> Vec<DropCount> {
    let key =
        |drop: &DropCount| (drop.reason.clone(), drop.from_zone.clone(), drop.to_zone.clone());
    let before: BTreeMap<_, _> = before.iter().map(|drop| (key(drop), drop)).collect();
    let mut news: Vec<_> = now
        .iter()
        .map(|drop| {
            // Counts begin anew when the datapath is loaded anew.
            let old = before.get(&key(drop)).filter(|old| old.packets <= drop.packets);
            let (packets, bytes) = old.map_or((0, 0), |old| (old.packets, old.bytes));
            DropCount {
                packets: drop.packets - packets,
                bytes: drop.bytes.saturating_sub(bytes),
                ..drop.clone()
            }
        })
        .filter(|drop| drop.packets != 0)
        .collect();
    news.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop(reason: &str, packets: u64) -> DropCount {
        DropCount { reason: reason.into(), packets, bytes: packets * 60, ..DropCount::default() }
    }

    #[test]
    fn watching_shows_what_is_new() {
        let before = [drop("drop.policy", 100), drop("drop.ttl", 7), drop("drop.full", 50)];
        let now = [
            drop("drop.policy", 103),
            drop("drop.ttl", 7),
            drop("drop.malformed", 9),
            // Loaded anew meanwhile.
            drop("drop.full", 2),
        ];
        let news: Vec<_> =
            increase(&before, &now).into_iter().map(|d| (d.reason, d.packets, d.bytes)).collect();
        assert_eq!(
            news,
            [
                ("drop.malformed".to_owned(), 9, 540),
                ("drop.policy".to_owned(), 3, 180),
                ("drop.full".to_owned(), 2, 120),
            ]
        );
    }

    #[test]
    fn an_empty_table_is_zero_percent_full() {
        assert_eq!(used(0, 0), "0 of 0 (0 %)");
        assert_eq!(used(50, 200), "50 of 200 (25 %)");
    }
}
