//! `log`: the journal, once or followed.

use std::io::Write;

use futures_util::StreamExt;
use portcullis_bus::{
    Error, connect_at,
    init::{InitBusProxy, JournalPage, JournalQuery, JournalRecord},
    peer::PeerError,
    socket_path,
};
use tokio::sync::watch;

use super::{Failure, READ_TIMEOUT, print_json_line};
use crate::{
    args::Level,
    text::{clean, time_ms},
};

/// Records per call while following.
const PAGE: u32 = 1000;

pub(super) struct Query<'a> {
    pub follow: bool,
    pub service: Option<&'a str>,
    pub level: Option<Level>,
}

pub(super) async fn run(
    query: Query<'_>,
    lines: u32,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let failed = |error| Failure::Peer(PeerError::new("init", error));
    let absent = |reason: String| PeerError::NotAnswering { service: "init", reason };
    let connection =
        tokio::time::timeout(READ_TIMEOUT, connect_at(&socket_path("init"), READ_TIMEOUT))
            .await
            .map_err(|_| absent(format!("nothing for {} s", READ_TIMEOUT.as_secs())))?
            .map_err(|error| match error {
                Error::Failed(reason) => absent(reason),
                error => PeerError::new("init", error),
            })?;
    let init = InitBusProxy::new(&connection).await.map_err(|e| failed(e.into()))?;
    // Subscribe first: a record between reading and subscribing would be late. A task takes the
    // signals, because zbus stops reading answers once its queue of signals is full, as it gets
    // while a slow terminal takes the output.
    let mut signals = init.receive_changed().await.map_err(|e| failed(e.into()))?;
    let (changed, mut changes) = watch::channel(());
    tokio::spawn(
        async move { while signals.next().await.is_some() && changed.send(()).is_ok() {} },
    );
    let ask = |after, limit| JournalQuery {
        after,
        limit,
        service: query.service.unwrap_or_default().to_owned(),
        level: query.level.map(Level::name).unwrap_or_default().to_owned(),
    };
    let mut page = init.journal(ask(0, lines)).await.map_err(failed)?;
    print(&page, json, out)?;
    if !query.follow {
        return Ok(());
    }
    loop {
        out.flush()?;
        // Full pages: there is more already.
        if page.records.len() < PAGE as usize && changes.changed().await.is_err() {
            return Err(absent("it closed the connection".to_owned()).into());
        }
        page = init.journal(ask(page.cursor, PAGE)).await.map_err(failed)?;
        print(&page, json, out)?;
    }
}

fn print(page: &JournalPage, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    for record in &page.records {
        if json {
            print_json_line(out, record)?;
        } else {
            writeln!(out, "{}", line(record))?;
        }
    }
    Ok(())
}

/// `2026-11-22 10:15:23.004 info  dhcp: lease given address=192.168.77.100`
fn line(record: &JournalRecord) -> String {
    let mut line = format!(
        "{} {:<5} {}: {}",
        time_ms(record.unix_ms),
        clean(&record.level),
        clean(&record.service),
        clean(&record.message)
    );
    if let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(&record.fields) {
        for (name, value) in &fields {
            let value = match value {
                serde_json::Value::String(text) => clean(text),
                other => clean(&other.to_string()),
            };
            line.push_str(&format!(" {}={value}", clean(name)));
        }
    }
    line
}
