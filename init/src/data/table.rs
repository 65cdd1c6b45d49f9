//! Growing the last partition of a GPT to the end of its disk.
//!
//! An image is smaller than the disk that it is written to: its second table is in the middle.
//! Both tables are written anew for the whole disk, with the partition's end moved; nothing else
//! in them changes. The second one is on the disk before the first is touched, so that there is a
//! whole one where firmware, boot manager and kernel look for it whenever the power fails.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::AsFd,
};

use gpt::{DiskDevice, GptConfig, disk::LogicalBlockSize};
use rustix::ioctl::{Setter, ioctl, opcode};

use super::staged::Staged;
use crate::disk::Partition;

/// Partitions end on whole mebibytes.
const ALIGNMENT: u64 = 1 << 20;

/// Room for the second table at the end of the disk, rounded up to the alignment.
const SECOND_TABLE: u64 = 1 << 20;

/// Less than this is not worth writing tables for.
const LEAST_GAIN: u64 = 16 << 20;

/// Where a partition that begins at `start` may end (exclusive) on a disk of `disk` bytes, if
/// that is worth the while against its present `end`. All in bytes.
fn new_end(start: u64, end: u64, disk: u64) -> Option<u64> {
    let most = disk.checked_sub(SECOND_TABLE)? / ALIGNMENT * ALIGNMENT;
    (start < end && most >= end.checked_add(LEAST_GAIN)?).then_some(most)
}

/// A disk that knows what has reached its medium.
pub(super) trait Disk: DiskDevice {
    /// Returns when everything written is on the medium.
    fn sync(&mut self) -> io::Result<()>;
}

impl Disk for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// A partition whose table was written, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Written {
    start: u64,
    old_length: u64,
    length: u64,
}

/// Grows `partition`, which must be the last on its disk, as far as the disk goes, and tells the
/// kernel. Returns whether it did. A damaged one of the two tables is written anew in any case.
///
/// # Errors
/// If the table is damaged or the partition not the last one, and when the disk fails.
pub fn grow_partition(partition: &Partition) -> io::Result<bool> {
    let path = partition.disk_node();
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let mut disk = File::options().read(true).write(true).open(&path).map_err(named)?;
    let size = disk.seek(SeekFrom::End(0)).map_err(named)?;
    let sector = sector_size(&partition.disk);
    let written = grow_table(&mut disk, sector, partition.number, size).map_err(named)?;
    let Some(Written { start, old_length, length }) = written else { return Ok(false) };
    if length == old_length {
        tracing::warn!(disk = partition.disk, "one of the two partition tables was damaged");
        return Ok(false);
    }
    resize(&disk, partition.number, start, length).map_err(named)?;
    Ok(true)
}

/// Logical sectors of 4 KiB exist; the kernel says so.
fn sector_size(disk: &str) -> LogicalBlockSize {
    let path = format!("/sys/class/block/{disk}/queue/logical_block_size");
    match std::fs::read_to_string(path).unwrap_or_default().trim() {
        "4096" => LogicalBlockSize::Lb4096,
        _ => LogicalBlockSize::Lb512,
    }
}

/// Writes the tables, if worth the while.
fn grow_table<D: Disk>(
    disk: &mut D,
    sector: LogicalBlockSize,
    number: u32,
    size: u64,
) -> io::Result<Option<Written>> {
    let invalid = |e: gpt::GptError| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let bytes = sector.as_u64();
    for header in [bytes, size.saturating_sub(bytes)] {
        check_entries(disk, header)?;
    }
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(sector)
        .readonly_backup(false)
        .open_from_device(Staged::new(disk, size))
        .map_err(invalid)?;
    let whole = table.primary_header().is_ok() && table.backup_header().is_ok();
    let mut partitions = table.partitions().clone();
    let last = partitions.values().map(|p| p.last_lba).max();
    let Some(partition) = partitions.get_mut(&number) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no partition {number}")));
    };
    if Some(partition.last_lba) != last {
        return Err(io::Error::other(format!("partition {number} is not the last one")));
    }
    let start = partition.first_lba.saturating_mul(bytes);
    let end = partition.last_lba.saturating_add(1).saturating_mul(bytes);
    let new_end = match new_end(start, end, size) {
        Some(new_end) => new_end,
        None if whole => return Ok(None),
        None => end,
    };
    partition.last_lba = (new_end / bytes).saturating_sub(1);
    // Builds both headers from the disk's real size.
    table.update_partitions(partitions).map_err(invalid)?;
    let mut staged = table.write().map_err(invalid)?;
    let last_sector = u32::try_from(size / bytes - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(last_sector)
        .overwrite_lba0(&mut staged)
        .map_err(|e| io::Error::other(e.to_string()))?;
    // What is behind the partitions is the second table.
    staged.write_from(new_end)?;
    staged.write_from(0)?;
    let length = |end: u64| end.saturating_sub(start);
    Ok(Some(Written { start, old_length: length(end), length: length(new_end) }))
}

