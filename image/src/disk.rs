//! The disk image: GPT, ESP, boot state, slot a filled, slot b and data empty.

use anyhow::{Context, Result, ensure};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{OperatingSystem, Type};
use portcullis_bootstate::{BootState, disk};
use portcullis_bundle::TRAILER_SIZE;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use uuid::Uuid;

const SECTOR: u64 = 512;
/// Partitions start on whole mebibytes: a multiple of every erase block and sector size there is.
const ALIGNMENT: u64 = 1 << 20;
/// From this name the disk's own GUIDs follow, so that the same inputs give the same disk.
const NAMESPACE: Uuid = Uuid::from_u128(0xfa8e_4e77_921c_44ac_bf24_cc29_68f3_7e1f);

/// Where a partition lies on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it is.
    pub partition: disk::Partition,
    /// Its first byte.
    pub offset: u64,
}

/// Where the partitions of a new disk lie.
pub fn layout() -> Vec<Place> {
    let mut offset = ALIGNMENT;
    let mut places = Vec::new();
    for partition in disk::ALL {
        places.push(Place { partition, offset });
        offset = (offset + partition.size).next_multiple_of(ALIGNMENT);
    }
    places
}

/// Size of the disk image in bytes: the partitions, and a mebibyte for the second GPT.
pub fn size() -> u64 {
    layout().last().map_or(0, |last| last.offset + last.partition.size) + ALIGNMENT
}

/// Writes the disk image, sparse, to the empty file at `path`.
///
/// # Errors
/// When the slot does not fit its partition or writing fails.
pub fn write(path: &Path, esp: &[u8], slot: &[u8]) -> Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(size())?;
    write_table(&mut file).context("cannot write the partition table")?;
    for place in layout() {
        match place.partition {
            disk::ESP => {
                ensure!(
                    esp.len() as u64 == place.partition.size,
                    "the ESP has {} bytes",
                    esp.len()
                );
                write_sparse(&mut file, place.offset, esp)?;
            }
            disk::STATE => write_sparse(&mut file, place.offset, &BootState::flashed_records())?,
            disk::SLOT_A => write_slot(&mut file, place, slot)?,
            _ => {}
        }
    }
    file.sync_all()?;
    Ok(())
}

/// Puts the blob's body at the start of the slot and its trailer at the end.
fn write_slot(file: &mut File, place: Place, blob: &[u8]) -> Result<()> {
    let (body, trailer) = blob
        .split_last_chunk::<TRAILER_SIZE>()
        .context("the slot blob is shorter than its trailer")?;
    let room = place.partition.size - TRAILER_SIZE as u64;
    ensure!(
        body.len() as u64 <= room,
        "the slot blob has {} bytes, its partition has room for {room}",
        body.len()
    );
    write_sparse(file, place.offset, body)?;
    write_sparse(file, place.offset + room, trailer)
}

fn write_table(file: &mut File) -> Result<()> {
    let sectors = u32::try_from(size() / SECTOR)?;
    ProtectiveMBR::with_lb_size(sectors - 1).overwrite_lba0(file)?;
    let partitions: BTreeMap<u32, gpt::partition::Partition> = (1..)
        .zip(layout())
        .map(|(number, Place { partition, offset })| {
            let entry = gpt::partition::Partition {
                part_type_guid: Type {
                    guid: Uuid::from_u128(partition.kind),
                    os: OperatingSystem::None,
                },
                part_guid: Uuid::new_v5(&NAMESPACE, partition.name.as_bytes()),
                first_lba: offset / SECTOR,
                last_lba: (offset + partition.size) / SECTOR - 1,
                flags: 0,
                name: partition.name.to_owned(),
            };
            (number, entry)
        })
        .collect();
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .change_partition_count(true)
        .create_from_device(file, Some(Uuid::new_v5(&NAMESPACE, b"disk")))?;
    table.update_partitions(partitions)?;
    table.write()?;
    Ok(())
}

