//! Disks as a list of blocks, and the partitions on them.
use alloc::vec::Vec;
use bytemuck::{Pod, Zeroable};

/// A disk that is read and written in blocks.
pub trait Disk {
    /// Size of a block in bytes, usually 512 or 4096.
    fn block_size(&self) -> u32;

    /// Number of blocks.
    fn blocks(&self) -> u64;

    /// Fills `buffer`, a whole number of blocks at a page boundary, from block `first` on.
    ///
    /// # Errors
    /// If the device fails.
    fn read(&mut self, first: u64, buffer: &mut [u8]) -> Result<(), DiskError>;

    /// Writes `data`, a whole number of blocks at a page boundary, from block `first` on, and
    /// returns when it is on the medium.
    ///
    /// # Errors
    /// If the device fails or cannot be written.
    fn write(&mut self, first: u64, data: &[u8]) -> Result<(), DiskError>;
}

/// Why a disk cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The device answered with an error.
    #[error("cannot {doing} disk block {block} (status {status:#x})")]
    Device {
        /// `read` or `write`.
        doing: &'static str,
        /// First block of the request.
        block: u64,
        /// UEFI status code without its error bit.
        status: usize,
    },
    /// Outside of the partition or disk.
    #[error("byte {0} is outside of the partition")]
    OutOfRange(u64),
    /// The computer has too little memory to read that much.
    #[error("no memory to read {0} bytes")]
    NoMemory(usize),
}

/// Where a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// First block.
    pub first: u64,
    /// Number of blocks, at least 1.
    pub blocks: u64,
}

/// Bytes at a page boundary: any disk controller can transfer into them.
pub struct Buffer {
    pages: Vec<Page>,
    len: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

const PAGE: usize = 4096;

/// Largest single transfer in bytes. Large ones are fast; some drivers fail above their own limit.
const TRANSFER: usize = 2 << 20;

impl Buffer {
    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// If there is no memory for it: a slot may be larger than the memory of the computer, and that
    /// must lead to the other slot like any other fault.
    pub fn zeroed(len: usize) -> Result<Self, DiskError> {
        let count = len.div_ceil(PAGE);
        let mut pages = Vec::new();
        pages.try_reserve_exact(count).map_err(|_| DiskError::NoMemory(len))?;
        pages.resize(count, Page::zeroed());
        Ok(Self { pages, len })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.pages).get(..self.len).unwrap_or_default()
    }

    /// The bytes, to change them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.pages).get_mut(..self.len).unwrap_or_default()
    }
}

/// Reads `len` bytes from block `first` on and shows them, transfer by transfer, to `seen`.
///
/// # Errors
/// If the device fails.
pub fn read(
    disk: &mut impl Disk,
    first: u64,
    len: usize,
    mut seen: impl FnMut(&[u8]),
) -> Result<Buffer, DiskError> {
    let block_size = disk.block_size() as usize;
    let mut buffer = Buffer::zeroed(len.next_multiple_of(block_size))?;
    let mut left = len;
    let mut block = first;
    for transfer in buffer.bytes_mut().chunks_mut(TRANSFER) {
        disk.read(block, transfer)?;
        block += (transfer.len() / block_size) as u64;
        let wanted = transfer.get(..left).unwrap_or(transfer);
        left -= wanted.len();
        seen(wanted);
    }
    buffer.len = len;
    Ok(buffer)
}

impl Partition {
    /// Size in bytes.
    #[must_use]
    pub fn size(&self, disk: &impl Disk) -> u64 {
        self.blocks.saturating_mul(disk.block_size().into())
    }

    /// Reads `len` bytes from `offset` (a multiple of the block size) on, see [`read`].
    ///
    /// # Errors
    /// If that is not inside of the partition or the device fails.
    pub fn read(
        &self,
        disk: &mut impl Disk,
        offset: u64,
        len: usize,
        seen: impl FnMut(&[u8]),
    ) -> Result<Buffer, DiskError> {
        let first = self.block(disk, offset, len)?;
        read(disk, first, len, seen)
    }

    /// Writes `data` (a multiple of the block size) at `offset` (likewise).
    ///
    /// # Errors
    /// If that is not inside of the partition or the device fails.
    pub fn write(&self, disk: &mut impl Disk, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let first = self.block(disk, offset, data.len())?;
        let mut buffer = Buffer::zeroed(data.len())?;
        buffer.bytes_mut().copy_from_slice(data);
        disk.write(first, buffer.bytes())
    }

    /// The block of the disk where `len` bytes from `offset` on start.
    fn block(&self, disk: &impl Disk, offset: u64, len: usize) -> Result<u64, DiskError> {
        let block_size = u64::from(disk.block_size());
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.size(disk));
        match end {
            Some(_) if offset.is_multiple_of(block_size) => Ok(self.first + offset / block_size),
            _ => Err(DiskError::OutOfRange(offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_an_error() {
        let len = isize::MAX as usize - PAGE;
        assert_eq!(Buffer::zeroed(len).map(|_| ()), Err(DiskError::NoMemory(len)));
    }

    #[test]
    fn buffers_have_the_length_asked_for_and_start_at_a_page() {
        for len in [0, 1, 512, PAGE, PAGE + 1] {
            let mut buffer = Buffer::zeroed(len).unwrap();
            assert_eq!((buffer.bytes().len(), buffer.bytes_mut().len()), (len, len));
            assert!(buffer.bytes().as_ptr().addr().is_multiple_of(PAGE));
        }
    }
}
