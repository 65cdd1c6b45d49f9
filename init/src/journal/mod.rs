//! The journal: what services, the kernel and init say, as structured records, bounded, kept over
//! reboots.
//!
//! ```text
//! pipes of services --Lines--> parse --+
//! /dev/kmsg --------kernel-----------> +--> Allowance --> channel --> thread: Writer --> Store (segments)
//! tracing of init ---layer-----------> +                                 ^ queries
//! ```
//!
//! The thread keeps PID 1 from ever waiting for a disk: if the channel is full, records are
//! counted instead of kept. Until the data partition is there, and while it cannot be written,
//! records stay in memory, the oldest giving way. All of it is bounded in bytes.

mod allowance;
pub mod kernel;
mod layer;
mod lines;
mod record;
mod store;
mod writer;

pub use layer::JournalLayer;
pub use lines::Lines;
pub use record::{Level, Record};
pub use store::{Limits, Store};
pub use writer::Writer;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use portcullis_bus::init::{JournalPage, JournalQuery};
use tokio::sync::{oneshot, watch};

use allowance::Allowance;

/// Records that wait for the thread, and their bytes; a burst beyond is dropped and counted.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 4 << 20;

/// Pause before a full queue is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// How long written records may stay in the kernel's memory before they are on the disk.
const SYNC_PERIOD: Duration = Duration::from_secs(5);

/// The journal is not there any more, or its query cannot be carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("journal: {0}")]
pub struct JournalError(String);

#[derive(Debug)]
enum Message {
    Append(Record),
    Open(PathBuf, Limits),
    Query(JournalQuery, oneshot::Sender<Result<JournalPage, JournalError>>),
    Close(oneshot::Sender<()>),
}

/// The journal, to be written to and read; cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    newest: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Records that found no place in the queue and were not told yet.
    dropped: AtomicU64,
    /// Bytes of the records in the queue.
    queued: AtomicUsize,
    /// By writer.
    allowances: Mutex<BTreeMap<String, Allowance>>,
}

impl Journal {
    /// A journal in memory; [`open`](Self::open) gives it a disk.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start() -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let (newest_sender, newest) = watch::channel(0);
        let thread_shared = shared.clone();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || serve(&messages, &thread_shared, &newest_sender))?;
        Ok(Self { queue, shared, newest })
    }

    /// Keeps records in `folder` from now on, those so far included. Waits while the queue is full,
    /// which without a folder is never long: not for the thread of the supervisor.
    pub fn open(&self, folder: PathBuf, limits: Limits) {
        // The thread ends only with the last handle.
        let _ = self.queue.send(Message::Open(folder, limits));
    }

    /// Adds a record, if its writer has not added too much; its cursor is given by the journal.
    pub fn append(&self, record: Record) {
        let refused = {
            let now = crate::clock::since_start();
            let mut all = self.shared.allowances.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get_mut(&record.service) {
                Some(allowance) => allowance.take(now, record.size()),
                None => all
                    .entry(record.service.clone())
                    .or_insert_with(|| Allowance::new(now))
                    .take(now, record.size()),
            }
        };
        let Some(refused) = refused else { return };
        if refused > 0 {
            let text = format!("{refused} records of {} left out: too many", record.service);
            self.add(Record::of_init(Level::Warn, text));
        }
        self.add(record);
    }

    fn add(&self, record: Record) {
        let size = record.size();
        if self.shared.queued.fetch_add(size, Ordering::Relaxed) > QUEUE_BYTES
            || !self.send(Message::Append(record))
        {
            self.shared.queued.fetch_sub(size, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a line that `service` wrote to its standard error or output.
    pub fn service_line(&self, service: &str, line: &str) {
        self.append(record::parse_line(service, line, crate::clock::unix_ms()));
    }

    /// Cursor of the newest record, as it changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }

    /// Reads records.
    ///
    /// # Errors
    /// If the query asks for what there is not, or the disk cannot be read.
    pub async fn query(&self, query: JournalQuery) -> Result<JournalPage, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Query(query, reply));
        answer.await.map_err(|_| JournalError("too busy, try again".to_owned()))?
    }

    /// Brings everything to the disk and closes the files there; what comes later stays in memory.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        let mut message = Message::Close(reply);
        // Among the last words of all services the queue may be full; this one must not be lost.
        while let Err(TrySendError::Full(refused)) = self.queue.try_send(message) {
            message = refused;
            tokio::time::sleep(FULL_PAUSE).await;
        }
        let _ = done.await;
    }

    /// Returns whether there was a place for it.
    fn send(&self, message: Message) -> bool {
        !matches!(self.queue.try_send(message), Err(TrySendError::Full(_)))
    }
}

/// The thread's loop; ends with the last handle.
fn serve(messages: &Receiver<Message>, shared: &Shared, newest: &watch::Sender<u64>) {
    let mut writer = Writer::default();
    loop {
        let first = match messages.recv_timeout(SYNC_PERIOD) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // All that waits is written in one piece.
        for message in first.into_iter().chain(messages.try_iter().take(QUEUE)) {
            match message {
                Message::Append(record) => {
                    shared.queued.fetch_sub(record.size(), Ordering::Relaxed);
                    writer.append(record);
                }
                Message::Open(folder, limits) => writer.open(folder, limits),
                Message::Query(query, reply) => {
                    writer.flush();
                    let _ = reply.send(writer.query(&query).map_err(JournalError));
                }
                Message::Close(reply) => {
                    writer.close();
                    let _ = reply.send(());
                }
            }
        }
        let lost = shared.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            writer.append(Record::of_init(
                Level::Warn,
                format!("{lost} records lost: too many at once"),
            ));
        }
        writer.flush();
        writer.sync(SYNC_PERIOD);
        newest.send_if_modified(|n| std::mem::replace(n, writer.newest()) != writer.newest());
    }
}

#[cfg(test)]
mod tests;
