//! Leases on disk: one SQLite file, written before a client is told (RFC 2131 section 4.3.1).
//!
//! A disk that is full or failing must not stop the service: changes are kept in memory (one for
//! each address, so no more than there are leases) and written once the disk takes them again. A
//! damaged file is put aside and a new one begun.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use portcullis_model::Name;
use rusqlite::{Connection, ErrorCode, Row, params};

use crate::core::{ClientId, HardwareAddress, LeaseRecord, LeaseState};

/// Name of the file in the service's folder.
const FILE: &str = "leases.db";
/// What SQLite keeps beside it while it is open or after a crash.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];
/// Added to the name of a file that was put aside; an older one makes room.
const DAMAGED: &str = ".damaged";
/// `PRAGMA user_version` of the schema below.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS lease (
    address       INTEGER PRIMARY KEY,
    interface     TEXT NOT NULL,
    client_id     BLOB,
    hardware_type INTEGER NOT NULL,
    hardware      BLOB NOT NULL,
    hostname      TEXT,
    state         TEXT NOT NULL,
    ends_unix_s   INTEGER NOT NULL,
    lease_s       INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 1;
";

/// Why leases could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said so.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// SQLite's check found the file damaged.
    #[error("{path}: damaged: {found}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first thing found.
        found: String,
    },
    /// A newer release wrote the file.
    #[error("{path}: schema {found} is newer than {SCHEMA_VERSION}, the one of this release")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
    },
    /// A damaged file could not be put aside.
    #[error("{path}: cannot be put aside: {source}")]
    PutAside {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether the file is of no use, as against a disk that may work again.
    pub fn is_damage(&self) -> bool {
        match self {
            // The last two: a schema that is not ours, since our own statements have no errors.
            Self::Database { source, .. } => {
                matches!(
                    source.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
                ) || matches!(source, rusqlite::Error::SqlInputError { .. })
            }
            Self::Damaged { .. } | Self::Newer { .. } => true,
            Self::PutAside { .. } => false,
        }
    }
}

/// The file of leases.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Option<Connection>,
    /// What is to be written, by address; none: removed.
    unsaved: BTreeMap<Ipv4Addr, Option<LeaseRecord>>,
}

impl Store {
    /// Opens the file in `folder`, or begins a new one, and reads the leases. Never fails: what is
    /// wrong is logged, and leases are kept in memory as long as nothing can be written.
    pub fn open(folder: &Path) -> (Self, Vec<LeaseRecord>) {
        let path = folder.join(FILE);
        let mut store = Self { path, database: None, unsaved: BTreeMap::new() };
        let leases = store.connect().unwrap_or_else(|error| {
            tracing::error!(%error, "leases cannot be stored; they are kept in memory");
            Vec::new()
        });
        (store, leases)
    }

    /// Opens the file, a second time if it had to be put aside.
    fn connect(&mut self) -> Result<Vec<LeaseRecord>, StoreError> {
        let opened = match open(&self.path) {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "the file of leases is put aside and a new one begun");
                put_aside(&self.path)?;
                open(&self.path)?
            }
            opened => opened?,
        };
        let (database, leases) = opened;
        self.database = Some(database);
        Ok(leases)
    }

    /// Notes a lease to be written by the next [`Store::commit`].
    pub fn save(&mut self, lease: LeaseRecord) {
        self.unsaved.insert(lease.address, Some(lease));
    }

    /// Notes that nothing is to be kept for `address`.
    pub fn forget(&mut self, address: Ipv4Addr) {
        self.unsaved.insert(address, None);
    }

    /// Whether something is not on disk.
    pub fn pending(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Puts everything noted on disk, in one transaction; returns when the disk has it.
    ///
    /// # Errors
    /// If the disk did not take it: it stays noted. After [`StoreError::is_damage`] the file was
    /// lost; see [`Store::begin_anew`].
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if self.unsaved.is_empty() {
            return Ok(());
        }
        if self.database.is_none() {
            self.connect()?;
        }
        if let Some(database) = &mut self.database {
            write(database, &self.unsaved)
                .map_err(|source| StoreError::Database { path: self.path.clone(), source })?;
        }
        self.unsaved.clear();
        Ok(())
    }

    /// Puts the damaged file aside and writes `leases`, which are all, to a new one.
    ///
    /// # Errors
    /// If that cannot be done now; the leases stay noted.
    pub fn begin_anew(&mut self, leases: Vec<LeaseRecord>) -> Result<(), StoreError> {
        self.database = None;
        self.unsaved = leases.into_iter().map(|lease| (lease.address, Some(lease))).collect();
        put_aside(&self.path)?;
        self.commit()
    }
}

