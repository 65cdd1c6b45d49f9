//! Records on disk: segments of JSON lines, named by the cursor of their first record.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use super::Record;

/// Ending of the segments' names.
const EXTENSION: &str = "jsonl";

/// What a cursor jumps by at each start. After a power cut, records that somebody has already
/// read may not have reached the disk; their cursors must not be given again.
const JUMP: u64 = 1 << 16;

/// How much is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Most bytes of a segment (a single record may exceed it).
    pub segment: u64,
    /// Most bytes of all segments; the oldest segment gives way.
    pub total: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment: 1 << 20, total: 16 << 20 }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Segment {
    first: u64,
    bytes: u64,
}

/// The segments of one folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    limits: Limits,
    /// Oldest first; the last is the one that is written.
    segments: VecDeque<Segment>,
    file: Option<File>,
    next: u64,
}

impl Store {
    /// Opens a folder, makes it if needed, and cuts off a last line that was torn by a power cut.
    ///
    /// # Errors
    /// With the path, if the folder cannot be made, listed or its newest segment repaired.
    pub fn open(folder: PathBuf, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(&folder).map_err(|e| with_path(&folder, &e))?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|e| with_path(&folder, &e))? {
            let entry = entry?;
            if let Some(first) = first_cursor(&entry.path()) {
                segments.push(Segment { first, bytes: entry.metadata()?.len() });
            }
        }
        segments.sort_by_key(|s| s.first);
        let mut store = Self { folder, limits, segments: segments.into(), file: None, next: 1 };
        let newest = store.repair_newest()?;
        if let Some(newest) = newest {
            store.next = newest.saturating_add(JUMP);
        }
        store.drop_oldest()?;
        Ok(store)
    }

    /// Cursor that the next record gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Adds the first of `records` in one write, as many as the segment takes, but one at least.
    /// Cursors are those of the records, or higher if they were given before. Returns how many they
    /// are.
    ///
    /// # Errors
    /// If nothing of them was kept: disk full, read-only or gone.
    pub fn append(&mut self, records: &mut [Record]) -> io::Result<usize> {
        let mut cursor = self.next;
        let mut bytes = Vec::new();
        let mut count = 0;
        let mut room = 0;
        for record in records.iter_mut() {
            record.cursor = record.cursor.max(cursor);
            let start = bytes.len();
            serde_json::to_writer(&mut bytes, record)?;
            bytes.push(b'\n');
            if count == 0 {
                room = self.rotate_for(length(&bytes))?;
            } else if length(&bytes) > room {
                bytes.truncate(start);
                break;
            }
            cursor = record.cursor.saturating_add(1);
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let (Some(file), Some(segment)) = (self.file.as_mut(), self.segments.back_mut()) else {
            return Err(io::Error::other("no segment"));
        };
        if let Err(error) = file.write_all(&bytes) {
            // A part of it may be there; a torn line would swallow the next.
            let _ = file.set_len(segment.bytes);
            self.file = None;
            return Err(error);
        }
        segment.bytes += length(&bytes);
        self.next = cursor;
        Ok(count)
    }

    /// Waits until everything added is on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Calls `take` with the records after `cursor`, oldest first, until it returns false. Lines
    /// that are no records (damaged by hand or by the disk) are passed over.
    ///
    /// # Errors
    /// If a segment cannot be read.
    pub fn read_after(&self, cursor: u64, mut take: impl FnMut(Record) -> bool) -> io::Result<()> {
        let skip = self.segments.iter().rposition(|s| s.first <= cursor.saturating_add(1));
        for segment in self.segments.iter().skip(skip.unwrap_or(0)) {
            for record in self.records(*segment)?.filter(|r| r.cursor > cursor) {
                if !take(record) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Calls `take` with all records, newest first, until it returns false.
    ///
    /// # Errors
    /// If a segment cannot be read.
    pub fn read_newest(&self, mut take: impl FnMut(Record) -> bool) -> io::Result<()> {
        for segment in self.segments.iter().rev() {
            let records: Vec<Record> = self.records(*segment)?.collect();
            for record in records.into_iter().rev() {
                if !take(record) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn records(&self, segment: Segment) -> io::Result<impl Iterator<Item = Record> + use<>> {
        let path = self.path(segment.first);
        let file = match File::open(&path) {
            Ok(file) => file,
            // Deleted by hand.
            Err(e) if e.kind() == io::ErrorKind::NotFound => File::open("/dev/null")?,
            Err(e) => return Err(with_path(&path, &e)),
        };
        Ok(BufReader::new(file)
            .split(b'\n')
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_slice(&line).ok()))
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}.{EXTENSION}"))
    }

    /// Cursor of the newest record on disk; removes what follows the last whole line.
    fn repair_newest(&mut self) -> io::Result<Option<u64>> {
        let Some(segment) = self.segments.back().copied() else { return Ok(None) };
        let path = self.path(segment.first);
        let bytes = fs::read(&path).map_err(|e| with_path(&path, &e))?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            let file =
                OpenOptions::new().write(true).open(&path).map_err(|e| with_path(&path, &e))?;
            file.set_len(u64::try_from(whole).unwrap_or(0)).map_err(|e| with_path(&path, &e))?;
        }
        if let Some(last) = self.segments.back_mut() {
            last.bytes = u64::try_from(whole).unwrap_or(0);
        }
        let newest = self.records(segment)?.map(|r| r.cursor).max();
        Ok(newest.or(Some(segment.first)))
    }

    /// Opens the segment that takes `length` more bytes: the newest, or a new one. Returns how many
    /// it takes at most.
    fn rotate_for(&mut self, length: u64) -> io::Result<u64> {
        let fits = self
            .segments
            .back()
            .is_some_and(|s| s.bytes == 0 || s.bytes.saturating_add(length) <= self.limits.segment);
        if !fits {
            if let Some(file) = self.file.take() {
                file.sync_data()?;
            }
            self.segments.push_back(Segment { first: self.next, bytes: 0 });
            self.drop_oldest()?;
        }
        if self.file.is_none()
            && let Some(segment) = self.segments.back().copied()
        {
            let path = self.path(segment.first);
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            match opened {
                Ok(file) => self.file = Some(file),
                Err(error) => {
                    if segment.bytes == 0 {
                        self.segments.pop_back();
                    }
                    return Err(with_path(&path, &error));
                }
            }
        }
        let written = self.segments.back().map_or(0, |segment| segment.bytes);
        Ok(self.limits.segment.saturating_sub(written))
    }

    fn drop_oldest(&mut self) -> io::Result<()> {
        // Room for the newest segment to grow to its limit is part of the total.
        let room = self.limits.total.saturating_sub(self.limits.segment);
        while self.segments.len() > 1 && self.segments.iter().map(|s| s.bytes).sum::<u64>() > room {
            if let Some(oldest) = self.segments.pop_front() {
                let path = self.path(oldest.first);
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(with_path(&path, &e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn first_cursor(path: &Path) -> Option<u64> {
    (path.extension()? == EXTENSION).then_some(())?;
    path.file_stem()?.to_str()?.parse().ok()
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
