//! The GUID partition table (UEFI 2.10, section 5.3): which blocks are which partition.
//!
//! Our partitions are found by type and name. The backup table at the end of the disk counts if the
//! primary one is damaged.
use crate::disk::{Disk, DiskError, Partition, read};
use bytemuck::pod_read_unaligned;
use gpt_disk_types::{BlockSize, GptHeader, GptPartitionEntry, GptPartitionEntryArray, Guid};
use portcullis_bootstate::{Slot, disk};

/// Largest partition array that is read, in bytes; the usual one has 16 KiB.
const MAX_ARRAY: u64 = 1 << 20;

/// The partitions of a Portcullis disk that booting needs, as far as they exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// The boot state.
    pub state: Option<Partition>,
    /// Slot a.
    pub slot_a: Option<Partition>,
    /// Slot b.
    pub slot_b: Option<Partition>,
    /// Whether the primary table is damaged and the backup was used.
    pub from_backup: bool,
}

/// Why there is no partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// The disk cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Neither table has the signature.
    #[error("no GUID partition table on the disk")]
    Missing,
    /// There was a table.
    #[error("partition table is damaged: {0}")]
    Damaged(&'static str),
}

impl Layout {
    /// Reads the partition table of `device`.
    ///
    /// # Errors
    /// What is wrong with the primary table, if the backup is not usable either.
    pub fn read(device: &mut impl Disk) -> Result<Self, GptError> {
        let primary = read_table(device, 1);
        let Err(error) = primary else { return primary };
        match read_table(device, device.blocks().saturating_sub(1)) {
            Ok(backup) => Ok(Self { from_backup: true, ..backup }),
            Err(_) => Err(error),
        }
    }

    /// The partition of a slot.
    #[must_use]
    pub const fn slot(&self, slot: Slot) -> Option<Partition> {
        match slot {
            Slot::A => self.slot_a,
            Slot::B => self.slot_b,
        }
    }
}

fn read_table(device: &mut impl Disk, header_block: u64) -> Result<Layout, GptError> {
    let block_size =
        BlockSize::new(device.block_size()).ok_or(GptError::Damaged("size of a block"))?;
    let header = read(device, header_block, device.block_size() as usize, |_| {})?;
    let header = header.bytes().get(..size_of::<GptHeader>()).ok_or(GptError::Missing)?;
    let header: GptHeader = pod_read_unaligned(header);
    if !header.is_signature_valid() {
        return Err(GptError::Missing);
    }
    if header.header_size.to_u32() as usize != size_of::<GptHeader>() {
        return Err(GptError::Damaged("size of the header"));
    }
    if header.header_crc32 != header.calculate_header_crc32() {
        return Err(GptError::Damaged("checksum of the header"));
    }
    if header.my_lba.to_u64() != header_block {
        return Err(GptError::Damaged("header is not in its place"));
    }

    let layout = header
        .get_partition_entry_array_layout()
        .map_err(|_| GptError::Damaged("size of the partition entries"))?;
    let array_size = layout.num_bytes_exact().filter(|size| (1..=MAX_ARRAY).contains(size));
    let array_size = array_size.ok_or(GptError::Damaged("size of the partition array"))?;
    let array_blocks = array_size.div_ceil(block_size.to_u64());
    let end = layout.start_lba.to_u64().checked_add(array_blocks);
    if end.is_none_or(|end| end > device.blocks()) {
        return Err(GptError::Damaged("place of the partition array"));
    }
    let size = (array_blocks * block_size.to_u64()) as usize;
    let mut array = read(device, layout.start_lba.to_u64(), size, |_| {})?;
    let array = GptPartitionEntryArray::new(layout, block_size, array.bytes_mut())
        .map_err(|_| GptError::Damaged("size of the partition array"))?;
    if header.partition_entry_array_crc32 != array.calculate_crc32() {
        return Err(GptError::Damaged("checksum of the partition array"));
    }

    let mut found = Layout::default();
    for entry in (0..layout.num_entries).filter_map(|index| array.get_partition_entry(index)) {
        let Some(place) = place_of(&mut found, entry) else { continue };
        let (first, last) = (entry.starting_lba.to_u64(), entry.ending_lba.to_u64());
        if last < first || last >= device.blocks() {
            return Err(GptError::Damaged("a partition is not inside of the disk"));
        }
        // Of two partitions with the same name the first counts.
        place.get_or_insert(Partition { first, blocks: last - first + 1 });
    }
    Ok(found)
}

/// Where the partition of an entry belongs in the layout, if it is one of ours.
fn place_of<'a>(
    layout: &'a mut Layout,
    entry: &GptPartitionEntry,
) -> Option<&'a mut Option<Partition>> {
    let (kind, name) = (entry.partition_type_guid.0, entry.name);
    let is = |ours: disk::Partition| kind == guid(ours.kind) && name.chars().eq(ours.name.chars());
    match () {
        () if is(disk::STATE) => Some(&mut layout.state),
        () if is(disk::SLOT_A) => Some(&mut layout.slot_a),
        () if is(disk::SLOT_B) => Some(&mut layout.slot_b),
        () => None,
    }
}

/// A GUID as it stands on the disk: its first three fields are little-endian (UEFI 2.10, appendix A).
const fn guid(printed: u128) -> Guid {
    let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = printed.to_be_bytes();
    let [d0, d1, d2, d3, d4, d5, d6, d7] = rest;
    Guid::from_bytes([a3, a2, a1, a0, b1, b0, c1, c0, d0, d1, d2, d3, d4, d5, d6, d7])
}
