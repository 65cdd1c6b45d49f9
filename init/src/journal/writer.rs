//! What the journal's thread does: keeps records in memory until the disk has them, and answers
//! queries over both.

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use portcullis_bus::init::{JournalPage, JournalQuery};

use super::{Level, Limits, Record, Store};

/// Most records that wait in memory for a disk, and their bytes.
const IN_MEMORY: usize = 2048;
const BYTES_IN_MEMORY: usize = 2 << 20;

/// Pause after the disk refused records.
const RETRY: Duration = Duration::from_secs(5);

/// Records of a page at most, and the bytes after which it is full: the whole of it is in memory
/// several times while it is sent.
const PAGE: u32 = 1000;
const PAGE_BYTES: usize = 1 << 20;

/// The journal's state.
#[derive(Debug)]
pub struct Writer {
    store: Option<Store>,
    /// Records that are not on disk.
    waiting: VecDeque<Record>,
    /// What they take in memory.
    waiting_bytes: usize,
    /// How many gave way and were not told yet.
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
            waiting_bytes: 0,
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
        if self.is_full(&record) {
            self.flush();
        }
        record.cursor = self.next;
        self.next = self.next.saturating_add(1);
        while self.is_full(&record)
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.waiting_bytes -= oldest.size();
            self.lost += 1;
        }
        self.push(record);
    }

    fn is_full(&self, record: &Record) -> bool {
        self.waiting.len() >= IN_MEMORY || self.waiting_bytes + record.size() > BYTES_IN_MEMORY
    }

    fn push(&mut self, record: Record) {
        self.waiting_bytes += record.size();
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
        let mut failure = None;
        while !self.waiting.is_empty() {
            match store.append(self.waiting.make_contiguous()) {
                Ok(count) => {
                    let kept: usize = self.waiting.drain(..count).map(|r| r.size()).sum();
                    self.waiting_bytes -= kept;
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if self.waiting.is_empty() {
            self.unsynced.get_or_insert_with(Instant::now);
        }
        match failure {
            None => {
                let failed = self.failed_at.take().is_some();
                let lost = std::mem::take(&mut self.lost);
                if failed || lost > 0 {
                    self.add_own(
                        Level::Warn,
                        format!("journal is written again; {lost} records were lost"),
                    );
                }
            }
            Some(error) => {
                if self.failed_at.replace(Instant::now()).is_none() {
                    self.add_own(
                        Level::Error,
                        format!("journal stays in memory: cannot be written: {error}"),
                    );
                }
            }
        }
    }

    /// Adds a record about the journal, whatever room there is.
    fn add_own(&mut self, level: Level, text: String) {
        let record = Record { cursor: self.next, ..Record::of_init(level, text) };
        self.next = self.next.saturating_add(1);
        self.push(record);
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
        let mut bytes = 0;
        if query.after == 0 {
            let mut take = |record: Record| {
                if wanted(&record) {
                    bytes += record.size();
                    found.push_front(record.to_bus());
                }
                found.len() < limit && bytes < PAGE_BYTES
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
                bytes += record.size();
                found.push_back(record.to_bus());
            }
            found.len() < limit && bytes < PAGE_BYTES
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::journal::record::parse_line;

    #[test]
    fn what_waits_in_memory_is_bounded_in_bytes() {
        let mut writer = Writer::default();
        // Small on the wire, and large as values.
        let objects = vec!["{\"\":0}"; 1000].join(",");
        let line = format!("{{\"message\":\"x\",\"a\":[{objects}]}}");
        for _ in 0..2000 {
            writer.append(parse_line("a", &line, 1));
        }
        let bytes: usize = writer.waiting.iter().map(Record::size).sum();
        assert_eq!(bytes, writer.waiting_bytes);
        assert!((BYTES_IN_MEMORY / 2..=BYTES_IN_MEMORY).contains(&bytes), "{bytes}");
        assert_eq!(writer.newest(), 2000);
    }

    /// A cursor is what somebody follows the journal by.
    #[test]
    fn cursors_go_on_after_a_disk_that_was_full() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::default();
        writer.open(folder.path().to_owned(), Limits::default());
        let segment = folder.path().join(format!("{:020}.jsonl", 1));
        symlink("/dev/full", &segment).unwrap();
        for number in 0..3000 {
            writer.append(parse_line("a", &format!("{number}"), 1));
        }
        writer.flush();
        let query = |after| JournalQuery { after, limit: 1000, ..JournalQuery::default() };
        let seen = writer.query(&query(0)).unwrap().cursor;
        std::fs::remove_file(&segment).unwrap();
        writer.failed_at = Some(Instant::now().checked_sub(RETRY).unwrap());
        writer.flush();
        writer.append(parse_line("a", "after", 1));
        writer.flush();
        let page = writer.query(&query(seen)).unwrap();
        let texts: Vec<&str> = page.records.iter().map(|r| r.message.as_str()).collect();
        // The record about the full disk made one give way, too.
        assert_eq!(texts, ["journal is written again; 953 records were lost", "after"]);
        let kept = writer.query(&query(seen - 1)).unwrap();
        assert_eq!(kept.records.first().map(|r| r.cursor), Some(seen));
    }
}
