//! What the journal's thread does: keeps records in memory until the disk has them, and answers
//! queries over both.

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use portcullis_bus::init::{JournalPage, JournalQuery};

use super::{Level, Limits, Record, Store};

/// Most records that wait in memory for a disk.
const IN_MEMORY: usize = 2048;

/// Pause after the disk refused records.
const RETRY: Duration = Duration::from_secs(5);

/// Records of a page at most.
const PAGE: u32 = 1000;

/// The journal's state.
#[derive(Debug)]
pub struct Writer {
    store: Option<Store>,
    /// Records that are not on disk.
    waiting: VecDeque<Record>,
    /// Of `waiting`, how many gave way.
    lost: u64,
    next: u64,
    failed_at: Option<Instant>,
    unsynced: Option<Instant>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            store: None,
            waiting: VecDeque::new(),
            lost: 0,
            next: 1,
            failed_at: None,
            unsynced: None,
        }
    }
}

impl Writer {
    /// Adds a record.
    pub fn append(&mut self, mut record: Record) {
        record.cursor = self.next;
        self.next = self.next.saturating_add(1);
        if self.waiting.len() >= IN_MEMORY {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(record);
    }

    /// Cursor of the newest record; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Goes on in `folder`.
    pub fn open(&mut self, folder: PathBuf, limits: Limits) {
        match Store::open(folder, limits) {
            Ok(store) => {
                // Records from before the disk was there follow those of the last boot.
                self.next = store.next();
                for record in &mut self.waiting {
                    record.cursor = self.next;
                    self.next = self.next.saturating_add(1);
                }
                self.store = Some(store);
                self.failed_at = None;
            }
            Err(error) => self
                .append(Record::of_init(Level::Error, format!("journal stays in memory: {error}"))),
        }
    }

    /// Hands what waits to the disk.
    pub fn flush(&mut self) {
        let Some(store) = &mut self.store else { return };
        if self.waiting.is_empty() || self.failed_at.is_some_and(|t| t.elapsed() < RETRY) {
            return;
        }
        match store.append(self.waiting.make_contiguous()) {
            Ok(()) => {
                self.next = store.next();
                self.waiting.clear();
                self.unsynced.get_or_insert_with(Instant::now);
                if self.failed_at.take().is_some() {
                    let lost = std::mem::take(&mut self.lost);
                    self.append(Record::of_init(
                        Level::Warn,
                        format!("journal is written again; {lost} records were lost"),
                    ));
                }
            }
            Err(error) => {
                if self.failed_at.replace(Instant::now()).is_none() {
                    self.append(Record::of_init(
                        Level::Error,
                        format!("journal stays in memory: cannot be written: {error}"),
                    ));
                }
            }
        }
    }

    /// Brings what was written longer than `age` ago onto the disk.
    pub fn sync(&mut self, age: Duration) {
        if self.unsynced.is_some_and(|t| t.elapsed() >= age) {
            self.unsynced = None;
            if let Some(Err(error)) = self.store.as_ref().map(Store::sync) {
                self.append(Record::of_init(Level::Error, format!("journal: {error}")));
            }
        }
    }

    /// Brings everything to the disk and lets go of it.
    pub fn close(&mut self) {
        self.failed_at = None;
        self.flush();
        self.sync(Duration::ZERO);
        self.store = None;
    }

    /// Answers a query.
    ///
    /// # Errors
    /// What is wrong with the query and what is allowed, or what the disk said.
    pub fn query(&self, query: &JournalQuery) -> Result<JournalPage, String> {
        if query.limit == 0 || query.limit > PAGE {
            return Err(format!("limit: {} is out of range; allowed: 1 to {PAGE}", query.limit));
        }
        let least = match query.level.as_str() {
            "" => Level::Trace,
            name => Level::from_name(name).ok_or_else(|| {
                let allowed = Level::ALL.map(Level::name).join(", ");
                format!("level: `{name}` is unknown; allowed: {allowed}")
            })?,
        };
        let wanted = |record: &Record| {
            record.level <= least && (query.service.is_empty() || record.service == query.service)
        };
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let mut found = VecDeque::new();
        if query.after == 0 {
            let mut take = |record: Record| {
                if wanted(&record) {
                    found.push_front(record.to_bus());
                }
                found.len() < limit
            };
            if self.waiting.iter().rev().cloned().all(&mut take)
                && let Some(store) = &self.store
            {
                store.read_newest(take).map_err(|e| e.to_string())?;
            }
            return Ok(JournalPage { records: found.into(), cursor: self.newest() });
        }
        let mut cursor = query.after.min(self.newest());
        let mut take = |record: Record| {
            cursor = record.cursor;
            if wanted(&record) {
                found.push_back(record.to_bus());
            }
            found.len() < limit
        };
        let mut more = true;
        if let Some(store) = &self.store {
            let on_disk = |record| {
                more = take(record);
                more
            };
            store.read_after(query.after, on_disk).map_err(|e| e.to_string())?;
        }
        if more {
            self.waiting.iter().filter(|r| r.cursor > query.after).cloned().all(take);
        }
        Ok(JournalPage { records: found.into(), cursor })
    }
}
