//! What must hold for any bytes in the place of a partition table. Shared by the fuzz target and the
//! test that replays its corpus.
use bytemuck::{bytes_of, pod_read_unaligned};
use gpt_disk_types::{Crc32, GptHeader};
use portcullis_bootloader::disk::{Disk, DiskError};
use portcullis_bootloader::gpt::Layout;
use portcullis_bootstate::Slot;

/// A disk of 64 blocks that begins with the bytes given.
struct Bytes {
    bytes: Vec<u8>,
    block_size: usize,
}

pub fn run(data: &[u8]) {
    for block_size in [512, 4096] {
        let mut bytes = data.to_vec();
        bytes.resize(64 * block_size, 0);
        check(&mut Bytes { bytes: bytes.clone(), block_size });
        // With the checksums made right, so that what is behind them is reached.
        if let Some(()) = make_checksums_right(&mut bytes, block_size) {
            check(&mut Bytes { bytes, block_size });
        }
    }
}

fn check(disk: &mut Bytes) {
    if let Ok(layout) = Layout::read(disk) {
        let slots = Slot::ALL.map(|slot| layout.slot(slot));
        for partition in slots.into_iter().chain([layout.state]).flatten() {
            assert!(partition.blocks >= 1);
            assert!(partition.first + partition.blocks <= disk.blocks());
            let _ = partition.read(disk, 0, disk.block_size, |_| {}).expect("inside of the disk");
            let size = partition.size(disk);
            assert!(partition.read(disk, size, 1, |_| {}).is_err());
        }
    }
}

fn make_checksums_right(bytes: &mut [u8], block_size: usize) -> Option<()> {
    let place = block_size..block_size + size_of::<GptHeader>();
    let mut header: GptHeader = pod_read_unaligned(bytes.get(place.clone())?);
    let layout = header.get_partition_entry_array_layout().ok()?;
    let start = usize::try_from(layout.start_lba.to_u64()).ok()?.checked_mul(block_size)?;
    let array = bytes.get(start..start.checked_add(layout.num_bytes_exact_as_usize()?)?)?;
    let sum = crc::Crc::<u32>::new(&Crc32::ALGORITHM).checksum(array);
    header.partition_entry_array_crc32 = Crc32(gpt_disk_types::U32Le::from_u32(sum));
    header.update_header_crc32();
    bytes.get_mut(place)?.copy_from_slice(bytes_of(&header));
    Some(())
}

impl Disk for Bytes {
    fn block_size(&self) -> u32 {
        self.block_size as u32
    }

    fn blocks(&self) -> u64 {
        (self.bytes.len() / self.block_size) as u64
    }

    fn read(&mut self, first: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let start = first as usize * self.block_size;
        buffer.copy_from_slice(&self.bytes[start..][..buffer.len()]);
        Ok(())
    }

    fn write(&mut self, first: u64, _: &[u8]) -> Result<(), DiskError> {
        panic!("reading a partition table writes block {first}");
    }
}
