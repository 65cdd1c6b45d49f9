//! The lease kept over restarts: one small file for each interface.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use portcullis_model::{MacAddress, Name};
use serde::{Deserialize, Serialize};

use super::{
    lease::{Grant, Lease, Time},
    machine::Remembered,
};

/// What the clocks say at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Time of the state machine.
    pub now: Time,
    /// The kernel's random number of this boot; empty if it cannot be read.
    pub boot_id: String,
    /// Seconds since the Unix epoch; may jump.
    pub unix_s: u64,
}

/// The file's contents.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    grant: Grant,
    mac: MacAddress,
    boot_id: String,
    obtained_ms: u64,
    obtained_unix_s: u64,
}

impl Record {
    /// A record of `lease`.
    pub fn new(lease: &Lease, mac: MacAddress, clocks: &Clocks) -> Self {
        let age = clocks.now.saturating_sub(lease.obtained);
        Self {
            grant: lease.grant.clone(),
            mac,
            boot_id: clocks.boot_id.clone(),
            obtained_ms: u64::try_from(lease.obtained.as_millis()).unwrap_or(u64::MAX),
            obtained_unix_s: clocks.unix_s.saturating_sub(age.as_secs()),
        }
    }

    /// What the record is worth now; none if it is of another NIC or has run out.
    ///
    /// Within one boot the kernel's clock measures its age exactly. After a reboot only the wall
    /// clock can, and it may be wrong: then the address is asked for, but not used unasked.
    pub fn recall(self, mac: MacAddress, clocks: &Clocks) -> Option<Remembered> {
        // What is not known is not the same.
        let in_use = self.boot_id == clocks.boot_id && !self.boot_id.is_empty();
        let obtained = if in_use {
            Duration::from_millis(self.obtained_ms)
        } else {
            let age = Duration::from_secs(clocks.unix_s.saturating_sub(self.obtained_unix_s));
            clocks.now.saturating_sub(age)
        };
        let lease = Lease { grant: self.grant, obtained };
        (self.mac == mac && obtained <= clocks.now && !lease.expired(clocks.now))
            .then_some(Remembered { lease, in_use })
    }
}

/// A lease file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct StoreError {
    path: PathBuf,
    source: io::Error,
}

/// The file of `interface` in the service's state folder.
pub fn path(folder: &Path, interface: &Name) -> PathBuf {
    folder.join(format!("lease-{interface}.json"))
}

/// Reads a record; none if there is none.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn load(path: &Path) -> Result<Option<Record>, StoreError> {
    let error = |source| StoreError { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| error(io::Error::new(io::ErrorKind::InvalidData, source))),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error(source)),
    }
}

/// Writes a record so that a power cut leaves the old one or the new one.
///
/// # Errors
/// What the file system says.
pub fn save(path: &Path, record: &Record) -> Result<(), StoreError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_folder(path)
    };
    write().map_err(|source| StoreError { path: path.to_owned(), source })
}

/// Removes the record.
///
/// # Errors
/// What the file system says.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    fn lease() -> Lease {
        let grant = Grant {
            address: "10.9.0.100/24".parse().unwrap(),
            server: Ipv4Addr::new(10, 9, 0, 1),
            lease_s: 3600,
            renewal_s: 1800,
            rebinding_s: 3150,
            routes: vec![("0.0.0.0/0".parse().unwrap(), Some(Ipv4Addr::new(10, 9, 0, 1)))],
            dns: vec![Ipv4Addr::new(9, 9, 9, 9)],
            ntp: Vec::new(),
            domain: Some("example.net".into()),
            mtu: Some(1400),
        };
        Lease { grant, obtained: Duration::from_secs(10_000) }
    }

    fn clocks(now: u64, boot_id: &str, unix_s: u64) -> Clocks {
        Clocks { now: Duration::from_secs(now), boot_id: boot_id.to_owned(), unix_s }
    }

    fn record() -> Record {
        Record::new(&lease(), MAC, &clocks(10_100, "one", 1_000_100))
    }

    #[test]
    fn within_a_boot_the_lease_is_as_it_was_however_the_wall_clock_jumps() {
        for unix_s in [0, 1_000_200, 9_000_000] {
            let remembered = record().recall(MAC, &clocks(13_599, "one", unix_s)).unwrap();
            assert_eq!(remembered, Remembered { lease: lease(), in_use: true });
        }
        assert_eq!(record().recall(MAC, &clocks(13_600, "one", 0)), None, "it ran out");
    }

    #[test]
    fn after_a_reboot_the_wall_clock_counts_and_the_address_is_not_used_unasked() {
        let remembered = record().recall(MAC, &clocks(5_000, "two", 1_000_300)).unwrap();
        // Obtained at 1,000,000, which is 300 s ago.
        assert_eq!(remembered.lease.obtained, Duration::from_secs(4_700));
        assert!(!remembered.in_use);
        assert_eq!(record().recall(MAC, &clocks(5_000, "two", 1_003_600)), None, "it ran out");
        // A clock without battery: the address may at least be asked for.
        assert!(record().recall(MAC, &clocks(5_000, "two", 0)).is_some_and(|r| !r.in_use));
    }

    #[test]
    fn two_boots_that_are_not_known_are_not_the_same() {
        let record = Record::new(&lease(), MAC, &clocks(10_100, "", 1_000_100));
        let remembered = record.recall(MAC, &clocks(10_200, "", 1_000_200)).unwrap();
        assert!(!remembered.in_use);
    }

    #[test]
    fn another_nic_has_no_lease() {
        assert_eq!(record().recall(MacAddress([3; 6]), &clocks(10_200, "one", 0)), None);
    }

    #[test]
    fn a_record_is_kept_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), &"wan".parse().unwrap());
        assert_eq!(load(&path).unwrap(), None);
        save(&path, &record()).unwrap();
        save(&path, &record()).unwrap();
        assert_eq!(load(&path).unwrap(), Some(record()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        fs::write(&path, b"{\"grant\":").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("lease-wan.json"));
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
