//! Growing the last partition of a GPT to the end of its disk.
//!
//! An image is smaller than the disk that it is written to: its second table is in the middle.
//! Both tables are written anew for the whole disk, with the partition's end moved; nothing else
//! in them changes.

use std::{fs::File, io, os::fd::AsFd};

use gpt::{GptConfig, disk::LogicalBlockSize};
use rustix::ioctl::{Setter, ioctl, opcode};

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

/// Grows `partition`, which must be the last on its disk, as far as the disk goes, and tells the
/// kernel. Returns whether it did.
///
/// # Errors
/// If the table is damaged or the partition not the last one, and when the disk fails.
pub fn grow_partition(partition: &Partition) -> io::Result<bool> {
    let path = partition.disk_node();
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let mut disk = File::options().read(true).write(true).open(&path).map_err(named)?;
    let size = io::Seek::seek(&mut disk, io::SeekFrom::End(0)).map_err(named)?;
    let sector = sector_size(&partition.disk);
    let Some((start, length)) =
        grow_table(&mut disk, sector, partition.number, size).map_err(named)?
    else {
        return Ok(false);
    };
    disk.sync_all().map_err(named)?;
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

/// Writes the tables, if worth the while; returns the partition's new start and length in bytes.
fn grow_table<D>(
    disk: &mut D,
    sector: LogicalBlockSize,
    number: u32,
    size: u64,
) -> io::Result<Option<(u64, u64)>>
where
    D: gpt::DiskDevice,
{
    let invalid = |e: gpt::GptError| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(sector)
        .readonly_backup(false)
        .open_from_device(&mut *disk)
        .map_err(invalid)?;
    let mut partitions = table.partitions().clone();
    let last = partitions.values().map(|p| p.last_lba).max();
    let Some(partition) = partitions.get_mut(&number) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no partition {number}")));
    };
    if Some(partition.last_lba) != last {
        return Err(io::Error::other(format!("partition {number} is not the last one")));
    }
    let bytes = sector.as_u64();
    let start = partition.first_lba.saturating_mul(bytes);
    let end = partition.last_lba.saturating_add(1).saturating_mul(bytes);
    let Some(new_end) = new_end(start, end, size) else { return Ok(None) };
    partition.last_lba = (new_end / bytes).saturating_sub(1);
    // Builds both headers from the disk's real size.
    table.update_partitions(partitions).map_err(invalid)?;
    let disk = table.write().map_err(invalid)?;
    let last_sector = u32::try_from(size / bytes - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(last_sector)
        .overwrite_lba0(&mut *disk)
        .map_err(|e| io::Error::other(e.to_string()))?;
    Ok(Some((start, new_end - start)))
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
        io::Write,
        process::{Command, Stdio},
    };

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
        assert_eq!(grown, Some((31 * MIB, (499 - 31) * MIB)));
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