fn open(path: &Path) -> Result<(Connection, Vec<LeaseRecord>), StoreError> {
    let failed = |source| StoreError::Database { path: path.to_owned(), source };
    let database = Connection::open(path).map_err(failed)?;
    // FULL: a commit is on disk before the client hears of it, also if the power fails then.
    // EXCLUSIVE: nobody else opens the file, and SQLite needs no shared memory for the log.
    // What is set here writes nothing to a file that exists, so it is read from a full disk too.
    database
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 256;
             PRAGMA journal_size_limit = 1048576; PRAGMA cache_size = -256;
             PRAGMA temp_store = MEMORY;",
        )
        .map_err(failed)?;
    let found: String =
        database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found != "ok" {
        return Err(StoreError::Damaged { path: path.to_owned(), found });
    }
    let version: i64 =
        database.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    match version {
        SCHEMA_VERSION => {}
        0 => database.execute_batch(SCHEMA).map_err(failed)?,
        found => return Err(StoreError::Newer { path: path.to_owned(), found }),
    }
    let leases = read(&database).map_err(failed)?;
    Ok((database, leases))
}

fn put_aside(path: &Path) -> Result<(), StoreError> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let failed = |source| StoreError::PutAside { path: path.to_owned(), source };
    let missing_is_fine = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    };
    missing_is_fine(std::fs::rename(path, with(DAMAGED)))?;
    for companion in COMPANIONS {
        // The log of the old file must not be played into the new one.
        let kept = format!("{DAMAGED}{companion}");
        missing_is_fine(std::fs::rename(with(companion), with(&kept)))?;
    }
    Ok(())
}

fn write(
    database: &mut Connection,
    changes: &BTreeMap<Ipv4Addr, Option<LeaseRecord>>,
) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    {
        let mut save = transaction.prepare_cached(
            "INSERT OR REPLACE INTO lease (address, interface, client_id, hardware_type, hardware,
             hostname, state, ends_unix_s, lease_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        let mut forget = transaction.prepare_cached("DELETE FROM lease WHERE address = ?1")?;
        for (address, change) in changes {
            let Some(lease) = change else {
                forget.execute([u32::from(*address)])?;
                continue;
            };
            let client_id = match &lease.client {
                ClientId::Option(octets) => Some(octets.as_slice()),
                ClientId::Hardware(_) => None,
            };
            save.execute(params![
                u32::from(*address),
                lease.interface.as_str(),
                client_id,
                lease.hardware.kind(),
                lease.hardware.octets(),
                lease.hostname.as_ref().map(|name| name.as_str()),
                lease.state.as_str(),
                i64::try_from(lease.ends_unix_s).unwrap_or(i64::MAX),
                lease.lease_s,
            ])?;
        }
    }
    transaction.commit()
}

fn read(database: &Connection) -> rusqlite::Result<Vec<LeaseRecord>> {
    let mut query = database.prepare(
        "SELECT address, interface, client_id, hardware_type, hardware, hostname, state,
         ends_unix_s, lease_s FROM lease ORDER BY address",
    )?;
    let mut leases = Vec::new();
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match lease(row) {
            Ok(Some(lease)) => leases.push(lease),
            Ok(None) => tracing::warn!("a stored lease makes no sense and is left out"),
            Err(error) => tracing::warn!(%error, "a stored lease is left out"),
        }
    }
    Ok(leases)
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Option<LeaseRecord>> {
    let hardware: Vec<u8> = row.get(4)?;
    let Some(hardware) = HardwareAddress::new(row.get(3)?, &hardware) else { return Ok(None) };
    let client = match row.get::<_, Option<Vec<u8>>>(2)? {
        Some(octets) => ClientId::Option(octets),
        None => ClientId::Hardware(hardware.clone()),
    };
    let interface: String = row.get(1)?;
    let state: String = row.get(6)?;
    let (Ok(interface), Some(state)) = (interface.parse::<Name>(), LeaseState::from_word(&state))
    else {
        return Ok(None);
    };
    Ok(Some(LeaseRecord {
        address: Ipv4Addr::from(row.get::<_, u32>(0)?),
        interface,
        client,
        hardware,
        hostname: row.get::<_, Option<String>>(5)?.and_then(|name| name.parse().ok()),
        state,
        ends_unix_s: u64::try_from(row.get::<_, i64>(7)?).unwrap_or(0),
        lease_s: row.get(8)?,
    }))
}

#[cfg(test)]
mod tests;