/// Writes what is not zero; the rest stays a hole.
fn write_sparse(file: &mut (impl Write + Seek), offset: u64, bytes: &[u8]) -> Result<()> {
    const BLOCK: usize = 4096;
    for (index, block) in (0_u64..).zip(bytes.chunks(BLOCK)) {
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(offset + index * BLOCK as u64))?;
            file.write_all(block)?;
        }
    }
    Ok(())
}

/// Reads the partition names and byte ranges of a disk image.
///
/// # Errors
/// When there is no valid GPT.
pub fn read_table(
    file: &mut (impl Read + Write + Seek + std::fmt::Debug),
) -> Result<Vec<(String, u64, u64)>> {
    let table =
        GptConfig::new().logical_block_size(LogicalBlockSize::Lb512).open_from_device(file)?;
    table
        .partitions()
        .values()
        .filter(|entry| entry.is_used())
        .map(|entry| {
            let block = LogicalBlockSize::Lb512;
            Ok((entry.name.clone(), entry.bytes_start(block)?, entry.bytes_len(block)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{layout, read_table, size, write};
    use crate::tool::Tool;
    use portcullis_bootstate::{BootState, PAIR_SIZE, decode_pair, disk};
    use portcullis_bundle::TRAILER_SIZE;
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    #[test]
    fn partitions_are_aligned_and_do_not_overlap() {
        let mut end = 1 << 20;
        for place in layout() {
            assert!(place.offset >= end && place.offset.is_multiple_of(1 << 20), "{place:?}");
            end = place.offset + place.partition.size;
        }
        assert!(end < size());
    }

    #[test]
    fn sfdisk_reads_the_table_and_everything_is_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut esp = vec![0; usize::try_from(disk::ESP.size).unwrap()];
        esp[5000] = 5;
        let mut blob = vec![0; 100_000 + TRAILER_SIZE];
        blob[0] = 1;
        blob[100_000] = 2;
        write(&path, &esp, &blob).unwrap();

        let sfdisk = Tool { program: "/usr/sbin/sfdisk", package: "fdisk" };
        let dump = sfdisk.text(sfdisk.command(["--verify", path.to_str().unwrap()])).unwrap();
        assert!(dump.contains("No errors detected"), "{dump}");
        let dump = sfdisk.text(sfdisk.command(["--dump", path.to_str().unwrap()])).unwrap();
        for (name, kind) in [
            ("esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
            ("state", "C7771DF2-D964-4BFB-894B-9E8837282C7F"),
            ("slot-a", "E247FCD7-DE8B-460E-9C40-99924F6F5C76"),
            ("slot-b", "E247FCD7-DE8B-460E-9C40-99924F6F5C76"),
            ("data", "20E0903C-8EE9-4059-909A-C7DE6FAAFFCF"),
        ] {
            let line =
                dump.lines().find(|line| line.contains(&format!("name=\"{name}\""))).unwrap();
            assert!(line.contains(&format!("type={kind}")), "{line}");
        }

        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        let table = read_table(&mut file).unwrap();
        let start = |name: &str| table.iter().find(|entry| entry.0 == name).unwrap().1;
        let byte = |offset: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            byte[0]
        };
        assert_eq!(byte(start("esp") + 5000), 5);
        assert_eq!(byte(start("slot-a")), 1);
        assert_eq!(byte(start("slot-b") - TRAILER_SIZE as u64), 2);
        let mut records = [0; PAIR_SIZE];
        file.read_exact_at(&mut records, start("state")).unwrap();
        let (first, second) = records.split_at(PAIR_SIZE / 2);
        assert_eq!(decode_pair(first, second).state, BootState::flashed());

        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20, "the image is not sparse");
    }

    #[test]
    fn a_blob_larger_than_the_slot_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let esp = vec![0; usize::try_from(disk::ESP.size).unwrap()];
        let blob = vec![0; usize::try_from(disk::SLOT_A.size).unwrap() + 1];
        let error = write(&folder.path().join("disk"), &esp, &blob).unwrap_err().to_string();
        assert!(error.contains("room for"), "{error}");
    }
}