/// Refuses a table whose header, at this byte, tells of entries that no tool of ours writes: what
/// reads the table would not survive them.
fn check_entries(disk: &mut impl Disk, header: u64) -> io::Result<()> {
    let mut bytes = [0; 92];
    disk.seek(SeekFrom::Start(header))?;
    disk.read_exact(&mut bytes)?;
    let field = |at: usize| {
        bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let (count, size) = (field(80), field(84));
    if bytes.starts_with(b"EFI PART") && (size != 128 || !(1..=1024).contains(&count)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "partition table with {count} entries of {size} bytes; allowed are up to 1024 of 128"
            ),
        ));
    }
    Ok(())
}

/// `struct blkpg_partition` (linux/blkpg.h); the names are not used by the kernel here.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    size: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Tells the kernel the new size of a partition that may be in use.
fn resize(disk: impl AsFd, number: u32, start: u64, length: u64) -> io::Result<()> {
    const BLKPG: rustix::ioctl::Opcode = opcode::none(0x12, 105);
    const RESIZE_PARTITION: libc::c_int = 3;
    let too_large = |_| io::Error::other("a partition of this size cannot be");
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(too_large)?,
        length: length.try_into().map_err(too_large)?,
        number: number.try_into().map_err(too_large)?,
        names: [0; 128],
    };
    let argument = BlkpgArgument {
        operation: RESIZE_PARTITION,
        flags: 0,
        size: size_of::<BlkpgPartition>().try_into().map_err(too_large)?,
        data: &raw mut partition,
    };
    // SAFETY: both structures have the kernel's layout and live until the call returns.
    unsafe { ioctl(disk, Setter::<BLKPG, BlkpgArgument>::new(argument))? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        io::{Read, Write},
        process::{Command, Stdio},
    };

    use portcullis_bootloader::{disk::DiskError, gpt::Layout};
    use portcullis_bootstate::disk;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_disk_image_grows_to_the_disk_as_sfdisk_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut disk =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        disk.set_len(100 * MIB).unwrap();
        let mut sfdisk =
            Command::new("sfdisk").arg("-q").arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        let script = b"label: gpt\nstart=1MiB, size=30MiB, name=slot-a\nsize=64MiB, name=data, uuid=11111111-2222-3333-4444-555555555555\n";
        sfdisk.stdin.take().unwrap().write_all(script).unwrap();
        assert!(sfdisk.wait().unwrap().success());

        disk.set_len(500 * MIB).unwrap();
        let grown = grow_table(&mut disk, LogicalBlockSize::Lb512, 2, 500 * MIB).unwrap();
        let grown = grown.map(|w| (w.start, w.old_length, w.length));
        assert_eq!(grown, Some((31 * MIB, 64 * MIB, (499 - 31) * MIB)));
        let dump = Command::new("sfdisk").arg("--dump").arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert!(dump.stderr.is_empty(), "{dump:?}");
        for part in [
            "size=      958464",
            "name=\"data\"",
            "11111111-2222-3333-4444-555555555555",
            "name=\"slot-a\"",
            "start=        2048, size=       61440",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let verify = Command::new("sfdisk").arg("--verify").arg(&path).output().unwrap();
        assert!(String::from_utf8_lossy(&verify.stdout).contains("No errors"), "{verify:?}");
        // A second time there is nothing to do, and the first partition is not the last.
        assert_eq!(grow_table(&mut disk, LogicalBlockSize::Lb512, 2, 500 * MIB).unwrap(), None);
        assert!(grow_table(&mut disk, LogicalBlockSize::Lb512, 1, 500 * MIB).is_err());
    }

    /// A disk whose writes are in its cache until they are synced.
    #[derive(Debug, Clone, Default)]
    struct Cached {
        medium: Vec<u8>,
        /// Sectors that may or may not be on the medium when the power fails, in their order.
        cache: Vec<(usize, [u8; 512])>,
        at: usize,
        /// Sectors until then.
        left: usize,
    }

    impl Cached {
        /// The sector at this byte as it reads now.
        fn sector(&self, at: usize) -> [u8; 512] {
            let cached = self.cache.iter().rev().find(|(cached, _)| *cached == at);
            cached.map_or_else(|| self.medium[at..][..512].try_into().unwrap(), |(_, s)| *s)
        }

        /// What is left when of the sectors in the cache only those have become permanent that
        /// `kept` says true for.
        fn after_power_cut(mut self, kept: impl Fn(usize) -> bool) -> Vec<u8> {
            let mut number = 0;
            self.cache.retain(|_| {
                number += 1;
                kept(number)
            });
            self.sync().unwrap();
            self.medium
        }
    }

    impl Read for Cached {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let sector = self.sector(self.at / 512 * 512);
            let count = (&sector[self.at % 512..]).read(buffer)?;
            self.at += count;
            Ok(count)
        }
    }

    impl Write for Cached {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut sectors: BTreeMap<usize, [u8; 512]> = BTreeMap::new();
            for (at, byte) in (self.at..).zip(bytes) {
                let start = at / 512 * 512;
                sectors.entry(start).or_insert_with(|| self.sector(start))[at % 512] = *byte;
            }
            for sector in sectors {
                self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
                self.cache.push(sector);
            }
            self.at += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Cached {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.at = match to {
                SeekFrom::Start(at) => usize::try_from(at).unwrap(),
                SeekFrom::Current(by) => self.at.checked_add_signed(by as isize).unwrap(),
                SeekFrom::End(by) => self.medium.len().checked_add_signed(by as isize).unwrap(),
            };
            Ok(self.at as u64)
        }
    }

    impl Disk for Cached {
        fn sync(&mut self) -> io::Result<()> {
            for (at, sector) in std::mem::take(&mut self.cache) {
                self.medium[at..][..512].copy_from_slice(&sector);
            }
            Ok(())
        }
    }

    /// As the boot manager reads it.
    struct Bytes(Vec<u8>);

    impl portcullis_bootloader::disk::Disk for Bytes {
        fn block_size(&self) -> u32 {
            512
        }

        fn blocks(&self) -> u64 {
            self.0.len() as u64 / 512
        }

        fn read(&mut self, first: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
            buffer.copy_from_slice(&self.0[first as usize * 512..][..buffer.len()]);
            Ok(())
        }

        fn write(&mut self, first: u64, _: &[u8]) -> Result<(), DiskError> {
            panic!("block {first} is written")
        }
    }

    /// An image of 4 MiB on a disk of 24.
    fn flashed() -> Cached {
        let mut disk = Cached { medium: vec![0; 4 << 20], left: usize::MAX, ..Cached::default() };
        let mut table =
            GptConfig::new().writable(true).create_from_device(&mut disk, None).unwrap();
        let kind = |partition: disk::Partition| gpt::partition_types::Type {
            guid: format!("{:032x}", partition.kind).parse().unwrap(),
            os: gpt::partition_types::OperatingSystem::None,
        };
        for (partition, mib) in [(disk::SLOT_A, 1), (disk::DATA, 1)] {
            table.add_partition(partition.name, mib << 20, kind(partition), 0, None).unwrap();
        }
        table.write().unwrap();
        disk.sync().unwrap();
        disk.medium.resize(24 << 20, 0);
        disk
    }

    #[test]
    fn entries_that_nobody_writes_are_refused() {
        let mut disk = flashed();
        disk.medium[512 + 84] = 0;
        disk.medium[512 + 85] = 1;
        let error = grow_table(&mut disk, LogicalBlockSize::Lb512, 2, 24 * MIB).unwrap_err();
        assert!(error.to_string().contains("128 entries of 256 bytes"), "{error}");
    }

    #[test]
    fn a_damaged_table_is_written_anew_from_the_other() {
        let size = 24 * MIB;
        let grow = |disk: &mut Cached| {
            grow_table(disk, LogicalBlockSize::Lb512, 2, size)
                .unwrap()
                .map(|w| w.old_length == w.length)
        };
        let mut disk = flashed();
        assert_eq!(grow(&mut disk), Some(false));
        assert_eq!(grow(&mut disk), None);
        let good = disk.medium.clone();
        for byte in [512 + 40, good.len() - 512 + 40] {
            disk.medium[byte] ^= 1;
            assert_eq!(grow(&mut disk), Some(true));
            assert!(disk.medium == good);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_boot_manager_finds_the_slots_whenever_the_power_fails(
            left in 0_usize..90, kept: u128,
        ) {
            let mut disk = Cached { left, ..flashed() };
            let grown = grow_table(&mut disk, LogicalBlockSize::Lb512, 2, 24 * MIB);
            prop_assert!(grown.is_err() || left > 30, "the power did not fail");
            let after = disk.after_power_cut(|number| kept & (1 << (number % 128)) != 0);
            let layout = Layout::read(&mut Bytes(after));
            prop_assert!(layout.is_ok_and(|layout| layout.slot_a.is_some()), "{:?}", layout);
        }
    }

    proptest! {
        #[test]
        fn the_new_end_is_aligned_larger_and_leaves_room(
            start in 0..1_u64 << 40, length in 0..1_u64 << 40, disk in 0..1_u64 << 42,
        ) {
            if let Some(end) = new_end(start, start + length, disk) {
                prop_assert!(end >= start + length + LEAST_GAIN);
                prop_assert!(end + SECOND_TABLE <= disk && end % ALIGNMENT == 0);
            } else {
                prop_assert!(length == 0 || disk < start + length + LEAST_GAIN + SECOND_TABLE + ALIGNMENT);
            }
        }
    }
}
