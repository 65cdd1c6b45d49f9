//! The partitions of the disk that was booted, by their names in the GPT.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use portcullis_bootstate::{Slot, disk};
use portcullis_bundle::{Manifest, TRAILER_SIZE};

/// A partition as the kernel sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Partition {
    /// Name in the GPT.
    pub name: String,
    /// Kernel device: `vda3`.
    pub device: String,
    /// Kernel device of the disk that it is on: `vda`.
    pub disk: String,
    /// Number in the table, from 1.
    pub number: u32,
    /// Size in bytes.
    pub size: u64,
}

impl Partition {
    /// Its device node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.device)
    }

    /// Its disk's device node.
    pub fn disk_node(&self) -> PathBuf {
        Path::new("/dev").join(&self.disk)
    }

    /// Its slot, if it is one.
    pub fn slot(&self) -> Option<Slot> {
        match &*self.name {
            name if name == disk::SLOT_A.name => Some(Slot::A),
            name if name == disk::SLOT_B.name => Some(Slot::B),
            _ => None,
        }
    }

    /// Reads the manifest of a slot. It is only as good as the comparison of its root hash with a
    /// trusted one: its signature is not checked here.
    ///
    /// # Errors
    /// If the partition cannot be read or holds no manifest that fits it.
    pub fn manifest(&self) -> Result<Manifest, SlotError> {
        let read = |source| SlotError::Read { device: self.device.clone(), source };
        let mut trailer = vec![0; TRAILER_SIZE];
        let offset = self.size.saturating_sub(trailer.len().try_into().unwrap_or(u64::MAX));
        File::open(self.node())
            .and_then(|file| file.read_exact_at(&mut trailer, offset))
            .map_err(read)?;
        let decoded = Manifest::decode(&trailer).and_then(|manifest| {
            manifest.check_fits(self.size)?;
            Ok(manifest)
        });
        decoded.map_err(|e| SlotError::Manifest {
            device: self.device.clone(),
            message: e.to_string(),
        })
    }
}

/// A slot that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The device failed.
    #[error("{device}: {source}")]
    Read {
        /// Device.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It holds no blob.
    #[error("{device}: {message}")]
    Manifest {
        /// Device.
        device: String,
        /// Why.
        message: String,
    },
}

/// All partitions with a name, in order of their devices.
///
/// # Errors
/// If `sys` (normally /sys) has no list of block devices.
pub fn partitions(sys: &Path) -> io::Result<Vec<Partition>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sys.join("class/block"))? {
        if let Some(partition) = read(&entry?.path()) {
            found.push(partition);
        }
    }
    found.sort_by(|a, b| a.device.cmp(&b.device));
    Ok(found)
}

fn read(folder: &Path) -> Option<Partition> {
    let uevent = fs::read_to_string(folder.join("uevent")).ok()?;
    let field =
        |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    // The entry is a link into the folder of the disk: .../block/vda/vda3.
    let path = fs::canonicalize(folder).ok()?;
    let disk = path.parent()?.file_name()?.to_str()?.to_owned();
    let sectors: u64 = fs::read_to_string(folder.join("size")).ok()?.trim().parse().ok()?;
    Some(Partition {
        name: field("PARTNAME")?.to_owned(),
        device: field("DEVNAME")?.to_owned(),
        disk,
        number: field("PARTN")?.parse().ok()?,
        // The kernel counts in sectors of 512 bytes whatever the disk's are.
        size: sectors.checked_mul(512)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_read_from_sysfs() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/pci0000:00/block/vda");
        fs::create_dir_all(disk.join("vda3")).unwrap();
        fs::write(disk.join("uevent"), "MAJOR=254\nDEVNAME=vda\nDEVTYPE=disk\n").unwrap();
        fs::write(disk.join("size"), "4000000\n").unwrap();
        let text =
            "MAJOR=254\nMINOR=3\nDEVNAME=vda3\nDEVTYPE=partition\nPARTN=3\nPARTNAME=slot-a\n";
        fs::write(disk.join("vda3/uevent"), text).unwrap();
        fs::write(disk.join("vda3/size"), "1048576\n").unwrap();
        let class = sys.path().join("class/block");
        fs::create_dir_all(&class).unwrap();
        for (name, target) in [("vda", disk.clone()), ("vda3", disk.join("vda3"))] {
            std::os::unix::fs::symlink(target, class.join(name)).unwrap();
        }
        let found = partitions(sys.path()).unwrap();
        let expected = Partition {
            name: "slot-a".to_owned(),
            device: "vda3".to_owned(),
            disk: "vda".to_owned(),
            number: 3,
            size: 512 << 20,
        };
        assert_eq!(found, [expected]);
        assert_eq!(found[0].slot(), Some(Slot::A));
    }
}
